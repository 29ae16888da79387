"""Speed of the compiled kernel beside what a user would run instead, on one thread.

``python benchmarks/kernel.py`` prints, for four shapes of logits, float32 and float64, the time of ``Kernel.certify``
and its ratio to numpy and scipy doing the same (softmax, linear interpolation, ``ndtri``), that of ``_C.certify``,
which checks the curve anew each time, and of ``Kernel.certify_one``; then the time of ``pixels_to_planes`` beside
numpy's division and transposition; then the nanoseconds a pixel of both noise samplers beside
``x + sigma * torch.randn_like(x)``. The sides take turns, and the median of the turns is printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri, softmax

from rrise import _C
from rrise.targets.noise import GaussianSampler, GridSampler

SIGMA = 0.5
KNOTS_Q = np.linspace(0.0, 1.0, 51)
KNOTS_P = 0.998 * KNOTS_Q**1.1


def seconds_each(*functions: Callable[[], object], turns: int = 21, turn_s: float = 0.02) -> list[float]:
    """Median seconds a call of each function, the functions taking turns."""
    calls = []
    for function in functions:
        function()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < turn_s:
            function()
            count += 1
        calls.append(max(count, 1))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(turns):
        for function, count, taken in zip(functions, calls, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                function()
            taken.append((time.perf_counter() - start) / count)
    return [statistics.median(taken) for taken in times]


def certify_with_scipy(logits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and radii the plain way: no downward rounding, no check for NaN."""
    label = logits.argmax(axis=1)
    q = softmax(logits.astype(np.float64, copy=False), axis=1)[np.arange(len(logits)), label]
    p = np.interp(q, KNOTS_Q, KNOTS_P)
    certified = p > 0.5
    return np.where(certified, label, -1), np.where(certified, SIGMA * ndtri(p), 0.0)


def compare_certify(rows: int, classes: int, dtype: type) -> None:
    logits = np.random.default_rng(rows).normal(scale=3.0, size=(rows, classes)).astype(dtype)
    logits[np.arange(rows), np.arange(rows) % classes] += 12.0
    kernel = _C.Kernel(KNOTS_Q, KNOTS_P, SIGMA)
    label, _, _, radius = kernel.certify(logits)
    other_label, other_radius = certify_with_scipy(logits)
    np.testing.assert_array_equal(label, other_label)
    np.testing.assert_allclose(radius, other_radius, rtol=1e-9)
    functions: list[Callable[[], object]] = [
        lambda: certify_with_scipy(logits),
        lambda: kernel.certify(logits),
        lambda: _C.certify(logits, KNOTS_Q, KNOTS_P, SIGMA),
    ]
    if rows == 1:
        functions.append(lambda: kernel.certify_one(logits))
    theirs, *ours = seconds_each(*functions)
    ratios = [
        f"{name} {t * 1e6:.2f} us {theirs / t:.1f} x"
        for name, t in zip(("Kernel.certify", "certify", "certify_one"), ours, strict=False)
    ]
    print(f"certify {rows:>5} x {classes:<5}{logits.dtype}  numpy+scipy {theirs * 1e6:9.2f} us   " + "   ".join(ratios))


def compare_planes(size: int) -> None:
    images = np.random.default_rng(size).integers(0, 256, size=(1, size, size, 3), dtype=np.uint8)
    out = np.empty((1, 3, size, size), dtype=np.float32)

    def with_numpy() -> NDArray[np.float32]:
        return np.divide(images.transpose(0, 3, 1, 2), np.float32(255), dtype=np.float32, order="C")

    _C.pixels_to_planes(images, out)
    np.testing.assert_array_equal(out, with_numpy())
    ours, theirs, divided_first = seconds_each(
        lambda: _C.pixels_to_planes(images, out),
        with_numpy,
        lambda: np.ascontiguousarray(np.divide(images, np.float32(255), dtype=np.float32).transpose(0, 3, 1, 2)),
    )
    print(
        f"planes  {size:>5} x {size:<5} pixels_to_planes {ours * 1e6:7.2f} us   numpy's divide of the transposed "
        f"{theirs * 1e6:.2f} us {theirs / ours:.1f} x   transpose of the divided {divided_first * 1e6:.2f} us "
        f"{divided_first / ours:.1f} x"
    )


def compare_noise(pixels: int, draws: int) -> None:
    rng = np.random.default_rng(pixels)
    images = rng.integers(0, 256, size=(1, pixels), dtype=np.uint8)
    floats = images.astype(np.float32) / np.float32(255)
    ids = np.array([1], dtype=np.uint64)
    out = np.empty((1, draws, pixels), dtype=np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(floats[:, None], out.shape)))
    grid, gaussian = GridSampler(SIGMA), GaussianSampler(SIGMA)
    times = seconds_each(
        lambda: grid.fill(images, ids, first_draw=0, draws=draws, seed=0, stream=0, out=out),
        lambda: gaussian.fill(floats, ids, first_draw=0, draws=draws, seed=0, stream=0, out=out),
        lambda: tensor + SIGMA * torch.randn_like(tensor),
    )
    ns = [t / out.size * 1e9 for t in times]
    print(
        f"noise   {draws:>5} x {pixels:<5} grid {ns[0]:5.2f} ns/pixel   gaussian {ns[1]:5.2f}   "
        f"torch.randn_like {ns[2]:5.2f}   {ns[2] / ns[0]:5.1f} x and {ns[2] / ns[1]:.1f} x"
    )


def main() -> None:
    torch.set_num_threads(1)
    for rows, classes in ((1, 10), (1, 1000), (1024, 10), (1024, 1000)):
        for dtype in (np.float32, np.float64):
            compare_certify(rows, classes, dtype)
    for size in (32, 224):
        compare_planes(size)
    for pixels, draws in ((64, 250), (784, 250), (3072, 250)):
        compare_noise(pixels, draws)


if __name__ == "__main__":
    main()
