"""The engine protocol, and how an engine on disk becomes one that runs.

An engine is the deployable network: images in [0,1] go in, logits come out. A new kind of engine is one class here
beside, and one line in `ENGINES`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.runtime.documents import MAX_JSON_BYTES, Fields, brief, parse_json, read_file, sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "rrise-engine/1"
MAX_ENGINE_BYTES = 4 << 30
EXPORT = "Re-run rrise export, or export with one float32 input (N,C,H,W) and one float32 output (N,K)."
"""What to do with a network of other inputs or outputs."""

ENGINES = {"onnxruntime": "rrise.runtime.engines.onnxruntime:OnnxRuntimeEngine"}


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs where it is deployed; none of it changes what the engine computes but for the last bits.

    Parameters
    ----------
    threads : int
        CPU threads that share one call; 1 runs in the caller's thread where the runtime can.
    spinning : bool
        Whether those threads spin between calls: lower latency for a core kept busy. Nothing changes at threads=1.
    device : str
        Where to run: "" is the engine's own default, "cpu", or a GPU such as "cuda:0".
    """

    threads: int = 1
    spinning: bool = False
    device: str = ""


class Engine(ABC):
    """A network that can be called; implementations are final, immutable and safe to call from many threads.

    Attributes
    ----------
    kind : str
        Key of `ENGINES`.
    version : str
        Version of the runtime that executes it.
    precision : str
        Arithmetic of the network, such as "float32".
    device : str
        Where it runs, such as "cpu".
    input_shape : (C, H, W)
        Shape of one image.
    num_classes : int
        Number of logits, K.
    """

    kind: str
    version: str
    precision: str
    device: str
    input_shape: tuple[int, int, int]
    num_classes: int

    @abstractmethod
    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits float32[N, K] of images float32[N, C, H, W] in [0,1].

        Raises
        ------
        TypeError, ValueError
            If the batch has another dtype or shape.
        """


def check_batch(batch: NDArray[np.float32], input_shape: tuple[int, int, int]) -> None:
    """Refuse what is no float32 batch of images of this shape.

    Raises
    ------
    TypeError, ValueError
        Naming the dtype or shape got.
    """
    if batch.dtype != np.float32:
        raise TypeError(f"engine: expected a float32 batch, got {batch.dtype}. Use rrise.runtime.prepare_images.")
    if batch.ndim != 4 or batch.shape[1:] != input_shape:
        raise ValueError(
            f"engine: expected a batch of shape (N,{','.join(map(str, input_shape))}), "
            f"got {batch.shape}. Use rrise.runtime.prepare_images."
        )


@dataclass(frozen=True)
class EngineSpec:
    """What is recorded of an engine file, in engine.json and in a bundle.

    Parameters
    ----------
    file : str
        Name of the engine file, beside the JSON file.
    kind, precision : str
        As in `Engine`.
    sha256 : str
        SHA-256 of the engine file, lower-case hex.
    input_shape : (C, H, W)
        Shape of one image.
    num_classes : int
        K, at least 2.
    classes : tuple of str
        Names of the K classes, in the order of the logits.
    """

    file: str
    kind: str
    sha256: str
    precision: str
    input_shape: tuple[int, int, int]
    num_classes: int
    classes: tuple[str, ...]

    @classmethod
    def parse(cls, fields: Fields) -> EngineSpec:
        """Return the specification that the fields hold, every one checked.

        Raises
        ------
        ValueError
            Naming the field that does not hold what it should.
        """
        shape = fields.values("input_shape", int, "3 integers (C,H,W) of at least 1", lambda size: 1 <= size < 1 << 24)
        if len(shape) != 3:
            fields.refuse("input_shape", "3 integers (C,H,W) of at least 1")
        num_classes = fields.value("num_classes", int, "an integer of at least 2", lambda k: 2 <= k < 1 << 24)
        classes = fields.values("classes", str, f"{num_classes} names", lambda name: True)
        if len(classes) != num_classes:
            fields.refuse("classes", f"{num_classes} names")
        return cls(
            file=fields.value("file", str, "the plain name of a file beside it", is_plain_name),
            kind=fields.value("kind", str, f"one of {', '.join(ENGINES)}", lambda kind: kind in ENGINES),
            sha256=fields.value("sha256", str, "64 lower-case hex digits", is_sha256),
            precision=fields.value("precision", str, "a name such as float32", bool),
            input_shape=(shape[0], shape[1], shape[2]),
            num_classes=num_classes,
            classes=classes,
        )


def is_plain_name(name: str) -> bool:
    """Return whether the name is that of a file in the same folder, whatever the file system."""
    return 0 < len(name) <= 255 and name[0] != "." and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def is_sha256(text: str) -> bool:
    """Return whether the text is 64 lower-case hex digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def read_engine(path: str | Path) -> tuple[EngineSpec | None, bytes]:
    """Return the specification and the bytes of an engine folder, verified; or (None, bytes) of a bare engine file.

    Raises
    ------
    FileNotFoundError
        If the folder lacks engine.json or the engine, or there is no such file.
    ValueError
        If engine.json is not as docs/bundle.md says, or the engine file has another sha256.
    """
    path = Path(path)
    if not path.is_dir():
        return None, read_file(path.resolve(), MAX_ENGINE_BYTES, "engine")
    content = parse_json(read_file(path / "engine.json", MAX_JSON_BYTES, "engine"), "engine")
    fields = Fields(content, "engine", "Re-run rrise export.", "engine.json ")
    fields.value("format", str, repr(FORMAT), lambda name: name == FORMAT)
    spec = EngineSpec.parse(fields)
    data = read_file(path / spec.file, MAX_ENGINE_BYTES, "engine")
    if sha256_of(data) != spec.sha256:
        raise ValueError(
            f"engine: expected {spec.file} with sha256 {spec.sha256}, got {sha256_of(data)}. Re-run rrise export."
        )
    return spec, data


def open_engine_bytes(data: bytes, kind: str, *, precision: str = "float32", threads: int = 1) -> Engine:
    """Return the engine that these bytes hold, without touching any file.

    Raises
    ------
    ValueError
        If the kind is unknown, or the bytes are no engine of that kind from images to logits.
    ImportError
        If the runtime of that kind is not installed.
    """
    if kind not in ENGINES:
        raise ValueError(f"engine: expected a kind out of {', '.join(ENGINES)}, got {brief(kind)}. Choose one of them.")
    module, name = ENGINES[kind].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(data, precision=precision, threads=threads)
    return engine


def open_engine(path: str | Path, kind: str = "onnxruntime", threads: int = 1) -> Engine:
    """Return the engine of a folder written by `rrise export`, its sha256 verified, or of a bare engine file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_engine` and `open_engine_bytes`; also if the folder holds another kind or another shape than it says.
    """
    spec, data = read_engine(path)
    if spec is not None and spec.kind != kind:
        raise ValueError(f"engine: expected kind {kind!r}, got {spec.kind!r}. Open it as what it is.")
    engine = open_engine_bytes(data, kind, precision=spec.precision if spec else "float32", threads=threads)
    if spec is not None:
        check_shape(engine, spec)
    return engine


def check_threads(threads: int) -> None:
    """Refuse a number of threads that is no integer of at least 1.

    Raises
    ------
    ValueError
        Naming it.
    """
    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads: expected an integer of at least 1, got {threads!r}. Use threads=1.")


def check_shape(engine: Engine, spec: EngineSpec) -> None:
    """Refuse an engine whose images or classes are not those recorded.

    Raises
    ------
    ValueError
        If they differ.
    """
    recorded, found = (spec.input_shape, spec.num_classes), (engine.input_shape, engine.num_classes)
    if recorded != found:
        raise ValueError(
            f"engine: expected {recorded[1]} classes of images {recorded[0]} as recorded, "
            f"got {found[1]} of {found[0]} in {spec.file}. Re-run rrise export."
        )
