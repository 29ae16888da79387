"""The slow truth of the samplers: Philox in Python integers, thresholds and probabilities from 50 digits of mpmath."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache

import mpmath

MASK32 = 0xFFFFFFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 as the paper writes it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & MASK32, (product0 >> 32) ^ c3 ^ k1, product0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def block(number: int, *, seed: int, image_id: int, draw: int, stream: int) -> tuple[int, int, int, int]:
    """One named block."""
    counter = (number, draw, image_id & MASK32, (image_id >> 32) | (stream << 24))
    return philox4x32(counter, (seed & MASK32, seed >> 32))


def cumulative(boundary: int, sigma: float) -> mpmath.mpf:
    """P(round(255 σ Z) <= boundary) to 50 digits; σ is the decimal number that it prints as."""
    with mpmath.workdps(50):
        x = mpmath.mpf(2 * boundary + 1) / (510 * mpmath.mpf(repr(sigma)))
        return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


@lru_cache(maxsize=8)
def grid_thresholds(sigma: float) -> tuple[tuple[int, ...], int]:
    """Thresholds in increasing order and the noise below the first of them."""
    with mpmath.workdps(50):
        above: list[int] = []
        while (t := int(mpmath.nint(cumulative(len(above), sigma) * 2**64))) < 2**64:
            above.append(t)
        below: list[int] = []
        while (t := int(mpmath.nint(cumulative(-1 - len(below), sigma) * 2**64))) > 0:
            below.append(t)
    return (*reversed(below), *above), -len(below)


def uniform64(pixel: int, **name: int) -> int:
    """The 64-bit uniform of one pixel."""
    lane = pixel % 8
    high = block(pixel // 8, **name)[lane // 2] >> (16 * (lane % 2)) & 0xFFFF
    word0, word1, _, _ = block(0x80000000 | pixel, **name)
    return high << 48 | word0 << 16 | word1 >> 16


def grid_noise(thresholds: tuple[int, ...], lowest: int, pixels: int, **name: int) -> list[int]:
    """Integer noise of the first ``pixels`` pixels."""
    return [lowest + bisect_right(thresholds, uniform64(j, **name)) for j in range(pixels)]


def normals(pixels: int, **name: int) -> list[float]:
    """Standard normals of the first ``pixels`` pixels, in float64."""
    values = []
    for j in range(pixels):
        words = block(0x40000000 | j // 4, **name)
        a, b = words[0:2] if j % 4 < 2 else words[2:4]
        scale, angle = math.sqrt(-2 * math.log((a + 0.5) / 2**32)), 2 * math.pi * (b + 0.5) / 2**32
        values.append(scale * (math.cos(angle) if j % 2 == 0 else math.sin(angle)))
    return values
