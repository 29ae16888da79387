"""The grid noise made on a GPU, in Triton: to the bit that of :class:`rrise.targets.noise.GridSampler`.

The only file that imports triton. Integers throughout, and one division rounded to nearest, so nothing depends on the
device. Unlike on the CPU every pixel draws its low 48 bits: that is cheaper there than to ask which ones need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
import triton
import triton.language as tl

from rrise.targets.noise import grid_thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 256
"""Pixels of one program."""


@triton.jit(do_not_specialize=["key_low", "key_high", "stream", "first_draw", "draws"])  # type: ignore[untyped-decorator]
def _grid_fill(  # type: ignore[no-untyped-def]
    pixels,
    ids,
    thresholds,
    out,
    key_low,
    key_high,
    stream,
    first_draw,
    draws,
    lowest,
    count,
    P,
    W,
    HW,
    stride_draw,
    stride_c,
    stride_h,
    stride_w,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write (pixel + noise) / 255 of one draw's block of pixels of an image; csrc/noise.h says how noise is named."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1)
    image, draw = row // draws, row % draws
    inside = j < P
    zero = tl.zeros([BLOCK], dtype=tl.uint32)
    block = j.to(tl.uint32)
    number = zero + (first_draw.to(tl.int64) + draw).to(tl.uint32)
    name = tl.load(ids + image)
    low, high = zero + name.to(tl.uint32), zero + ((name >> 32) | (stream.to(tl.int64) << 24)).to(tl.uint32)
    k0, k1 = zero + key_low.to(tl.uint32), zero + key_high.to(tl.uint32)
    a0, a1, a2, a3 = tl.philox_impl(block // 8, number, low, high, k0, k1, n_rounds=10)
    lane = block % 8
    word = tl.where(lane < 4, tl.where(lane < 2, a0, a1), tl.where(lane < 6, a2, a3))
    hi16 = (word >> (16 * (lane % 2))) & 0xFFFF
    b0, b1, _, _ = tl.philox_impl(block | 0x80000000, number, low, high, k0, k1, n_rounds=10)
    u = (hi16.to(tl.uint64) << 48) | (b0.to(tl.uint64) << 16) | (b1 >> 16).to(tl.uint64)
    below = tl.zeros([BLOCK], dtype=tl.int32)  # thresholds <= u, found bit by bit from the top
    for step in tl.static_range(STEPS):
        ahead = below + (1 << (STEPS - 1 - step))
        known = ahead <= count
        threshold = tl.load(thresholds + ahead - 1, mask=known, other=0)
        below = tl.where(known & (threshold <= u), ahead, below)
    value = tl.load(pixels + image.to(tl.int64) * P + j, mask=inside, other=0).to(tl.int32) + below + lowest
    at = row.to(tl.int64) * stride_draw + (j // HW) * stride_c + (j % HW) // W * stride_h + (j % W) * stride_w
    tl.store(out + at, tl.div_rn(value.to(tl.float32), 255.0), mask=inside)


@final
class DeviceGridNoise:
    """Exact Gaussian smoothing on the 1/255 grid, made where the classifier is.

    Parameters
    ----------
    sigma : float
        Noise level in [0,1] pixel units, 0 < σ <= 14.
    device : torch.device
    """

    def __init__(self, sigma: float, device: torch.device | str) -> None:
        thresholds, lowest = grid_thresholds(sigma)
        self._count, self._lowest = len(thresholds), lowest
        padded = thresholds.copy() if len(thresholds) else np.zeros(1, dtype=np.uint64)
        self._thresholds = torch.from_numpy(padded).to(device)

    def fill(
        self,
        pixels: torch.Tensor,
        ids: NDArray[np.uint64],
        *,
        first_draw: int,
        draws: int,
        seed: int,
        stream: int,
        out: torch.Tensor,
    ) -> None:
        """Write (pixel + noise) / 255 of draws ``first_draw`` … ``first_draw + draws − 1`` of each image into ``out``.

        Parameters
        ----------
        pixels : uint8[B, P]
            On the device, each image in the order of (C, H, W).
        ids : uint64[B]
            Names of the images, below 2^56.
        first_draw, draws, seed, stream : int
            As for :meth:`rrise.targets.noise.GridSampler.fill`.
        out : float32[B * draws, C, H, W]
            On the device, in any memory format; the draws of an image side by side.

        Raises
        ------
        ValueError, TypeError
            If a shape, a dtype or a number does not fit.
        """
        if pixels.dtype != torch.uint8 or out.dtype != torch.float32:
            raise TypeError(f"pixels, out: expected uint8 and float32, got {pixels.dtype} and {out.dtype}.")
        count, size = pixels.shape
        if out.ndim != 4 or len(out) != count * draws or len(ids) != count or size != out[0].numel():
            raise ValueError(
                f"out: expected {count} ids and shape ({count} images × {draws} draws, C, H, W) of {size} pixels, got "
                f"{len(ids)} and {tuple(out.shape)}."
            )
        numbers = {"ids": (int(ids.max()), 2**56), "seed": (seed, 2**64), "stream": (stream, 256)}
        numbers |= {"first_draw": (first_draw, 2**32), "first_draw + draws": (first_draw + draws - 1, 2**32)}
        for name, (number, end) in numbers.items():
            if not 0 <= number < end:
                raise ValueError(f"{name}: expected 0 to {end - 1}, got {number}.")
        _, _, height, width = out.shape
        grid: Any = (triton.cdiv(size, BLOCK), count * draws)
        _grid_fill[grid](
            pixels.contiguous(),
            torch.from_numpy(ids.astype(np.int64)).to(out.device),
            self._thresholds,
            out,
            seed & 0xFFFFFFFF,
            seed >> 32,
            stream,
            first_draw,
            draws,
            self._lowest,
            self._count,
            size,
            width,
            height * width,
            *out.stride(),
            STEPS=self._count.bit_length(),
            BLOCK=BLOCK,
        )
