"""ONNX -> TensorRT plan: strongly typed, so that the graph alone decides the precision of every layer."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrise.runtime.documents import read_file, sha256_of
from rrise.runtime.engines.cuda import find_gpu
from rrise.runtime.engines.external_data import refuse_external_data
from rrise.runtime.engines.tensorrt_module import Tensor, TensorRt, batch_buckets, check_tensors, load

_MAX_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class PlanConfig:
    """How TensorRT builds a plan.

    Raises
    ------
    ValueError
        If a field is out of range, the field named.
    """

    tf32: bool = field(
        default=False, metadata={"help": "let float32 products round their inputs to TF32's 10-bit mantissas"}
    )
    max_batch: int = field(default=64, metadata={"help": "largest batch that runs at once; larger ones run in parts"})
    opt_batch: int = field(default=1, metadata={"help": "batch that TensorRT makes fastest"})
    workspace_mib: int = field(
        default=0, metadata={"help": "MiB of GPU memory a layer may use for scratch; 0 is TensorRT's own limit"}
    )
    optimization_level: int = field(
        default=3, metadata={"help": "0 to 5: how long TensorRT searches for fast kernels; 3 is its own default"}
    )
    timing_cache: str = field(
        default="", metadata={"help": "file that keeps kernel timings from one build to the next; TensorRT only"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= 1 << 16:
            raise ValueError(f"max_batch: expected 1 to {1 << 16}, got {self.max_batch}. 64 is a good start.")
        if not 1 <= self.opt_batch <= self.max_batch:
            raise ValueError(f"opt_batch: expected 1 to max_batch={self.max_batch}, got {self.opt_batch}.")
        if not 0 <= self.workspace_mib < 1 << 30:
            raise ValueError(f"workspace_mib: expected 0 or more, got {self.workspace_mib}. 0 is TensorRT's own limit.")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level: expected 0 to 5, got {self.optimization_level}.")


@dataclass(frozen=True)
class Plan:
    """A plan and what is known of it.

    Parameters
    ----------
    data : bytes
        The plan: a file for `TensorRtEngine` or `TensorRtRtxEngine`.
    facts : dict
        ``version`` of the builder, ``gpu`` it was built for ("" if for any that TensorRT-RTX supports),
        ``onnx_sha256``, ``tf32``, ``max_batch``, ``opt_batch``, ``optimization_level`` and ``buckets``.
    """

    data: bytes
    facts: dict[str, Any]


def build_plan(kind: str, onnx: bytes, *, input_shape: tuple[int, int, int], config: PlanConfig | None = None) -> Plan:
    """Return the plan of an ONNX network: for this machine's first GPU, or by TensorRT-RTX ahead of time.

    Two builds of one network need not give the same plan, nor the same last bits: calibrate with the plan that serves.

    Parameters
    ----------
    kind : str
        "tensorrt" or "tensorrt-rtx".
    onnx : bytes
        The ONNX file. It must hold all its weights.
    input_shape : (C, H, W)
        Shape of one image.
    config : PlanConfig, optional

    Raises
    ------
    ValueError
        If the network is not from one float32 (N,C,H,W) of that shape to one float32 (N,K), or TensorRT cannot parse
        or build it; the message holds TensorRT's own words.
    RuntimeError
        If TensorRT finds no driver or GPU; TensorRT-RTX needs none to build.
    ImportError
        If the module is not installed.
    """
    config = config or PlanConfig()
    refuse_external_data(onnx)
    gpu = find_gpu().name if kind == "tensorrt" else ""  # before any object of TensorRT
    tensorrt = load(kind)
    if tensorrt.rtx and config.timing_cache:
        raise ValueError(
            f"timing_cache: expected none for {kind}, got {config.timing_cache!r}. It times nothing when it builds; "
            "leave it empty."
        )
    module, log = tensorrt.module, tensorrt.log
    builder = tensorrt.make(module.Builder, log)
    # TensorRT 10 asks for strong typing; from 11 on, and in TensorRT-RTX, there is nothing else.
    asked = tensorrt.version.startswith("10.")
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if asked else 0)
    parser = tensorrt.make(module.OnnxParser, network, log)
    _parse(parser, onnx, tensorrt)
    name, smallest, largest = _batches(network, input_shape, config)
    settings = _settings(builder, tensorrt, config)
    profile = builder.create_optimization_profile()
    optimum = min(max(config.opt_batch, smallest), largest)
    profile.set_shape(name, *((batch, *input_shape) for batch in (smallest, optimum, largest)))
    mark = log.mark()
    if settings.add_optimization_profile(profile) < 0:
        raise ValueError(f"engine: expected a valid optimisation profile, got: {log.since(mark)}. Lower max_batch.")
    with _timing_cache(settings, tensorrt, config.timing_cache):
        mark = log.mark()
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise ValueError(
                f"engine: expected {kind} {tensorrt.version} to build the network, got: {log.since(mark)}. "
                "Change that layer, or export for another engine."
            )
    facts = {
        "version": tensorrt.version,
        "gpu": gpu,
        "onnx_sha256": sha256_of(onnx),
        "tf32": config.tf32,
        "max_batch": largest,
        "opt_batch": optimum,
        "optimization_level": config.optimization_level,
        "buckets": list(batch_buckets(smallest, largest)),
    }
    return Plan(bytes(plan), facts)


def _parse(parser: Any, onnx: bytes, tensorrt: TensorRt) -> None:
    mark = tensorrt.log.mark()
    if parser.parse(onnx):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(
        f"{f'{error.node_operator()} {error.node_name()}'.strip() or 'model'}: {' '.join(error.desc().split())}"
        for error in errors
    )
    raise ValueError(
        f"engine: expected an ONNX network that {tensorrt.kind} {tensorrt.version} can parse, got: "
        f"{said[:600].rstrip('. ') or tensorrt.log.since(mark)}. Export with opset 20, int8 with symmetric Q/DQ."
    )


def _batches(network: Any, input_shape: tuple[int, int, int], config: PlanConfig) -> tuple[str, int, int]:
    """Return the input's name and the smallest and largest batch."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    batch, found, _ = check_tensors(
        *([Tensor.of(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors] for tensors in (inputs, outputs))
    )
    if found != tuple(input_shape):
        raise ValueError(
            f"engine: expected images {tuple(input_shape)}, got a network for {found}. Re-run rrise export."
        )
    return (inputs[0].name, 1, config.max_batch) if batch < 0 else (inputs[0].name, batch, batch)


def _settings(builder: Any, tensorrt: TensorRt, config: PlanConfig) -> Any:
    module = tensorrt.module
    settings = builder.create_builder_config()
    if config.tf32:
        settings.set_flag(module.BuilderFlag.TF32)
    else:
        settings.clear_flag(module.BuilderFlag.TF32)  # TensorRT has it on
    if tensorrt.rtx:
        settings.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else it may refuse capture into a CUDA graph
    if config.workspace_mib:
        settings.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
    settings.builder_optimization_level = config.optimization_level
    return settings


@contextlib.contextmanager
def _timing_cache(settings: Any, tensorrt: TensorRt, name: str) -> Iterator[None]:
    """Let the build take its timings from a file, if named, and write them back whole if it succeeds."""
    if not name:
        yield
        return
    path = Path(name)
    if not path.parent.is_dir():
        raise ValueError(f"timing_cache: expected a file in an existing folder, got {name!r}. Make the folder first.")
    mark = tensorrt.log.mark()
    known = read_file(path, _MAX_CACHE_BYTES, "timing_cache") if path.exists() else b""
    cache = settings.create_timing_cache(known)
    # TensorRT takes bytes it cannot read for an empty cache: never write that over what may be another file.
    if cache is None or not settings.set_timing_cache(cache, False) or (known and tensorrt.log.mark() != mark):
        raise ValueError(
            f"timing_cache: expected one of {tensorrt.kind} {tensorrt.version} on this GPU, got {path.name}: "
            f"{tensorrt.log.since(mark)}. Name another file."
        )
    yield
    timings = bytes(settings.get_timing_cache().serialize())
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(timings)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
