"""What a set of certificates is worth: pure functions of certificates, true labels and reference counts.

Certificates are compared with labels of the test set, and their bounds with the counts of many more noisy draws.
An abstention is never correct and has radius 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrise.calibration.bounds import clopper_pearson

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates

BOUNDARY = (0.5, 0.75)
REFUTATION_LEVEL = 1e-3
_COINCIDENCE = 1e-3
LOWER_CONFIDENCE = 0.99
"""Confidence of the tables' lower bounds on true certified accuracy."""


@dataclass(frozen=True)
class Share:
    """A count out of a total, kept as integers so that a small denominator stays visible."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of an empty set."""
        return self.count / self.total if self.total else math.nan


@dataclass(frozen=True)
class Boundary:
    """The certificates with ``0.5 < p_lower < 0.75``: how many, how often right, how large.

    Attributes
    ----------
    mass : Share
        Boundary inputs among all inputs.
    accuracy : Share
        Correct ones among the boundary inputs.
    mean_radius : float
        Mean certified radius of the boundary inputs, NaN if there are none.
    """

    mass: Share
    accuracy: Share
    mean_radius: float


@dataclass(frozen=True)
class Coverage:
    """How many of the bounds ``p(label) >= p_lower`` the reference draws agree with.

    ``overall``, ``boundary`` and ``certified`` compare the bound with the reference's plain share of the label, which
    is itself an estimate: a bound close to the truth is counted as broken about half the time it is met. ``refuted``
    counts only bounds that the reference contradicts beyond its own noise (one-sided level 0.001 an input).

    Attributes
    ----------
    overall, boundary, certified : Share
        Bounds that hold among all inputs, among those with ``0.5 < p_lower < 0.75``, among certified ones.
    refuted : Share
        Bounds above the reference's upper Clopper-Pearson bound, among all inputs.
    refuted_certified : Share
        The same among certified inputs.
    """

    overall: Share
    boundary: Share
    certified: Share
    refuted: Share
    refuted_certified: Share


def certified_accuracy(certificates: Certificates, labels: ArrayLike, radii: ArrayLike) -> NDArray[np.float64]:
    """Return the share of all inputs that are certified, correct, and certified at least up to each radius.

    Parameters
    ----------
    certificates : Certificates
    labels : int[B]
        True classes.
    radii : float[R]
        Radii in ℓ2 of [0, 1] pixels, at least 0.

    Returns
    -------
    float64[R]
    """
    wanted = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    if not np.all(wanted >= 0):
        raise ValueError(f"radii: expected values >= 0, got {wanted.tolist()}. Certified radii are never negative.")
    reached = np.sort(certificates.radius[_correct(certificates, labels)])
    return (reached.size - np.searchsorted(reached, wanted, side="left")) / len(certificates)


def certified_accuracy_lower(
    certificates: Certificates,
    labels: ArrayLike,
    radii: ArrayLike,
    *,
    error: float,
    confidence: float = LOWER_CONFIDENCE,
) -> NDArray[np.float64]:
    """Return lower bounds on the certified accuracy that is true of the population these inputs are a sample of.

    True at a radius means: the label is right, and the smoothed classifier gives it everywhere within. An input that is
    certified and correct is that unless its certificate is wrong, so the true share is at least the expected measured
    share less the probability of a wrong certificate. The first is bounded from below by Clopper and Pearson, from the
    number of inputs; the second is what the certifier promises.

    Parameters
    ----------
    certificates : Certificates
        Of inputs drawn independently, that had no part in calibration.
    labels : int[B]
        True classes.
    radii : float[R]
        Radii in ℓ2 of [0, 1] pixels, at least 0.
    error : float
        Promised failure probability over all inputs: a bundle's promise, or α.
    confidence : float
        Each bound holds with this probability over the draw of the inputs, given a promise that holds of this very
        certifier: α of Monte Carlo; that of a training-conditional guarantee, which leaves out a share η of
        calibrations (take η off the confidence). A marginal promise is one on average over calibrations, and so is
        then the bound.

    Returns
    -------
    float64[R]
        At least 0.
    """
    for name, value in (("error", error), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a probability in (0, 1), got {value}. Give what was promised.")
    total = len(certificates)
    k = np.rint(certified_accuracy(certificates, labels, radii) * total).astype(np.int64)
    return np.maximum(0.0, clopper_pearson(k, total, 1.0 - confidence) - error)


def average_certified_radius(certificates: Certificates, labels: ArrayLike) -> float:
    """Return the mean over all inputs of the radius, counted as 0 where the label is wrong or withheld."""
    return float(np.mean(np.where(_correct(certificates, labels), certificates.radius, 0.0)))


def abstention_rate(certificates: Certificates) -> float:
    """Return the share of inputs without a certificate."""
    return float(np.mean(certificates.abstained))


def in_boundary(certificates: Certificates) -> NDArray[np.bool_]:
    """Return which inputs have ``0.5 < p_lower < 0.75``: certified, but with little to spare."""
    low, high = BOUNDARY
    return (certificates.p_lower > low) & (certificates.p_lower < high)


def boundary(certificates: Certificates, labels: ArrayLike) -> Boundary:
    """Return size, accuracy and mean radius of the boundary set."""
    inside = in_boundary(certificates)
    correct = _correct(certificates, labels) & inside
    count = int(inside.sum())
    return Boundary(
        mass=Share(count, len(certificates)),
        accuracy=Share(int(correct.sum()), count),
        mean_radius=float(certificates.radius[inside].mean()) if count else math.nan,
    )


def crd(certificates: Certificates, radii: ArrayLike) -> NDArray[np.float64]:
    """Return the certified-radius distribution: the share of all inputs whose radius exceeds each given radius."""
    return _exceeding(certificates.radius, radii, len(certificates))


def boundary_crd(certificates: Certificates, radii: ArrayLike) -> NDArray[np.float64]:
    """Return the share of all inputs that lie in the boundary set and whose radius exceeds each given radius."""
    return _exceeding(certificates.radius[in_boundary(certificates)], radii, len(certificates))


def coverage(certificates: Certificates, predicted: ArrayLike, reference: ArrayLike) -> Coverage:
    """Return how many bounds the reference counts agree with, and how many they refute.

    Parameters
    ----------
    certificates : Certificates
    predicted : int[B]
        The class each bound speaks of, also where the certifier abstains (its certificate no longer names it); -1
        where there is none (non-finite logits), whose bound is 0.
    reference : int[B, K]
        Class counts of the same inputs from noise that the certifier never saw, many draws each.

    Raises
    ------
    ValueError
        If the shapes do not fit, a class is out of range, or a certificate names another class than ``predicted``.
    """
    holds, refuted = bounds_met(certificates, predicted, reference)
    inside, certified = in_boundary(certificates), ~certificates.abstained
    everything = np.ones_like(holds)
    return Coverage(
        overall=_share(holds, everything),
        boundary=_share(holds, inside),
        certified=_share(holds, certified),
        refuted=_share(refuted, everything),
        refuted_certified=_share(refuted, certified),
    )


def bounds_met(
    certificates: Certificates, predicted: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which bounds the reference's plain share reaches, bool[B], and which its upper bound refutes, bool[B].

    Parameters and errors are those of :func:`coverage`.
    """
    counts, guess = np.asarray(reference), np.asarray(predicted)
    if counts.ndim != 2 or counts.dtype.kind not in "iu" or counts.shape[0] != len(certificates):
        raise ValueError(
            f"reference counts: expected integers of shape ({len(certificates)}, classes), got {counts.dtype} of "
            f"{counts.shape}. Give the counts of the certified inputs, in their order."
        )
    if guess.shape != (len(certificates),) or guess.dtype.kind not in "iu":
        raise ValueError(
            f"predicted: expected {len(certificates)} classes, got {guess.dtype} of {guess.shape}. Give one an input."
        )
    if guess.size and not (guess.min() >= -1 and guess.max() < counts.shape[1]):
        raise ValueError(
            f"predicted: expected classes in -1..{counts.shape[1] - 1}, got {guess.min()}..{guess.max()}. "
            "Count the reference with as many classes."
        )
    certified = ~certificates.abstained
    if np.any(certificates.label[certified] != guess[certified]):
        raise ValueError("predicted: expected the certified labels, got others. Give both from the same run.")
    n = counts.sum(axis=1).astype(np.int64)
    if n.size and n.min() == 0:
        raise ValueError("reference counts: expected at least one draw an input, got 0. Sample the missing inputs.")
    picked = np.take_along_axis(counts, np.maximum(guess, 0)[:, None], axis=1)[:, 0].astype(np.int64)
    k = np.where(guess >= 0, picked, 0)
    holds = k / n >= certificates.p_lower
    # The upper bound of k of n is one minus the lower bound of the n - k others.
    refuted = 1.0 - clopper_pearson(n - k, n, REFUTATION_LEVEL) < certificates.p_lower
    return holds, refuted


def plainly_broken(refuted: Share, error: float) -> bool:
    """Return whether so many refuted bounds contradict a promise, but for a coincidence of one in a thousand.

    A true bound is refuted with probability at most `REFUTATION_LEVEL`, so of certificates that are wrong with at most
    ``error`` no more than ``error`` plus that are refuted on average.

    >>> plainly_broken(Share(34, 100), 0.05), plainly_broken(Share(9, 100), 0.05)
    (True, False)
    """
    from scipy.stats import binom

    allowed = min(1.0, error + REFUTATION_LEVEL)
    return refuted.total > 0 and float(binom.sf(refuted.count - 1, refuted.total, allowed)) < _COINCIDENCE


def conditional_error_bound(error: float, certified: int, total: int, confidence: float = LOWER_CONFIDENCE) -> float:
    """Return what a failure probability over all inputs still promises among the certified ones: ``error`` / share.

    The share of inputs that are certified is bounded from below, by Clopper and Pearson, from these; an estimate of it
    in the denominator would promise too much about half the time.

    Parameters
    ----------
    error : float
        Promised failure probability over all inputs: a bundle's promise, or α.
    certified, total : int
        How many inputs, drawn independently and without a part in calibration, are certified, of how many.
    confidence : float
        With which the bound on their share holds, over the draw of these inputs.

    Returns
    -------
    float
        At most 1, and 1 where nothing is certified.
    """
    share = float(clopper_pearson(certified, total, 1.0 - confidence))
    return min(1.0, error / share) if share > 0 else 1.0


def break_even(offline: float, monte_carlo: float, single_pass: float = 1.0) -> float:
    """Return after how many certificates the offline work is paid back.

    Parameters
    ----------
    offline : float
        Evaluations of a network, or seconds of one machine, spent before the first certificate: targets, calibration
        and, in seconds, the fit.
    monte_carlo, single_pass : float
        Evaluations, or seconds, for one certificate.

    Returns
    -------
    float
        A whole number, rounded up; infinite where Monte Carlo is not the dearer one.
    """
    saved = monte_carlo - single_pass
    return float(math.ceil(offline / saved)) if saved > 0 else math.inf


def _correct(certificates: Certificates, labels: ArrayLike) -> NDArray[np.bool_]:
    truth = np.asarray(labels)
    if truth.shape != (len(certificates),) or truth.dtype.kind not in "iu":
        raise ValueError(
            f"labels: expected {len(certificates)} classes, got {truth.dtype} of {truth.shape}. Give one an input."
        )
    if truth.size and truth.min() < 0:
        raise ValueError(f"labels: expected classes >= 0, got {truth.min()}. Give true classes; -1 means abstention.")
    if not len(certificates):
        raise ValueError("certificates: expected at least one, got 0. Metrics are shares of the inputs.")
    return np.asarray(certificates.label == truth, dtype=np.bool_)


def _exceeding(values: NDArray[np.float64], radii: ArrayLike, total: int) -> NDArray[np.float64]:
    wanted = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    return (values.size - np.searchsorted(np.sort(values), wanted, side="right")) / total


def _share(hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
    return Share(int(np.count_nonzero(hits & among)), int(np.count_nonzero(among)))
