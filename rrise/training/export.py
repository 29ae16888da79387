"""Export of a network to ONNX, checked against torch before it may be used."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from rrise.training.networks import Network

FORMAT = "rrise-engine/1"
ENGINE = "engine.onnx"
BATCHES = (1, 3)
"""Batch sizes at which the engine is compared with torch, besides all images at once."""


@dataclass(frozen=True)
class ExportConfig:
    """How the surrogate becomes an engine."""

    opset: int = field(
        default=20, metadata={"help": "ONNX operator set; from 23 on TensorRT cannot build fused attention"}
    )
    tolerance: float = field(
        default=1e-5, metadata={"help": "largest difference of a probability from torch that is accepted"}
    )

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 24:
            raise ValueError(f"opset: expected 18 to 24, got {self.opset}. 20 is good for every engine.")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"tolerance: expected a finite number above 0, got {self.tolerance}.")


def export_onnx(
    network: Network, folder: str | Path, config: ExportConfig, check_images: npt.NDArray[np.uint8]
) -> dict[str, Any]:
    """Return engine.json of a network now exported: a whole folder or, on any failure, none.

    The folder holds engine.onnx (float32 pixels in [0, 1] ``images`` [N, C, H, W], N free, to ``logits`` [N, K], all
    weights inside), engine.json and training_ids.npy. The engine's probabilities on the images were within
    ``config.tolerance`` of torch's at batches of 1, 3 and all.

    Parameters
    ----------
    network : Network
        Facts named classes, classifier_images, classifier_sha256, counts_sha256 and sigma are handed on to engine.json.
    folder : path
    config : ExportConfig
    check_images : uint8[N, H, W] or uint8[N, H, W, C]
        Real images, a few hundred at most; without a real image nothing is checked that matters.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If torch cannot export the network, or a probability differs by more than the tolerance.
    """
    from rrise.training.artifacts import publish, refuse_existing

    folder = Path(folder)
    refuse_existing(folder)
    pixels = _pixels(check_images, network.spec.input_shape)
    engine = _onnx_bytes(network.module, network.spec.input_shape, config.opset)
    error = max_probability_error(network.module, engine, pixels)
    if not error <= config.tolerance:  # NaN is no agreement
        raise ValueError(
            f"export: expected probabilities within tolerance={config.tolerance:g} of torch's, got a difference of "
            f"{error:.3g}. Raise tolerance if that is acceptable: calibration uses the engine's own outputs."
        )
    handed_on = ("classifier_images", "classifier_sha256", "counts_sha256", "sigma")
    spec = {
        "format": FORMAT,
        "kind": "onnxruntime",
        "file": ENGINE,
        "sha256": hashlib.sha256(engine).hexdigest(),
        "precision": "float32",
        "input_shape": list(network.spec.input_shape),
        "num_classes": network.spec.num_classes,
        "classes": list(network.facts.get("classes") or map(str, range(network.spec.num_classes))),
        "max_probability_error": error,
        "checked_images": len(pixels),
        "network_sha256": network.sha256,
        "opset": config.opset,
        "versions": _versions(),
        **{name: network.facts[name] for name in handed_on if name in network.facts},
    }
    ids = io.BytesIO()
    np.save(ids, network.training_ids.astype("<u8"), allow_pickle=False)
    document = json.dumps(spec, indent=1, sort_keys=True, allow_nan=False) + "\n"
    publish(folder, {ENGINE: engine, "training_ids.npy": ids.getvalue(), "engine.json": document.encode()})
    return spec


def max_probability_error(module: nn.Module, engine: bytes, pixels: npt.NDArray[np.float32]) -> float:
    """Return the largest difference between the engine's and torch's probabilities, over several batch sizes.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU.
    engine : bytes
        The ONNX file.
    pixels : float32[N, C, H, W]
        In [0, 1].
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(engine, options, providers=["CPUExecutionProvider"])

    def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        wide = logits.astype(np.float64)
        scaled = np.exp(wide - wide.max(1, keepdims=True))
        return np.asarray(scaled / scaled.sum(1, keepdims=True))

    worst = 0.0
    for batch in sorted({*BATCHES, len(pixels)}):
        for start in range(0, min(len(pixels), 8 * batch), batch):  # eight batches of a size show what all would
            part = pixels[start : start + batch]
            with torch.inference_mode():
                expected = module(torch.from_numpy(part)).numpy()
            found = session.run(["logits"], {"images": part})[0]
            error = np.abs(probabilities(found) - probabilities(expected)).max()
            worst = max(worst, float(error)) if error >= 0 else math.nan
    return worst


def _onnx_bytes(module: nn.Module, input_shape: tuple[int, int, int], opset: int) -> bytes:
    import torch

    example = torch.rand((2, *input_shape), generator=torch.Generator().manual_seed(0))  # of 1, torch would fix N = 1
    try:
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=["logits"],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"export: expected a network that torch can export, got {reason}. Rewrite that part of the network."
        ) from error
    assert program is not None  # dynamo=True returns the program
    return bytes(_without_traces(program.model_proto).SerializeToString(deterministic=True))


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what torch adds for its own debugging: source paths of this machine among it."""
    _clear(model)
    for function in model.functions:
        _clear(function)
        for node in function.node:
            _clear_node(node)
    _clear_graph(model.graph)
    return model


def _clear_graph(graph: onnx.GraphProto) -> None:
    _clear(graph)
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _clear(entry)
    for node in graph.node:
        _clear_node(node)


def _clear_node(node: onnx.NodeProto) -> None:
    _clear(node)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            _clear_graph(graph)


def _clear(entry: Any) -> None:
    for name in ("metadata_props", "doc_string"):
        entry.ClearField(name)


def _pixels(images: npt.NDArray[np.uint8], input_shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return float32 [N, C, H, W] in [0, 1], rounded once, as the runtime prepares images."""
    from rrise.training.pixels import image_tensor

    return image_tensor(images, input_shape).numpy().astype(np.float32) / np.float32(255)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "timm", "onnx", "onnxscript", "onnxruntime")}
