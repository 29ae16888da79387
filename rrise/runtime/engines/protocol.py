"""The engine protocol: what runs behind a certificate, and the settings that every engine takes.

An engine is the deployable network: images in [0,1] go in, logits come out. A new kind of engine is one class in a file
here beside, and one line in `opening.ENGINES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ENGINE_BYTES = 4 << 30
EXPORT = "Re-run rrise export, or export with one float32 input (N,C,H,W) and one float32 output (N,K)."
"""What to do with a network of other inputs or outputs."""


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

    Raises
    ------
    ValueError
        If one of them is out of range.
    """

    threads: int = field(default=1, metadata={"help": "CPU threads that share one forward pass"})
    spinning: bool = field(
        default=False, metadata={"help": "let those threads spin between calls: quicker, on cores kept busy"}
    )
    device: str = field(default="", metadata={"help": "where the engine runs: cpu, or a GPU such as cuda:0"})

    def __post_init__(self) -> None:
        if type(self.threads) is not int or self.threads < 1:
            raise ValueError(f"threads: expected an integer of at least 1, got {self.threads!r}. Use threads=1.")
        if type(self.spinning) is not bool:
            raise ValueError(f"spinning: expected True or False, got {self.spinning!r}. Use spinning=False.")
        kind, _, index = self.device.partition(":")
        if self.device and not (kind in ("cpu", "cuda") and (index.isdecimal() if ":" in self.device else True)):
            raise ValueError(f"device: expected '', 'cpu', 'cuda' or 'cuda:INDEX', got {self.device!r}. Choose one.")


class Engine(ABC):
    """A network that can be called; implementations are final, immutable and safe to call from many threads.

    They are constructed as ``Kind(data, precision=..., options=...)`` from the bytes of the engine file.

    Attributes
    ----------
    kind : str
        Key of `opening.ENGINES`.
    version : str
        Version of the runtime that executes it.
    precision : str
        Arithmetic of the network: "float32", "float16" or "int8".
    device : str
        Where it runs: "cpu", or the name of the GPU.
    input_shape : (C, H, W)
        Shape of one image.
    num_classes : int
        Number of logits, K.
    opens_after_fork : bool
        Whether a process forked from one that holds an engine of this kind may open another.
    """

    kind: str
    version: str
    precision: str
    device: str
    input_shape: tuple[int, int, int]
    num_classes: int
    opens_after_fork: bool = True

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


def check_logits(logits: NDArray[np.float32], rows: int, num_classes: int) -> NDArray[np.float32]:
    """Return logits, or refuse those of another shape than one row an image.

    Raises
    ------
    ValueError
        Naming the shape got.
    """
    if logits.shape != (rows, num_classes):
        raise ValueError(f"engine: expected logits of shape {(rows, num_classes)}, got {logits.shape}. {EXPORT}")
    return logits


def in_parts(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], batch: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Return the logits of a batch of any size by a network of fixed batch, the last part padded with zeros."""
    padded = np.zeros((-len(batch) % size + len(batch), *batch.shape[1:]), np.float32)
    padded[: len(batch)] = batch
    return np.concatenate([run(padded[i : i + size]) for i in range(0, len(padded), size)])[: len(batch)]
