"""Time for one certificate, single pass against Monte Carlo; kept apart from the table, which must not vary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TIMING_SCHEMA = "rrise-timing/1"


@dataclass(frozen=True)
class Latency:
    """Time for one certificate, in milliseconds: medians and quartiles of interleaved runs on one machine."""

    single_pass_ms: tuple[float, float, float]
    monte_carlo_ms: tuple[float, float, float]
    images: int
    repeats: int

    @property
    def ratio(self) -> float:
        """How many times longer Monte Carlo takes, by the medians."""
        return self.monte_carlo_ms[1] / self.single_pass_ms[1]


def measure_latency(
    single_pass: Callable[[int], object], monte_carlo: Callable[[int], object], *, images: int, repeats: int
) -> Latency:
    """Return the times of one certificate either way, measured by turns so that a busy machine slows both alike.

    Parameters
    ----------
    single_pass, monte_carlo : callable
        Make one certificate of the test image whose index (0 .. images - 1) they are given.
    images, repeats : int
        Every image is timed ``repeats`` times; one warm-up call of each comes first and is not counted.
    """
    times = times_by_turns((single_pass, monte_carlo), images=images, repeats=repeats)
    return Latency(
        single_pass_ms=_quartiles_ms(times[0]), monte_carlo_ms=_quartiles_ms(times[1]), images=images, repeats=repeats
    )


def times_by_turns(runs: Sequence[Callable[[int], object]], *, images: int, repeats: int) -> list[list[int]]:
    """Return the nanoseconds of every call of several functions, taken by turns so that a busy machine slows all alike.

    Parameters
    ----------
    runs : sequence of callable
        Each is given the index of an image, 0 .. images - 1.
    images, repeats : int
        Every image is timed ``repeats`` times; one warm-up call of each comes first and is not counted.

    Raises
    ------
    ValueError
        If one of the numbers is below 1.
    """
    if images < 1 or repeats < 1:
        raise ValueError(f"latency: expected at least 1 image and 1 repeat, got {images} and {repeats}. Time some.")
    times: list[list[int]] = [[] for _ in runs]
    for run in runs:
        run(0)
    for turn in range(images * repeats):
        # Who goes first changes (by image and by round), so that what one leaves in the caches favours none.
        for place in range(len(runs)):
            which = (place + turn + turn // images) % len(runs)
            start = time.perf_counter_ns()
            runs[which](turn % images)
            times[which].append(time.perf_counter_ns() - start)
    return times


def timing_as_json(latency: Latency) -> str:
    """Return the measured times as JSON text of schema ``rrise-timing/1``; they differ from run to run."""
    body = {
        "schema": TIMING_SCHEMA,
        "quantiles": [0.25, 0.5, 0.75],
        "single_pass_ms": latency.single_pass_ms,
        "monte_carlo_ms": latency.monte_carlo_ms,
        "ratio": latency.ratio,
        "images": latency.images,
        "repeats": latency.repeats,
    }
    return json.dumps(body, indent=2, allow_nan=False) + "\n"


def _quartiles_ms(nanoseconds: list[int]) -> tuple[float, float, float]:
    low, middle, high = (float(value) / 1e6 for value in np.quantile(nanoseconds, (0.25, 0.5, 0.75)))
    return low, middle, high
