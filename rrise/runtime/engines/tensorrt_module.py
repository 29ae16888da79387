"""What building and running share: the module of TensorRT or TensorRT-RTX, its log, and what a network must look like.

TensorRT says why something failed in its log alone: a call returns None or False. The first logger that a process
registers serves all its objects, so there is one for each module, and it is kept for ever.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rrise.runtime.documents import brief
from rrise.runtime.engines.protocol import EXPORT

KINDS = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}
"""Kind of engine -> Python module, extra of rrise that installs it."""

_LOADING = threading.Lock()
_KEPT_LINES = 100
_SHOWN_LINES = 3
_SHOWN_CHARACTERS = 600


@dataclass(frozen=True)
class TensorRt:
    """One of the two modules with its log.

    Parameters
    ----------
    kind : str
        Key of `KINDS`.
    module : module
        tensorrt or tensorrt_rtx.
    log : ILogger
        Keeps the last lines of severity WARNING and above.
    """

    kind: str
    module: Any
    log: Any

    @property
    def version(self) -> str:
        """Version of the module, such as "11.4.0.106"."""
        return str(self.module.__version__)

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT-RTX."""
        return self.kind == "tensorrt-rtx"

    def make(self, factory: Callable[..., Any], *arguments: Any) -> Any:
        """Return a new Builder, Runtime or OnnxParser; where TensorRT can make none, say why.

        Raises
        ------
        RuntimeError
            With TensorRT's own reason.
        """
        mark = self.log.mark()
        try:
            return factory(*arguments)
        except TypeError:  # pybind11's word for a factory that returned null
            raise RuntimeError(
                f"engine: expected {self.kind} {self.version} to start, got: {self.log.since(mark)}. "
                "Check that driver and TensorRT fit each other."
            ) from None


def load(kind: str) -> TensorRt:
    """Return the module of a kind, the same object at every call.

    Raises
    ------
    ValueError
        If there is no such kind.
    ImportError
        If the module is not installed; the message names the extra that installs it.
    """
    if kind not in KINDS:
        raise ValueError(f"engine: expected a kind out of {', '.join(KINDS)}, got {brief(kind)}. Choose one of them.")
    with _LOADING:
        return _loaded(kind)


@functools.cache
def _loaded(kind: str) -> TensorRt:
    name, extra = KINDS[kind]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"engine: expected the module {name}, got {error}. Run pip install 'rrise[{extra}]'."
        ) from None
    return TensorRt(kind, module, _new_log(module))


def _new_log(module: Any) -> Any:
    errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)
    heard = (*errors, module.ILogger.WARNING)

    class Log(module.ILogger):  # type: ignore[misc]  # the base class is a module's, known at run time
        """Called by TensorRT from any thread; appending to a deque needs no lock."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._count = itertools.count(1)
            self._lines: deque[tuple[int, bool, str]] = deque([(0, False, "")], _KEPT_LINES)

        def log(self, severity: Any, message: str) -> None:
            if severity in heard:
                self._lines.append((next(self._count), severity in errors, " ".join(message.split())))

        def mark(self) -> int:
            return self._lines[-1][0]

        def since(self, mark: int) -> str:
            """Return the last lines after a mark: errors, or if there is none warnings."""
            lines = [(grave, text) for number, grave, text in list(self._lines) if number > mark]
            texts = [text for grave, text in lines if grave] or [text for _, text in lines]
            shown = "; ".join(dict.fromkeys(texts[-_SHOWN_LINES:]))
            return shown[-_SHOWN_CHARACTERS:].rstrip(". ") or "no reason in its log"

    return Log()


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network.

    Parameters
    ----------
    name : str
    dtype : str
        As TensorRT calls it, such as "FLOAT".
    shape : tuple of int
        -1 where a size is free; empty where it is not even known how many there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, dtype: Any, dims: Sequence[int]) -> Tensor:
        """Return it from TensorRT's own values."""
        try:
            shape = tuple(int(dims[index]) for index in range(len(dims)))
        except ValueError:  # Dims of unknown rank have length -1, which len refuses, and items without end
            shape = ()
        return cls(name, str(dtype.name), shape)


def check_tensors(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[int, tuple[int, int, int], int]:
    """Return batch (-1 if free), shape (C,H,W) of an image and number of classes of a network from images to logits.

    Raises
    ------
    ValueError
        If it is not from one float32 (N,C,H,W) to one float32 (N,K).
    """
    for role, tensors in (("input", inputs), ("output", outputs)):
        if len(tensors) != 1:
            names = ", ".join(tensor.name for tensor in tensors)
            raise ValueError(f"engine: expected one {role}, got {len(tensors)} ({names}). {EXPORT}")
        if tensors[0].dtype != "FLOAT":
            raise ValueError(
                f"engine: expected {role} {tensors[0].name!r} of float32, got {tensors[0].dtype}. {EXPORT}"
            )
    images, logits = inputs[0], outputs[0]
    if len(images.shape) != 4 or min(images.shape[1:]) < 1 or images.shape[0] == 0:
        raise ValueError(
            f"engine: expected input {images.name!r} of shape (N,C,H,W), fixed but for N, got {images.shape}. {EXPORT}"
        )
    if len(logits.shape) != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"engine: expected output {logits.name!r} of shape (N,K), K at least 2, got {logits.shape}. {EXPORT}"
        )
    batch, channels, height, width = images.shape
    return batch, (channels, height, width), logits.shape[1]


def batch_buckets(smallest: int, largest: int) -> tuple[int, ...]:
    """Return the batch sizes that run: the powers of two from the smallest to below the largest, and the largest."""
    powers = (1 << exponent for exponent in range(largest.bit_length()))
    return tuple(sorted({*(size for size in powers if smallest <= size < largest), smallest, largest}))
