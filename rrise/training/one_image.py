"""Whether a network is a function of one image: the same answer each time, in any batch, and no state that moves.

Counts are of independent draws, and a certificate is of one image, only if it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Pixels = npt.NDArray[np.float32]
Logits = Callable[[Pixels], Pixels]
IMAGES = 8
"""Images that are answered together and one by one."""
LIMIT = 1e-3
"""Largest difference of a probability, and of a logit in units of the logits' spread: rounding gives some 1e-6."""


def probe_pixels(input_shape: tuple[int, int, int], images: Pixels | None = None) -> Pixels:
    """Return float32 [8, C, H, W]: images with Gaussian noise, or noise alone; the same each time."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((IMAGES, *input_shape)).astype(np.float32) * np.float32(0.25)
    if images is None or not len(images):
        return noise + rng.random((IMAGES, *input_shape), np.float32)
    return noise + images[np.arange(IMAGES) % len(images)]


def require_one_image(
    module: nn.Module, input_shape: tuple[int, int, int], images: Pixels | None = None, *, what: str = "classifier"
) -> None:
    """Raise ValueError unless a network answers an image alike each time, in any batch, and keeps its state.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU.
    input_shape : (C, H, W)
    images : float32[N, C, H, W], optional
        Pixels in [0, 1], of which the first eight are asked about, under noise; none: made-up ones.
    what : str
        What the message calls it.
    """

    def logits(batch: Pixels) -> Pixels:
        with torch.inference_mode():
            found: Pixels = module(torch.from_numpy(batch)).float().numpy()
        return found

    before = {name: tensor.clone() for name, tensor in _state(module)}
    require_alike(logits, probe_pixels(input_shape, images), what=what)
    moved = [name for name, tensor in _state(module) if not torch.equal(tensor, before[name])]
    if moved:
        raise ValueError(
            f"{what}: expected a network that keeps its state in evaluation mode, got one that changed {moved[0]} by "
            "answering. Stop that in eval(): its counts would depend on what it was asked before."
        )


def require_alike(logits: Logits, pixels: Pixels, *, what: str, limit: float = LIMIT) -> None:
    """Raise ValueError unless logits of images are the same when asked again, and one by one.

    Parameters
    ----------
    logits : callable
        float32[N, C, H, W] to float32[N, K].
    pixels : float32[N, C, H, W]
    what : str
        What the message calls it.
    limit : float
        Largest difference that passes for rounding.
    """
    together = logits(pixels)
    if not np.isfinite(together).all():
        raise ValueError(f"{what}: expected finite logits, got NaN or infinity. Look for weights that diverged.")
    if (apart := _apart(logits(pixels), together)) > limit:
        raise ValueError(
            f"{what}: expected the same answer to an image each time, got probabilities {apart:.2g} apart between two "
            "calls: dropout or noise that stays active, or state that a call changes. Switch it off in evaluation mode."
        )
    try:
        alone = np.concatenate([logits(pixels[i : i + 1]) for i in range(len(pixels))])
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{what}: expected a network that takes one image, got {' '.join(str(error).split())[:200]}. Batch "
            "statistics in evaluation mode do that: use running ones."
        ) from error
    if (apart := _apart(alone, together)) > limit:
        raise ValueError(
            f"{what}: expected an answer to an image that does not depend on others of its batch, got probabilities "
            f"{apart:.2g} apart between {len(pixels)} images together and one by one: batch statistics in evaluation "
            "mode, or features centred over the batch. Use running statistics."
        )


def _state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _apart(one: Pixels, other: Pixels) -> float:
    """Return the larger of the differences in probability and, in units of the logits' spread, in logit."""
    wide, others = (torch.from_numpy(each).double() for each in (one, other))
    probability = (wide.softmax(1) - others.softmax(1)).abs().max()
    spread = (others - others.mean()).abs().max().clamp(min=1e-12)
    return float(torch.maximum(probability, (wide - others).abs().max() / spread).nan_to_num(nan=1.0))
