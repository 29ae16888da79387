"""Speed of the compiled kernel beside what a user would run instead, on one thread.

``python benchmarks/kernel.py`` prints, for three shapes of logits, the time of ``certify`` and its ratio to numpy and
scipy doing the same (softmax, linear interpolation, ``ndtri``), and the nanoseconds a pixel of both noise samplers
beside ``x + sigma * torch.randn_like(x)``. Both sides take turns, and the median of the turns is printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri, softmax

from rrise import _C
from rrise.targets.noise import GaussianSampler, GridSampler

SIGMA = 0.5
KNOTS_Q = np.linspace(0.0, 1.0, 51)
KNOTS_P = 0.998 * KNOTS_Q**1.1


def seconds_each(*functions: Callable[[], object], turns: int = 31, turn_s: float = 0.02) -> list[float]:
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


def certify_with_scipy(logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and radii the plain way: no downward rounding, no check for NaN."""
    label = logits.argmax(axis=1)
    q = softmax(logits.astype(np.float64), axis=1)[np.arange(len(logits)), label]
    p = np.interp(q, KNOTS_Q, KNOTS_P)
    certified = p > 0.5
    return np.where(certified, label, -1), np.where(certified, SIGMA * ndtri(p), 0.0)


def compare_certify(rows: int, classes: int) -> None:
    logits = np.random.default_rng(rows).normal(scale=3.0, size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), np.arange(rows) % classes] += 12.0
    label, _, _, radius = _C.certify(logits, KNOTS_Q, KNOTS_P, SIGMA)
    other_label, other_radius = certify_with_scipy(logits)
    np.testing.assert_array_equal(label, other_label)
    np.testing.assert_allclose(radius, other_radius, rtol=1e-9)
    ours, theirs = seconds_each(lambda: _C.certify(logits, KNOTS_Q, KNOTS_P, SIGMA), lambda: certify_with_scipy(logits))
    print(
        f"certify {rows:>5} x {classes:<5} {ours * 1e6:10.2f} us   "
        f"numpy+scipy {theirs * 1e6:10.2f} us   {theirs / ours:5.1f} x"
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
    for rows, classes in ((1, 10), (1, 1000), (1024, 1000)):
        compare_certify(rows, classes)
    for pixels, draws in ((64, 250), (784, 250), (3072, 250)):
        compare_noise(pixels, draws)


if __name__ == "__main__":
    main()
