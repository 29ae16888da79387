"""A guarantee inside each bin of q: every bin has its own rank among its own calibration inputs.

Which bin an input falls in depends on the input alone. Given the bins of all inputs, those of one bin are still
exchangeable (independent, if they were) with a new input of that bin, so every theorem about M inputs holds for the
M_b of a bin: Mondrian conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World"
(2005), section 4.5; Vovk, "Conditional validity of inductive conformal predictors" (2012), section 3). So given its bin
a new input's bound lies below the curve with probability at most gamma, and the curve is wrong about it with at most
gamma / (1 - beta): docs/theory.md, Theorem 1, where the bin is part of what the input decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.curves import Family, interpolated_down
from rrise.calibration.guarantees import TRAINING_CONDITIONAL, conformal_rank, exact, fewest_images

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEVELS = (0.5, 0.75, 0.9, 0.99)
"""Where the median bound crosses these, a bin may begin; the first one is the boundary band."""
_SMALLEST_EDGE = 1e-9


@dataclass(frozen=True)
class Bin:
    """The inputs with q from ``start`` up to the next bin, and what calibration found among them.

    Parameters
    ----------
    start : float
        Smallest q of the bin, in [0, 1).
    images : int
        Calibration inputs in the bin.
    rank : int
        Which of their scores, in rising order, was taken.
    t : float
        That score.
    """

    start: float
    images: int
    rank: int
    t: float


def bin_edges(family: Family, q: ArrayLike, images: int, guarantee: str, gamma: float, eta: float) -> tuple[float, ...]:
    """Return where bins begin, from the profile alone: the boundary band first, then higher confidences.

    The band is where the profile's median bound lies in (1/2, 3/4). Below it nothing is certified and there is no bin.
    A bin that would not hold enough calibration inputs, three standard deviations below the number that the profile
    leads to expect, is widened upwards.

    Parameters
    ----------
    family : Family
        The profile's curves; ``h`` is the median bound.
    q : float64[N]
        The profile's top probabilities. No calibration input may be among them: edges that follow the calibration
        inputs void the guarantee.
    images : int
        Calibration inputs to come, M.
    guarantee, gamma, eta
        As for :func:`bin_thresholds`.

    Returns
    -------
    tuple of float
        Increasing, in [0, 1); at least one.
    """
    x = np.asarray(q, dtype=np.float64)
    x = np.sort(x[~np.isnan(x)])
    crossings = [float(np.interp(level, family.h, family.knots_q)) for level in LEVELS if level < family.h.max()]
    starts = sorted({edge if edge > _SMALLEST_EDGE else 0.0 for edge in crossings if edge < 1}) or [0.0]
    needed = fewest_images(guarantee, gamma, _share(eta, len(starts)))
    below = np.searchsorted(x, starts, side="left")
    edges, first = [starts[0]], int(below[0])
    for start, i in zip(starts[1:], below[1:].tolist(), strict=True):
        if _surely(images, (i - first) / x.size) >= needed:
            edges.append(start)
            first = i
    if len(edges) > 1 and _surely(images, (x.size - first) / x.size) < needed:
        edges.pop()
    return tuple(edges)


def bin_thresholds(
    q: ArrayLike, scores: ArrayLike, edges: tuple[float, ...], guarantee: str, gamma: float, eta: float
) -> tuple[Bin, ...]:
    """Return for each bin the score at the rank that the guarantee needs among the bin's own M_b inputs.

    Marginal: a new input of the bin has a score above the bin's t with probability at most gamma, given M_b.
    Training-conditional: with probability at least 1 - eta over the calibration inputs, that holds in all B bins at
    once, of the very t's; each bin spends eta / B (Bonferroni).

    Parameters
    ----------
    q, scores : float64[M]
        Of the calibration inputs. An input with q of NaN or below the first edge claims nothing and is in no bin.
    edges : tuple of float
        From :func:`bin_edges`: fixed before any calibration input was seen.
    guarantee : str
        "marginal" or "training-conditional".
    gamma, eta : float
        As for :func:`rrise.calibration.guarantees.training_conditional_rank`.

    Raises
    ------
    ValueError
        If a bin holds too few inputs for any rank; the message names the bin and how many are needed.
    """
    x, values = np.asarray(q, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    share = _share(eta, len(edges))
    which = np.where(np.isnan(x), 0, np.searchsorted(edges, x, side="right"))  # 0: no bin
    needed = fewest_images(guarantee, gamma, share)
    found = []
    for b, start in enumerate(edges, start=1):
        inside = np.sort(values[which == b])
        if inside.size < needed:
            stop = f"below {edges[b]:.6g}" if b < len(edges) else "up to 1"
            spent = f" at eta {eta} / {len(edges)}" if guarantee == TRAINING_CONDITIONAL else ""
            raise ValueError(
                f"calibration: expected at least {needed} images with q from {start:.6g} {stop} for gamma {gamma}"
                f"{spent}, got {inside.size}. Use more images, raise gamma, or use the scaled curve."
            )
        rank = conformal_rank(guarantee, inside.size, gamma, share)
        found.append(Bin(start, inside.size, rank, max(0.0, float(inside[rank - 1]))))
    return tuple(found)


def binned_curve(family: Family, bins: tuple[Bin, ...], cap: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return knots of the curve that is the family's L_t with each bin's own t, and 0 below the first bin.

    Where bins meet, two knots lie on neighbouring float64 numbers, so that every float64 q is answered by its own bin,
    and never above that bin's L_t(q); the curve may jump either way.

    Returns
    -------
    knots_q, knots_p : float64[J]
        As of :meth:`rrise.calibration.curves.Family.at`.
    """
    starts = [b.start for b in bins]
    pieces = [[(0.0, 0.0), (math.nextafter(starts[0], 0.0), 0.0)]] if starts[0] > 0 else []
    for b, (start, following) in zip(bins, pairwise([*starts, math.inf]), strict=True):
        stop = 1.0 if following == math.inf else math.nextafter(following, 0.0)
        knots_q, knots_p = family.at(b.t, cap)
        inner = (knots_q > start) & (knots_q < stop)
        ends = sorted({start, stop})
        knots = [(x, interpolated_down(knots_q, knots_p, x)) for x in ends]
        knots += zip(knots_q[inner].tolist(), knots_p[inner].tolist(), strict=True)
        pieces.append(sorted(knots))
    joined = np.array([knot for piece in pieces for knot in piece])
    return joined[:, 0].copy(), joined[:, 1].copy()


def _share(eta: float, bins: int) -> Fraction:
    return exact("eta", eta) / bins


def _surely(images: int, share: float) -> float:
    expected = images * share
    return expected - 3 * math.sqrt(expected * (1 - share))
