"""From the engine's outputs and noisy counts on calibration inputs to a curve with a guarantee.

>>> import numpy as np
>>> q = np.linspace(0.55, 0.99, 600)                      # the engine's top probabilities
>>> k = np.floor(1000 * (q - 0.02)).astype(int)           # draws, out of 1000, that agree with its labels
>>> found = calibrate(q, k, 1000, beta=0.001, gamma=0.049, curve="offset")
>>> found.rank, round(found.t, 3)
(583, 0.07)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.calibration.bounds import clopper_pearson, largest_p, largest_radius, smallest_draws
from rrise.calibration.curves import FAMILIES, Family, offset_family, scaled_family
from rrise.calibration.guarantees import (
    GUARANTEES,
    TRAINING_CONDITIONAL,
    check_levels,
    conformal_rank,
    describe,
    marginal_rank,
    training_conditional_rank,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CalibrateConfig", "Calibration", "calibrate", "marginal_rank", "training_conditional_rank"]


@dataclass(frozen=True)
class CalibrateConfig:
    """How to calibrate; one bundle is made for each curve."""

    curves: tuple[str, ...] = field(
        default=FAMILIES, metadata={"help": f"curve families, one bundle each: {', '.join(FAMILIES)}"}
    )
    beta: float = field(
        default=0.001, metadata={"help": "error probability of the bound from each calibration image's noisy draws"}
    )
    gamma: float = field(
        default=0.049, metadata={"help": "share of future inputs that may lie above the curve, on top of beta"}
    )
    eta: float = field(
        default=0.01,
        metadata={"help": "probability that an unlucky calibration set breaks a training-conditional guarantee"},
    )
    guarantee: str = field(
        default=TRAINING_CONDITIONAL,
        metadata={"help": "training-conditional (of the deployed curve) or marginal (on average over calibrations)"},
    )

    passes: tuple[int, ...] = field(
        default_factory=tuple,
        metadata={
            "help": "numbers m of noisy passes that a certificate may add to the surrogate's; a further bundle for each"
        },
    )

    def __post_init__(self) -> None:
        if list(self.passes) != sorted(set(self.passes)) or any(m < 1 for m in self.passes):
            raise ValueError(f"passes: expected rising numbers from 1 on, got {self.passes}. Try 8 32 128.")
        if not self.curves or len(set(self.curves)) < len(self.curves):
            raise ValueError(f"curves: expected different curve families, got {self.curves}. Name each once.")
        for name in self.curves:
            _check_choice("curves", name, FAMILIES)
        _check_choice("guarantee", self.guarantee, GUARANTEES)
        check_levels(self.beta, self.gamma, self.eta)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A curve from q to a lower bound of the smoothed classifier's probability, and what it guarantees.

    Parameters
    ----------
    curve : str
        Family: "offset" or "scaled".
    guarantee : str
        "marginal" or "training-conditional".
    beta, gamma, eta : float
        Error probabilities: of each calibration bound, of the curve, of the calibration draw (training-conditional).
    n : int
        Noisy draws behind each calibration bound.
    images : int
        Calibration inputs, M.
    rank : int
        Which of the M scores, in rising order, was taken.
    t : float
        That score; how far the family was lowered.
    knots_q, knots_p : float64[J]
        The curve, piecewise linear; read-only.
    """

    curve: str
    guarantee: str
    beta: float
    gamma: float
    eta: float
    n: int
    images: int
    rank: int
    t: float
    knots_q: NDArray[np.float64]
    knots_p: NDArray[np.float64]

    def statement(self) -> str:
        """Return what is guaranteed, about what, and what is not, in one sentence with this calibration's numbers."""
        return describe(self)

    def as_dict(self) -> dict[str, Any]:
        """Return every field as plain strings, numbers and lists of numbers, ready for JSON."""
        return {
            "curve": self.curve,
            "guarantee": self.guarantee,
            "beta": self.beta,
            "gamma": self.gamma,
            "eta": self.eta,
            "n": self.n,
            "images": self.images,
            "rank": self.rank,
            "t": self.t,
            "knots_q": self.knots_q.tolist(),
            "knots_p": self.knots_p.tolist(),
        }


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
) -> Calibration:
    """Return a curve L with P[p >= L(q)] >= 1 - beta - gamma, p the smoothed probability of the engine's label.

    ``guarantee`` says over what the probability is taken: over the calibration set and a new input together
    ("marginal"), or over a new input alone, for all but a share ``eta`` of calibration sets ("training-conditional").

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
        Probability that a new input's bound lies below the curve; beta + gamma < 1.
    curve : str
        "scaled" (follows ``profile``) or "offset" (q - t).
    guarantee : str
        "training-conditional" or "marginal".
    eta : float
        Probability that the calibration draw was unlucky; unused when marginal.
    profile : tuple of (float64[N], int[N], int or int[N])
        q, k and n of other inputs, those that trained the surrogate will do, which shape the scaled curve. They must
        not be calibration inputs.

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
    RRISE, Proposition 1 and Corollary 1.1; Vovk (2012), Proposition 2a, for the training-conditional guarantee.
    """
    check_levels(beta, gamma, eta)
    _check_choice("curve", curve, FAMILIES)
    _check_choice("guarantee", guarantee, GUARANTEES)
    confidence, successes, draws = _arrays("calibration", q, k, n)
    bounds = clopper_pearson(successes, draws, beta)
    images = confidence.size
    rank = conformal_rank(guarantee, images, gamma, eta)
    if draws.min() != draws.max():
        raise ValueError(
            f"n: expected one number of draws for all calibration inputs, got {draws.min()} to {draws.max()}. "
            "Sample them all with the same n: the curve's cap depends on it."
        )
    common = int(draws[0])
    cap = largest_p(common, beta)
    if not cap > 0.5:
        needed = smallest_draws(beta)
        raise ValueError(
            f"n: expected at least {needed} draws at beta {beta} to certify anything, got {common}. "
            f"Sample more: the largest radius is {largest_radius(needed, beta, 1.0):.3f} sigma with {needed} draws "
            f"and {largest_radius(100 * needed, beta, 1.0):.3f} sigma with {100 * needed}."
        )
    family = _family(curve, beta, profile)
    scores = family.scores(confidence, bounds, cap)
    # The k-th smallest; never below 0, where families begin (it is -inf if that many inputs abstained).
    t = max(0.0, float(np.partition(scores, rank - 1)[rank - 1]))
    knots_q, knots_p = family.at(t, cap)
    knots_q.setflags(write=False)
    knots_p.setflags(write=False)
    return Calibration(
        curve, guarantee, float(beta), float(gamma), float(eta), common, images, rank, t, knots_q, knots_p
    )


def _family(curve: str, beta: float, profile: tuple[ArrayLike, ArrayLike, ArrayLike] | None) -> Family:
    if curve == "offset":
        return offset_family()
    if profile is None:
        raise ValueError(
            "profile: expected (q, k, n) of the surrogate's training inputs for the scaled curve, got none. "
            "Give it or use the offset curve."
        )
    q, k, n = _arrays("profile", *profile)
    return scaled_family(q, clopper_pearson(k, n, beta))


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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}. Pick one of them.")
