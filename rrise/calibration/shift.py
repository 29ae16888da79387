"""Calibration for service with other class frequencies: inputs count by their true class (label shift)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.guarantees import exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class ShiftRank:
    """Which calibration score bounds a new one under the frequencies in service.

    Parameters
    ----------
    rank : int
        Which of the M scores, in rising order.
    effective : float
        Effective sample size, (sum w)^2 / sum w^2: M where every input counts the same, fewer otherwise.
    """

    rank: int
    effective: float


def exact_priors(priors: Sequence[float]) -> tuple[Fraction, ...]:
    """Return class frequencies as fractions of sum 1, read as decimals; ValueError if they are none.

    >>> exact_priors((0.25, 0.75))
    (Fraction(1, 4), Fraction(3, 4))
    """
    if len(priors) < 2 or not all(math.isfinite(p) and p >= 0 for p in priors):
        raise ValueError(
            f"priors: expected one number of at least 0 for each class, got {tuple(priors)}. Name them all."
        )
    shares = [Fraction(str(p)) for p in priors]
    total = sum(shares, start=Fraction(0))
    if abs(total - 1) > Fraction(1, 10**6):
        raise ValueError(f"priors: expected frequencies that sum to 1, got {float(total):.9g}. Divide them by it.")
    return tuple(share / total for share in shares)


@dataclass(frozen=True)
class ShiftWeights:
    """What calibration inputs count by their class, and how much may lie above the score that is taken.

    Parameters
    ----------
    each : tuple of K Fractions
        Weight of one input of each class, prior_y / (M_y + 1).
    budget : Fraction
        Largest weight of the inputs whose scores lie above the one taken, at least 0.
    effective : float
        Effective sample size.
    """

    each: tuple[Fraction, ...]
    budget: Fraction
    effective: float


def shift_weights(counts: Sequence[int], priors: Sequence[float], gamma: float) -> ShiftWeights:
    """Return the weights of calibration inputs, ``counts`` of them in each class; they depend on nothing else.

    Raises
    ------
    ValueError
        If a class in service has no calibration input, or the effective sample size is too small for gamma.
    """
    shares, allowed = exact_priors(priors), exact("gamma", gamma)
    for y, (share, count) in enumerate(zip(shares, counts, strict=True)):
        if share > 0 and count == 0:
            raise ValueError(
                f"calibration: expected images of class {y}, whose prior is {float(share):g}, got none. Add some."
            )
    weights = tuple(share / (count + 1) for share, count in zip(shares, counts, strict=True))
    spare, fewest = sum(weights), min(count for share, count in zip(shares, counts, strict=True) if share > 0)
    budget = allowed - min(spare, max(weights) + (allowed + spare) / (1 + fewest))
    mass = sum(w * m for w, m in zip(weights, counts, strict=True))
    effective = float(mass**2 / sum(w**2 * m for w, m in zip(weights, counts, strict=True)))
    needed = math.ceil(1 / allowed) - 1
    if budget < 0 or effective < needed:
        raise ValueError(
            f"calibration: expected images worth at least {needed} for gamma {gamma} under these priors, more where a "
            f"class is rare, got {sum(counts)} worth {effective:.1f} with {fewest} of the rarest class. Use more "
            "images of the classes that are frequent in service, or raise gamma."
        )
    return ShiftWeights(weights, budget, effective)


def shift_rank(scores: ArrayLike, labels: ArrayLike, priors: Sequence[float], gamma: float) -> ShiftRank:
    """Return the rank whose score a new one exceeds with P <= gamma, when its class is drawn from ``priors``.

    Given the labels, calibration inputs of class y must be exchangeable with new inputs of class y; how often each
    class occurs among them is arbitrary. The probability is over calibration set and new input together (marginal); it
    makes a promise of gamma / (1 - beta) by Theorem 1 of docs/theory.md, the new input's class drawn from the priors.

    Parameters
    ----------
    scores : float64[M]
        Calibration scores.
    labels : int[M]
        TRUE classes of the calibration inputs, 0 to K - 1.
    priors : sequence of K floats
        Class frequencies in service, summing to 1.
    gamma : float
        Allowed probability.

    Raises
    ------
    ValueError
        If a class in service has no calibration input, or the effective sample size is too small for gamma.

    Notes
    -----
    The weight of an input of class y is w_y = prior_y / (M_y + 1): the ratio of its frequencies in service and in
    calibration, but for the factor M and the + 1 that makes room for a new input. Let A(s) be the weight of the
    scores above s. The k-th smallest score is taken with the smallest k such that A <= gamma less what stands for
    the new input, whose class is not known. Two deductions are proved, and the smaller is used:

    (a) sum_y w_y. Add one new input to every class: each class then has M_y + 1 exchangeable scores, and the total
    weight is 1. The smallest s at which the weight above, new ones included, is at most gamma is a symmetric function
    of each class's scores, so a new input of a class drawn from the priors lies above it with probability at most
    gamma; and t is at least that s, however large the new scores are.

    (b) max_y w_y + (gamma + sum_y w_y) / (1 + min_y M_y), over classes in service. With g = gamma - (gamma +
    sum w) / (1 + min M), t satisfies A(t) <= g - max w. Let a new input of class y join; any of the M_y + 1 may be it.
    If input j of them would be missed when the others calibrate, then the weight above that t, j included, is at
    most g, so j lies above s_g, the smallest s with A(s) <= g (before the new input joined; joining only raises it).
    Summed over classes, the chance of a miss is at most A(s_g) <= g, plus sum_y w_y P[a new input of class y lies above
    s_g] <= (sum_y prior_y P[...]) / (1 + min M) <= (g + sum w) / (1 + min M), the last by (a).

    References
    ----------
    Podkopaev and Ramdas, "Distribution-free uncertainty quantification for classification under label shift" (2021),
    section 2.2; Tibshirani, Foygel Barber, Candès and Ramdas, "Conformal prediction under covariate shift" (2019),
    lemma 3. There the frequencies in calibration are known and the largest weight alone is deducted.
    """
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    shares = exact_priors(priors)
    if classes.shape != values.shape or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels: expected integers of shape {values.shape} like the scores, got {classes.dtype} of shape "
            f"{classes.shape}. Pass the true class of each calibration input."
        )
    if classes.size == 0 or classes.min() < 0 or classes.max() >= len(shares):
        raise ValueError(
            f"labels: expected classes 0 to {len(shares) - 1} as priors has, got others. Pass one prior for each class."
        )
    found = shift_weights(np.bincount(classes, minlength=len(shares)).tolist(), priors, gamma)
    # Whole numbers of one denominator: sums of weights are exact.
    unit = math.lcm(*(w.denominator for w in found.each), found.budget.denominator)
    whole, left = [int(w * unit) for w in found.each], int(found.budget * unit)
    rank = values.size
    for y in classes[np.argsort(values, kind="stable")][::-1].tolist():
        left -= whole[y]
        if left < 0 or rank == 1:
            break
        rank -= 1
    return ShiftRank(rank, found.effective)
