"""Time for one certificate, single pass against Monte Carlo; kept apart from the table, which must not vary."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rrise.evaluation.costs import BreakEven

TIMING_SCHEMA = "rrise-timing/1"
Quartiles = tuple[float, float, float]
"""Lower quartile, median and upper quartile of measured times."""


@dataclass(frozen=True)
class Latency:
    """Time for one certificate, in milliseconds: medians and quartiles of interleaved runs on one machine.

    Attributes
    ----------
    single_pass_ms, monte_carlo_ms : tuple of float
        Of the deployed certifier and of the baseline.
    images, repeats : int
        How many images were timed, and how often each.
    others_ms : mapping of str to tuple of float
        Of further certifiers, by name.
    offline_seconds : float or None
        Measured seconds before the first single-pass certificate: targets, fit and calibration. None if not measured.
    """

    single_pass_ms: Quartiles
    monte_carlo_ms: Quartiles
    images: int
    repeats: int
    others_ms: Mapping[str, Quartiles] = field(default_factory=dict)
    offline_seconds: float | None = None

    @property
    def ratio(self) -> float:
        """How many times longer Monte Carlo takes, by the medians."""
        return self.monte_carlo_ms[1] / self.single_pass_ms[1]


def measure_latency(
    single_pass: Callable[[int], object],
    monte_carlo: Callable[[int], object],
    *,
    images: int,
    repeats: int,
    others: Mapping[str, Callable[[int], object]] | None = None,
    offline_seconds: float | None = None,
) -> Latency:
    """Return the times of one certificate in each way, measured by turns so that a busy machine slows all alike.

    Parameters
    ----------
    single_pass, monte_carlo : callable
        Make one certificate of the test image whose index (0 .. images - 1) they are given.
    images, repeats : int
        Every image is timed ``repeats`` times; one warm-up call of each comes first and is not counted.
    others : mapping of str to callable, optional
        Further certifiers, by the name of their contender.
    offline_seconds : float, optional
        Seconds that targets, fit and calibration took, if they were measured.
    """
    more = dict(others or {})
    first, second, *rest = times_by_turns((single_pass, monte_carlo, *more.values()), images=images, repeats=repeats)
    return Latency(
        single_pass_ms=_quartiles_ms(first),
        monte_carlo_ms=_quartiles_ms(second),
        images=images,
        repeats=repeats,
        others_ms={name: _quartiles_ms(times) for name, times in zip(more, rest, strict=True)},
        offline_seconds=offline_seconds,
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


def timing_as_json(latency: Latency, against: Sequence[BreakEven] = ()) -> str:
    """Return the measured times as JSON text of schema ``rrise-timing/1``; they differ from run to run.

    Parameters
    ----------
    latency : Latency
    against : sequence of BreakEven, optional
        Of the comparison's costs: what follows from the times.
    """
    body = {
        "schema": TIMING_SCHEMA,
        "quantiles": [0.25, 0.5, 0.75],
        "single_pass_ms": latency.single_pass_ms,
        "monte_carlo_ms": latency.monte_carlo_ms,
        "ratio": latency.ratio,
        "others_ms": dict(latency.others_ms),
        "offline_seconds": latency.offline_seconds,
        "break_even": [
            {
                "name": entry.name,
                "seconds_each": entry.seconds_each,
                "certificates": entry.seconds if entry.seconds is not None and math.isfinite(entry.seconds) else None,
            }
            for entry in against
        ],
        "images": latency.images,
        "repeats": latency.repeats,
    }
    return json.dumps(body, indent=2, allow_nan=False) + "\n"


def _quartiles_ms(nanoseconds: list[int]) -> Quartiles:
    low, middle, high = (float(value) / 1e6 for value in np.quantile(nanoseconds, (0.25, 0.5, 0.75)))
    return low, middle, high
