"""How an engine on disk becomes one that runs: a kind names the class, and only its module is imported."""

from __future__ import annotations

import importlib
from pathlib import Path

from rrise.runtime.documents import brief
from rrise.runtime.engines.protocol import Engine, EngineOptions
from rrise.runtime.engines.spec import check_engine, read_engine

ENGINES = {
    "onnxruntime": "rrise.runtime.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "rrise.runtime.engines.openvino:OpenVinoEngine",
    "tensorrt": "rrise.runtime.engines.tensorrt:TensorRtEngine",
    "tensorrt-rtx": "rrise.runtime.engines.tensorrt:TensorRtRtxEngine",
}
EXTRAS = {"onnxruntime": "", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
"""The extra of rrise that installs each runtime."""


def open_engine_bytes(
    data: bytes, kind: str, *, precision: str = "float32", options: EngineOptions | None = None
) -> Engine:
    """Return the engine that these bytes hold, without touching any file.

    Raises
    ------
    ValueError
        If the kind is unknown, or the bytes are no engine of that kind from images to logits.
    ImportError
        If the runtime of that kind is not installed; the message names the extra that installs it.
    """
    if kind not in ENGINES:
        raise ValueError(f"engine: expected a kind out of {', '.join(ENGINES)}, got {brief(kind)}. Choose one of them.")
    module, name = ENGINES[kind].split(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"engine: expected the runtime of {kind!r} to be installed, got no module {error.name!r}. "
            f"pip install 'rrise[{EXTRAS[kind]}]'".replace("[]", "")
        ) from None
    engine: Engine = found(data, precision=precision, options=options or EngineOptions())
    return engine


def open_engine(path: str | Path, kind: str = "", *, options: EngineOptions | None = None) -> Engine:
    """Return the engine of a folder written by `rrise export`, its sha256 verified, or of a bare engine file.

    Parameters
    ----------
    path : path
        Engine folder or engine file.
    kind : str
        Runtime that executes it; "" is the recorded one, and ONNX Runtime for a bare file.
    options : EngineOptions, optional
        Threads and device.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `read_engine` and `open_engine_bytes`; also if the folder holds another kind or another shape than it says.
    """
    spec, data = read_engine(path)
    if spec is not None and kind not in ("", spec.kind):
        raise ValueError(f"engine: expected kind {kind!r}, got {spec.kind!r}. Open it as what it is.")
    kind = spec.kind if spec else kind or "onnxruntime"
    engine = open_engine_bytes(data, kind, precision=spec.precision if spec else "float32", options=options)
    if spec is not None:
        check_engine(engine, spec)
    return engine
