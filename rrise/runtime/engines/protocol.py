"""The engine protocol, and how an engine on disk becomes one that runs.

An engine is the deployable network: images in [0,1] go in, logits come out. A new kind of engine is one class here
beside, and one line in `ENGINES`.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rrise.runtime.documents import MAX_JSON_BYTES, Fields, brief, parse_json, read_file, sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "rrise-engine/1"
MAX_ENGINE_BYTES = 4 << 30
_WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9]", re.IGNORECASE)

ENGINES = {"onnxruntime": "rrise.runtime.engines.onnxruntime:OnnxRuntimeEngine"}


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
        shape = fields.values(
            "input_shape", int, "3 integers (C,H,W) from 1 to 2^24 - 1", lambda size: 1 <= size < 1 << 24
        )
        if len(shape) != 3:
            fields.refuse("input_shape", "3 integers (C,H,W) from 1 to 2^24 - 1")
        num_classes = fields.value("num_classes", int, "an integer of at least 2", lambda k: 2 <= k < 1 << 24)
        classes = fields.values("classes", str, f"{num_classes} names of one line each", str.isprintable)
        if len(classes) != num_classes:
            fields.refuse("classes", f"{num_classes} names of one line each")
        return cls(
            file=fields.value("file", str, "the plain name of a file beside it", is_plain_name),
            kind=fields.value("kind", str, f"one of {', '.join(ENGINES)}", lambda kind: kind in ENGINES),
            sha256=fields.value("sha256", str, "64 lower-case hex digits", is_sha256),
            precision=fields.value("precision", str, "a name such as float32", is_line),
            input_shape=(shape[0], shape[1], shape[2]),
            num_classes=num_classes,
            classes=classes,
        )


def is_plain_name(name: str) -> bool:
    """Return whether the name is that of one file in the same folder, whatever the file system.

    No path and no device of Windows ("nul.onnx"), nothing hidden; nothing that a file system could take for another
    name: no compatibility form (a full-width "．"), no decomposed accent, no dot or space at the end.
    """
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= 255
        and name.isprintable()
        and name[0] != "."
        and name[-1] not in ". "
        and not set(name) & set('/\\:*?"<>|')
        and unicodedata.is_normalized("NFKC", name)
        and not _WINDOWS_DEVICE.fullmatch(name.partition(".")[0].rstrip())
    )


def is_line(text: str) -> bool:
    """Return whether the text is one line that a terminal shows as it is: not empty, no control characters."""
    return bool(text) and text.isprintable()


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
