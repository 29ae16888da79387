"""8-bit images as torch tensors, and the random changes that training makes to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rrise.images.arrays import require_pixels
from rrise.views import moved


def image_tensor(images: npt.NDArray[np.uint8], input_shape: tuple[int, int, int]) -> torch.Tensor:
    """Return uint8[N, C, H, W] of images uint8[N, H, W] or uint8[N, H, W, C].

    Raises
    ------
    TypeError, ValueError
        If they are not 8-bit images, or of another shape than the network takes.
    """
    require_pixels(images, "images")
    pixels = images[..., None] if images.ndim == 3 else images
    shape = (pixels.shape[3], *pixels.shape[1:3])
    if shape != tuple(input_shape):
        raise ValueError(f"images: expected (C, H, W) = {tuple(input_shape)}, the network's, got {shape}. Resize them.")
    return torch.from_numpy(np.array(pixels.transpose(0, 3, 1, 2), order="C"))  # a copy: torch wants it writable


def unit(pixels: torch.Tensor) -> torch.Tensor:
    """Return 8-bit pixels as float32 in [0, 1]."""
    return pixels.to(torch.float32) / 255


def moved_at_random(pixels: torch.Tensor, shift: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Return each image [N, C, H, W] moved by up to ``shift`` pixels along each axis, and mirrored if ``flip``.

    Every distance is as likely, black flows in, and every second image is mirrored left to right on average.
    """
    if not (shift or flip):
        return pixels
    count, device = len(pixels), pixels.device
    moves = torch.zeros((count, 3), dtype=torch.int64, device=device)
    if shift:
        moves[:, :2] = shift - torch.randint(2 * shift + 1, (count, 2), generator=generator, device=device)
    if flip:
        moves[:, 2] = torch.randint(2, (count,), generator=generator, device=device, dtype=torch.bool)
    return moved(pixels, moves)
