"""What is recorded of an engine file, in engine.json and in a bundle, and how an engine folder is read."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rrise.class_names import is_line
from rrise.runtime.documents import MAX_JSON_BYTES, Fields, parse_json, read_file, sha256_of
from rrise.runtime.engines.protocol import MAX_ENGINE_BYTES

if TYPE_CHECKING:
    from rrise.runtime.engines.protocol import Engine

FORMAT = "rrise-engine/1"
KINDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
"""Runtimes that execute an engine."""
MAX_LEVELS = 16
"""Noise levels of one engine, at most."""
_WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class EngineSpec:
    """What is recorded of an engine file.

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
    onnx_sha256 : str
        SHA-256 of the ONNX file that the engine is or was built from; "" where it is not recorded.
    gpu : str
        GPU that a plan was built for; "" for any, or for none.
    sigmas : tuple of float
        Noise levels that the engine answers for, rising: its logits are S K, K for each. Empty: one level, K logits.
    """

    file: str
    kind: str
    sha256: str
    precision: str
    input_shape: tuple[int, int, int]
    num_classes: int
    classes: tuple[str, ...]
    onnx_sha256: str = ""
    gpu: str = ""
    sigmas: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Logits of an image."""
        return self.num_classes * max(1, len(self.sigmas))

    @classmethod
    def parse(cls, fields: Fields) -> EngineSpec:
        """Return the specification that the fields hold, every one checked; the last three may be missing.

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

        def recorded(key: str, expected: str, holds: object) -> str:
            return fields.value(key, str, expected, holds) if key in fields.content else ""  # type: ignore[arg-type]

        return cls(
            file=fields.value("file", str, "the plain name of a file beside it", is_plain_name),
            kind=fields.value("kind", str, f"one of {', '.join(KINDS)}", lambda kind: kind in KINDS),
            sha256=fields.value("sha256", str, "64 lower-case hex digits", is_sha256),
            precision=fields.value("precision", str, "a name such as float32", is_line),
            input_shape=(shape[0], shape[1], shape[2]),
            num_classes=num_classes,
            classes=classes,
            onnx_sha256=recorded("onnx_sha256", "64 lower-case hex digits", is_sha256),
            gpu=recorded("gpu", "the name of a GPU, or empty", str.isprintable),
            sigmas=_sigmas(fields) if "sigmas" in fields.content else (),
        )


def _sigmas(fields: Fields) -> tuple[float, ...]:
    expected = f"2 to {MAX_LEVELS} finite numbers above 0, strictly increasing"
    sigmas = fields.values("sigmas", float, expected, lambda sigma: 0.0 < sigma < math.inf)
    if not 2 <= len(sigmas) <= MAX_LEVELS or any(a >= b for a, b in pairwise(sigmas)):
        fields.refuse("sigmas", expected)
    return sigmas


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


def check_engine(engine: Engine, spec: EngineSpec) -> None:
    """Refuse an engine whose images, classes or GPU are not those recorded.

    Raises
    ------
    ValueError
        If they differ.
    """
    recorded, found = (spec.input_shape, spec.outputs), (engine.input_shape, engine.num_classes)
    if recorded != found:
        raise ValueError(
            f"engine: expected {recorded[1]} logits of images {recorded[0]} as recorded, "
            f"got {found[1]} of {found[0]} in {spec.file}. Re-run rrise export."
        )
    if spec.gpu and engine.device != spec.gpu:
        raise ValueError(
            f"engine: expected the GPU that {spec.file} was built for, {spec.gpu}, got {engine.device}. Re-run rrise "
            "export and calibrate on this machine."
        )
