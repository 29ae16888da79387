"""8-bit images as torch tensors, and the random changes that training makes to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from rrise.image_files import require_pixels


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


def shifted(pixels: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Return each image [N, C, H, W] moved by up to ``shift`` pixels along each axis; black flows in."""
    count, _, height, width = pixels.shape
    device = pixels.device
    start = torch.randint(2 * shift + 1, (count, 2, 1), generator=generator, device=device)
    rows = (start[:, 0] + torch.arange(height, device=device))[:, :, None]
    columns = (start[:, 1] + torch.arange(width, device=device))[:, None, :]
    images = torch.arange(count, device=device)[:, None, None]
    return F.pad(pixels, (shift,) * 4)[images, :, rows, columns].permute(0, 3, 1, 2)


def flipped(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images [N, C, H, W], each mirrored left to right with probability one half."""
    mirror = torch.randint(2, (len(pixels), 1, 1, 1), generator=generator, device=pixels.device, dtype=torch.bool)
    return torch.where(mirror, pixels.flip(3), pixels)
