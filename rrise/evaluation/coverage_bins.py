"""Coverage by confidence: how often the bounds hold among the small ones, and among the large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rrise.calibration.bounds import clopper_pearson_interval
from rrise.evaluation.metrics import Share, bounds_met

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates

BIN_EDGES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Bins of the bound, fixed before any is seen; the second one is the boundary set."""
INTERVAL_LEVEL = 0.05


@dataclass(frozen=True)
class CoverageBin:
    """The bounds in ``(low, high]``: how many hold, and how many the reference draws refute.

    Attributes
    ----------
    low, high : float
        The bin of ``p_lower``.
    holds : Share
        Bounds that the reference's plain share of the label reaches, among those of the bin.
    refuted : Share
        Bounds above the reference's upper Clopper-Pearson bound, among those of the bin.
    interval : tuple of float
        Exact 95% interval (Clopper-Pearson, 2.5% on either side) of the share that holds; NaN of an empty bin.
    """

    low: float
    high: float
    holds: Share
    refuted: Share
    interval: tuple[float, float]


def coverage_by_bin(
    certificates: Certificates, predicted: ArrayLike, reference: ArrayLike, edges: Sequence[float] = BIN_EDGES
) -> tuple[CoverageBin, ...]:
    """Return how many bounds the reference counts agree with, by the size of the bound.

    A promise over all inputs says nothing about any one bin; this shows where its failures are. A bound of 0 claims
    nothing and is in no bin.

    Parameters
    ----------
    certificates, predicted, reference
        As in :func:`rrise.evaluation.metrics.coverage`.
    edges : sequence of float
        Ends of the bins ``(low, high]``, increasing, in [0, 1].

    Raises
    ------
    ValueError
        If the edges do not increase within [0, 1], or as :func:`rrise.evaluation.metrics.coverage` does.
    """
    ends = [float(edge) for edge in edges]
    if len(ends) < 2 or not all(0 <= a < b <= 1 for a, b in pairwise(ends)):
        raise ValueError(f"edges: expected two or more increasing values in [0, 1], got {ends}. Try 0 0.5 0.75 1.")
    holds, refuted = bounds_met(certificates, predicted, reference)
    bins = []
    for low, high in pairwise(ends):
        inside = (certificates.p_lower > low) & (certificates.p_lower <= high)
        total, good = int(np.count_nonzero(inside)), int(np.count_nonzero(holds & inside))
        interval = (math.nan, math.nan)
        if total:
            lower, upper = clopper_pearson_interval(good, total, INTERVAL_LEVEL)
            interval = (float(lower), float(upper))
        bins.append(
            CoverageBin(
                low=low,
                high=high,
                holds=Share(good, total),
                refuted=Share(int(np.count_nonzero(refuted & inside)), total),
                interval=interval,
            )
        )
    return tuple(bins)
