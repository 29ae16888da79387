"""What attacks say of certificates: how the deployed engine and the smoothed classifier answer at attacked points.

A certificate of x speaks of the smoothed classifier g in the ball around x. Two questions follow. Does g keep its label
there? That is what is promised, and an attack can only refute it. Does the *surrogate* keep its label there? That is
promised by nothing, and an attack measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrise.calibration.bounds import clopper_pearson, clopper_pearson_interval
from rrise.runtime.certificates import ABSTAIN, Certificates

CONFIDENCE = 0.95
"""Of the Clopper-Pearson intervals."""
EXCEEDED_LEVEL = 1e-3
"""Chance that certificates that keep their promise are called refuted, given how often the judge may err."""


@dataclass(frozen=True)
class Rate:
    """A count out of a total with its exact interval of confidence 95%; [0, 1] of nothing."""

    count: int
    total: int
    lower: float
    upper: float

    @classmethod
    def of(cls, hits: NDArray[np.bool_]) -> Rate:
        """Return the rate of the true values in bool[N]."""
        return cls.counted(int(np.count_nonzero(hits)), len(hits))

    @classmethod
    def counted(cls, count: int, total: int) -> Rate:
        """Return the rate of ``count`` in ``total``."""
        if not total:
            return cls(0, 0, 0.0, 1.0)
        lower, upper = clopper_pearson_interval(count, total, 1 - CONFIDENCE)
        return cls(count, total, float(lower), float(upper))


@dataclass(frozen=True, eq=False)
class Attacked:
    """What was answered at the points of one attack, one row a certified image.

    Parameters
    ----------
    attack : str
        What was attacked: ``surrogate`` or ``smoothed``.
    reach : float
        Radius of the attack as a multiple of the certified one.
    distance : float64[N]
        ℓ2 from image to point, in units of pixels in [0, 1].
    surrogate : int64[N]
        The deployed engine's label; -1 where its logits are not finite.
    certificates : Certificates
        The bundle's at the points.
    smoothed : int64[N]
        The smoothed classifier's label by the test of noisy draws; -1 where the draws do not decide.
    """

    attack: str
    reach: float
    distance: NDArray[np.float64]
    surrogate: NDArray[np.int64]
    certificates: Certificates
    smoothed: NDArray[np.int64]


@dataclass(frozen=True)
class AttackRow:
    """What one attack within one multiple of the radius came to; rates are of the certified images.

    Attributes
    ----------
    surrogate_flips : Rate
        The surrogate's label is not the certified one.
    uncovered : Rate
        The same although the smoothed classifier keeps the certified label. The certificate does not cover this.
    smoothed_flips, smoothed_undecided : Rate
        The smoothed classifier has another label; the draws do not decide.
    other_certificates : Rate
        The bundle certifies another label at the attacked point.
    false_certificates : Rate
        The same although the smoothed classifier keeps the certified label there: a false certificate.
    other_radius : tuple of float or None
        Mean and largest radius of ``other_certificates``, in units of pixels in [0, 1].
    """

    attack: str
    reach: float
    surrogate_flips: Rate
    uncovered: Rate
    smoothed_flips: Rate
    smoothed_undecided: Rate
    other_certificates: Rate
    false_certificates: Rate
    other_radius: tuple[float, float] | None


@dataclass(frozen=True)
class Refutations:
    """Images whose certificate an attack refuted: inside the radius, the smoothed classifier has another label.

    Attributes
    ----------
    found : Rate
        Refuted certificates among all images that were shown to the bundle, abstentions too, as the promise counts.
    promised : float
        Largest share that the guarantee allows, the bundle's promise.
    doubt : float
        Chance that the judge errs on an image.
    exceeded : bool
        Whether more were refuted than promise and doubt explain, at a one-sided level of 0.001.
    """

    found: Rate
    promised: float
    doubt: float
    exceeded: bool


@dataclass(frozen=True)
class SmallestFlips:
    """The smallest perturbations found that flip the surrogate, as shares of the certified radius.

    Attributes
    ----------
    found : Rate
        Certified images for which one was found within the largest multiple.
    least : float or None
        The smallest of all.
    quartiles : tuple of three (float or None)
        25%, 50% and 75% of all certified images; None where none was found for so many.
    """

    found: Rate
    least: float | None
    quartiles: tuple[float | None, float | None, float | None]


def attack_row(found: Attacked, labels: NDArray[np.int64], radii: NDArray[np.float64]) -> AttackRow:
    """Return the rates of one attack on images certified with these labels int64[N] and radii float64[N].

    Raises
    ------
    ValueError
        If a point lies outside its ball: it would say nothing about the certificate.
    """
    if not (found.distance <= found.reach * radii).all():
        row = int(np.argmax(found.distance - found.reach * radii))
        raise ValueError(
            f"points: expected them within {found.reach:g} times the certified radius {radii[row]}, got distance "
            f"{found.distance[row]} in row {row}. Project the attack into the ball."
        )
    left, kept = found.surrogate != labels, found.smoothed == labels
    other = ~found.certificates.abstained & (found.certificates.label != labels)
    theirs = found.certificates.radius[other]
    return AttackRow(
        attack=found.attack,
        reach=found.reach,
        surrogate_flips=Rate.of(left),
        uncovered=Rate.of(left & kept),
        smoothed_flips=Rate.of(_refuted(found, labels)),
        smoothed_undecided=Rate.of(found.smoothed == ABSTAIN),
        other_certificates=Rate.of(other),
        false_certificates=Rate.of(other & kept),
        other_radius=(float(theirs.mean()), float(theirs.max())) if len(theirs) else None,
    )


def refutations(
    found: Iterable[Attacked], labels: NDArray[np.int64], *, shown: int, promised: float, doubt: float
) -> Refutations:
    """Return how many certificates the attacks within the certified radius refuted, beside what is promised.

    Parameters
    ----------
    found : iterable of Attacked
        Those beyond the certified radius are left out.
    labels : int64[N]
        Certified labels.
    shown : int
        Images that the bundle was shown to get these N certificates, at least N.
    promised, doubt : float
        As in :class:`Refutations`.
    """
    hit = np.zeros(len(labels), dtype=np.bool_)
    for attacked in found:
        if attacked.reach <= 1:
            hit |= _refuted(attacked, labels)
    count, most = int(np.count_nonzero(hit)), promised + doubt
    exceeded = shown > 0 and float(clopper_pearson(count, shown, EXCEEDED_LEVEL)) > most
    return Refutations(Rate.counted(count, shown), promised, doubt, exceeded)


def smallest_of(distances: ArrayLike, radii: NDArray[np.float64]) -> SmallestFlips:
    """Return the quartiles of distances float64[N], +inf where no flip was found, as shares of radii float64[N]."""
    shares = np.asarray(distances, dtype=np.float64) / radii
    cuts = [math.inf] * 4
    if len(shares):  # no interpolation: with +inf it would give NaN
        cuts = np.quantile(shares, (0.0, 0.25, 0.5, 0.75), method="higher").tolist()
    least, first, middle, last = (cut if math.isfinite(cut) else None for cut in cuts)
    return SmallestFlips(Rate.of(np.isfinite(shares)), least, (first, middle, last))


def _refuted(found: Attacked, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    refuted: NDArray[np.bool_] = (found.smoothed != labels) & (found.smoothed != ABSTAIN)
    return refuted
