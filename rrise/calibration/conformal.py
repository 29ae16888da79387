"""From the engine's outputs and noisy counts on calibration inputs to a curve with a guarantee.

>>> import numpy as np
>>> q = np.linspace(0.55, 0.99, 600)                      # the engine's top probabilities
>>> k = np.floor(1000 * (q - 0.02)).astype(int)           # draws, out of 1000, that agree with its labels
>>> found = calibrate(q, k, 1000, beta=0.001, gamma=0.049, curve="offset")
>>> found.rank, round(found.t, 3)
(583, 0.07)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.calibration.bins import bin_edges, bin_thresholds, binned_curve
from rrise.calibration.bounds import clopper_pearson, require_cap
from rrise.calibration.certified import certified_threshold, sequence, withdrawn
from rrise.calibration.curves import FAMILIES, offset_family, scaled_family
from rrise.calibration.guarantees import (
    CERTIFIED,
    TRAINING_CONDITIONAL,
    check_levels,
    conformal_rank,
    marginal_rank,
    training_conditional_rank,
)
from rrise.calibration.record import Calibration
from rrise.calibration.settings import CalibrateConfig, check_choice, check_combination
from rrise.calibration.shift import shift_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["CalibrateConfig", "Calibration", "calibrate", "marginal_rank", "training_conditional_rank"]


def calibrate(
    q: ArrayLike,
    k: ArrayLike,
    n: ArrayLike,
    *,
    beta: float,
    gamma: float,
    curve: str = "scaled",
    guarantee: str = TRAINING_CONDITIONAL,
    eta: float = 0.01,
    profile: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    labels: ArrayLike | None = None,
    priors: Sequence[float] = (),
    shared_draws: bool = False,
) -> Calibration:
    """Return a curve L with P[p < L(q)] <= gamma / (1 - beta), p the smoothed probability of the engine's label.

    The proof is Theorem 1 of docs/theory.md. ``guarantee`` says over what the probability is taken: over the
    calibration set and a new input together ("marginal"), or over a new input alone, for all but a share ``eta`` of
    calibration sets ("training-conditional"), or over a new input that the curve certifies, for all but such a share
    ("certified"). The binned curve keeps its guarantee inside each bin of q.

    Parameters
    ----------
    q : float64[M]
        Top softmax probabilities of the engine that will be deployed, on inputs that trained neither the base
        classifier nor the surrogate. NaN where the engine abstains: such an input makes no claim, is never wrong, and
        counts among the M so that they stay exchangeable with future inputs.
    k : int[M]
        Noisy draws whose class was the engine's label (any count where q is NaN).
    n : int or int[M]
        Noisy draws of each input; one number for all.
    beta : float
        Error probability of each input's Clopper-Pearson bound.
    gamma : float
        Probability that a new input's bound lies below the curve; gamma / (1 - beta) < 1.
    curve : str
        "scaled" (follows ``profile``), "binned" (the same, with a t for each bin) or "offset" (q - t).
    guarantee : str
        "training-conditional", "marginal" or "certified".
    eta : float
        Probability that the calibration draw was unlucky; unused when marginal.
    profile : tuple of (float64[N], int[N], int or int[N])
        q, k and n of other inputs, those that trained the surrogate will do, which shape the scaled curve, the bins
        and the sequence of curves to test. They must not be calibration inputs.
    labels : int[M], optional
        True classes of the calibration inputs; for ``priors``.
    priors : sequence of K floats, optional
        Class frequencies in service, where they differ from the calibration inputs'.
    shared_draws : bool
        Whether q was made from some of the n draws that k counts (:mod:`rrise.calibration.combined`). Then the promise
        is beta + gamma, of the marginal and the training-conditional guarantee over all inputs only.

    Returns
    -------
    Calibration

    Raises
    ------
    TypeError
        If counts are not integers.
    ValueError
        If shapes, ranges or choices are wrong, n differs between inputs, n is too small to certify anything or M too
        small for the guarantee; the message names what is needed.

    References
    ----------
    docs/theory.md, Theorem 1, which sharpens RRISE's Proposition 1, and Corollary 1.1; Vovk (2012), Proposition 2a, for
    the training-conditional guarantee; for the others see :mod:`rrise.calibration.certified`,
    :mod:`rrise.calibration.bins` and :mod:`rrise.calibration.shift`.
    """
    check_levels(beta, gamma, eta)
    check_choice("curve", curve, FAMILIES)
    check_combination(curve, guarantee, bool(priors), shared_draws)
    confidence, successes, draws = _arrays("calibration", q, k, n)
    bounds = clopper_pearson(successes, draws, beta)
    images = confidence.size
    if curve != "binned" and guarantee != CERTIFIED:
        conformal_rank(guarantee, images, gamma, eta)  # too few images are told so before anything else
    if draws.min() != draws.max():
        raise ValueError(
            f"n: expected one number of draws for all calibration inputs, got {draws.min()} to {draws.max()}. "
            "Sample them all with the same n: the curve's cap depends on it."
        )
    common = int(draws[0])
    cap = require_cap(common, beta)
    shape = _shape(curve, guarantee, profile)
    family = offset_family() if shape is None or curve == "offset" else scaled_family(shape.q, shape.bounds(beta))
    found: dict[str, Any] = {}
    if shape is not None and curve == "binned":
        edges = bin_edges(family, shape.q, images, guarantee, gamma, eta)
        bins = bin_thresholds(confidence, family.scores(confidence, bounds, cap), edges, guarantee, gamma, eta)
        found = {"bins": bins, "rank": sum(b.rank for b in bins), "t": max(b.t for b in bins)}
        knots_q, knots_p = binned_curve(family, bins, cap)
    elif shape is not None and guarantee == CERTIFIED:
        family = withdrawn(family)
        ts = sequence(family, shape.q, shape.bounds(beta), cap, images=images, gamma=gamma, eta=eta)
        walked = certified_threshold(family, ts, confidence, bounds, cap, gamma, eta)
        found = {"rank": images - walked.wrong, "t": walked.t}
        knots_q, knots_p = family.at(walked.t, cap)
    else:
        scores = family.scores(confidence, bounds, cap)
        if priors:
            weighted = shift_rank(scores, _labels(labels), priors, gamma)
            found = {"priors": tuple(map(float, priors)), "effective": weighted.effective, "rank": weighted.rank}
        else:
            found = {"rank": conformal_rank(guarantee, images, gamma, eta)}
        # The k-th smallest; never below 0, where families begin (it is -inf if that many inputs abstained).
        found["t"] = max(0.0, float(np.partition(scores, found["rank"] - 1)[found["rank"] - 1]))
        knots_q, knots_p = family.at(found["t"], cap)
    knots_q.setflags(write=False)
    knots_p.setflags(write=False)
    certified = int(np.count_nonzero(np.interp(confidence, knots_q, knots_p) > 0.5))  # NaN is none
    return Calibration(
        curve=curve,
        guarantee=guarantee,
        beta=float(beta),
        gamma=float(gamma),
        eta=float(eta),
        n=common,
        images=images,
        knots_q=knots_q,
        knots_p=knots_p,
        certified=certified,
        shared_draws=shared_draws,
        **found,
    )


@dataclass(frozen=True, eq=False)
class _Shape:
    """The profile's inputs, float64[N] and int[N]; their bounds at any level."""

    q: NDArray[np.float64]
    k: NDArray[Any]
    n: NDArray[Any]

    def bounds(self, beta: float) -> NDArray[np.float64]:
        return clopper_pearson(self.k, self.n, beta)


def _shape(curve: str, guarantee: str, profile: tuple[ArrayLike, ArrayLike, ArrayLike] | None) -> _Shape | None:
    if curve == "offset" and guarantee != CERTIFIED:
        return None
    if profile is None:
        needed = f"the {curve} curve" if curve != "offset" else "the guarantee among certified inputs"
        raise ValueError(
            f"profile: expected (q, k, n) of the surrogate's training inputs for {needed}, got none. "
            "Give it or use the offset curve with another guarantee."
        )
    return _Shape(*_arrays("profile", *profile))


def _labels(labels: ArrayLike | None) -> ArrayLike:
    if labels is None:
        raise ValueError("labels: expected the true class of each calibration input for priors, got none. Give them.")
    return labels


def _arrays(
    name: str, q: ArrayLike, k: ArrayLike, n: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    confidence, successes, draws = np.asarray(q), np.asarray(k), np.asarray(n)
    if confidence.dtype.kind != "f":
        raise TypeError(
            f"{name}: expected q as floating-point probabilities, got {confidence.dtype}. Pass softmax outputs."
        )
    if confidence.ndim != 1 or confidence.size == 0:
        raise ValueError(f"{name}: expected q of shape (M,), M >= 1, got {confidence.shape}. Pass one row per input.")
    if successes.shape != confidence.shape or draws.shape not in ((), confidence.shape):
        raise ValueError(
            f"{name}: expected k of shape {confidence.shape} like q and n of that shape or one number, "
            f"got {successes.shape} and {draws.shape}. Pass rows of the same inputs."
        )
    confidence = confidence.astype(np.float64)
    wrong = ~(np.isnan(confidence) | ((confidence >= 0) & (confidence <= 1)))
    if wrong.any():
        raise ValueError(f"{name}: expected q in [0, 1] or NaN, got {confidence[wrong][0]}. Pass softmax outputs.")
    return confidence, successes, np.broadcast_to(draws, confidence.shape)
