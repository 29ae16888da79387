"""Curves for several noise levels with one guarantee: every bound of an input is right at once, so any may be chosen.

One classifier smoothed with sigma_1 < ... < sigma_S makes S smoothed classifiers, and an engine answers for each: a
label and a top probability q_s. A certificate of whichever sigma gives the largest radius needs bounds that hold
together. They do but for gamma / (1 - beta) (docs/theory.md, Theorem 1; p_s: the smoothed classifier's probability of
the label):

1. The input's score is the largest of its S scores, the least t at which every curve lies below its own bound l_s. The
   scores of exchangeable inputs are exchangeable; so at the rank of a single curve a new input's score is at most t but
   for gamma, on average over calibrations or, at the other rank, for all but eta of them (RRISE, Proposition 1; Vovk
   (2012), Proposition 2a).
2. Where some curve is wrong about the new input, let s be the first such: L_s(q_s) > p_s. Curves and input decide which
   s that is, before its draws are thought of, so l_s <= p_s with probability at least 1 - beta given all of them.
   Then l_s < L_s(q_s), and the score lies above t. So (1 - beta) P[some curve is wrong] <= P[score above t] <= gamma.

Neither is split among the S: each bound is made at beta, whether or not the draws at different sigma depend on each
other, and a rank for each sigma would lower every curve as if inputs that are hard at one sigma were not hard at the
others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.calibration.bounds import clopper_pearson, largest_p, smallest_draws
from rrise.calibration.curves import offset_family, scaled_family
from rrise.calibration.guarantees import RANKED, check_levels, conformal_rank
from rrise.calibration.settings import check_choice, check_combination
from rrise.calibration.shift import shift_rank
from rrise.calibration.statements import describe_joint
from rrise.promise import promise, rounded_up

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rrise.calibration.curves import Family
    from rrise.calibration.scored import Scored

CURVES = ("offset", "scaled")
"""Families that several noise levels can share; bins of q are of one sigma's q, and certificates of one sigma."""


@dataclass(frozen=True, eq=False)
class JointCalibration:
    """A curve for each sigma and the guarantee that they share.

    Parameters
    ----------
    curve, guarantee, beta, gamma, eta, n, images, rank, t, priors, effective
        As in :class:`rrise.calibration.record.Calibration`; the score of an input is the largest of its S scores.
    sigmas : tuple of S floats
        Rising.
    curves : tuple of S pairs of float64[J]
        knots_q and knots_p of each curve; read-only.
    certified : int
        Calibration inputs that one of the curves certifies.
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
    sigmas: tuple[float, ...]
    curves: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    certified: int
    priors: tuple[float, ...] = ()
    effective: float = 0.0

    @property
    def error(self) -> float:
        """Share of inputs with a wrong bound that the guarantee allows, :func:`rrise.promise.promise` rounded up."""
        return rounded_up(promise(self.beta, self.gamma))

    def statement(self) -> str:
        """Return what is guaranteed, in one line with this calibration's numbers."""
        return describe_joint(self)

    def facts(self) -> dict[str, Any]:
        """Return what all curves share, as plain strings, numbers and lists, ready for JSON."""
        names = ("guarantee", "beta", "gamma", "eta", "n", "images", "rank", "t", "certified")
        plain = {name: getattr(self, name) for name in names}
        return plain | ({"priors": list(self.priors), "effective": self.effective} if self.priors else {})


def calibrate_jointly(
    sigmas: Sequence[float],
    points: Sequence[Scored],
    profiles: Sequence[Scored],
    *,
    beta: float,
    gamma: float,
    curve: str,
    guarantee: str,
    eta: float = 0.01,
    labels: ArrayLike | None = None,
    priors: Sequence[float] = (),
) -> JointCalibration:
    """Return curves L_s with P[p_s < L_s(q_s) for any s] <= gamma / (1 - beta).

    Parameters
    ----------
    sigmas : sequence of S >= 2 floats
        Noise levels, rising.
    points : sequence of S Scored
        Of the same M calibration inputs in the same order, one for each sigma.
    profiles : sequence of S Scored
        Of other inputs, which shape the scaled curves; may be empty for the offset curve.
    beta, gamma, curve, guarantee, eta, labels, priors
        As for :func:`rrise.calibration.conformal.calibrate`; offset or scaled, marginal or training-conditional.

    Raises
    ------
    ValueError
        If sigmas do not rise, inputs or draws differ between them, they are too few, or the guarantee is one that does
        not carry over to a choice among several sigma.
    """
    check_levels(beta, gamma, eta)
    check_choice("curve", curve, CURVES)
    check_choice("guarantee", guarantee, RANKED)
    check_combination(curve, guarantee, bool(priors))
    images, n = _shared(sigmas, points)
    cap = largest_p(n, beta)
    if not cap > 0.5:
        raise ValueError(
            f"n: expected at least {smallest_draws(beta)} draws at beta {beta} to certify anything, got {n}. "
            "Sample more, or raise beta."
        )
    if curve != "offset" and len(profiles) != len(sigmas):
        raise ValueError(
            f"profile: expected counts at each of {len(sigmas)} sigma for the {curve} curve, got {len(profiles)}. "
            "Give them all, or use the offset curve."
        )
    families = (
        [offset_family()] * len(sigmas)
        if curve == "offset"
        else [scaled_family(p.q, clopper_pearson(p.k, p.n, beta)) for p in profiles]
    )
    scores = joint_scores(families, points, beta, cap)
    found: dict[str, Any] = {"rank": conformal_rank(guarantee, images, gamma, eta)}
    if priors:
        if labels is None:
            raise ValueError("labels: expected the true class of each calibration input for priors, got none.")
        weighted = shift_rank(scores, labels, priors, gamma)
        found = {"priors": tuple(map(float, priors)), "effective": weighted.effective, "rank": weighted.rank}
    t = max(0.0, float(np.partition(scores, found["rank"] - 1)[found["rank"] - 1]))
    curves = tuple(family.at(t, cap) for family in families)
    for knots in (knots for pair in curves for knots in pair):
        knots.setflags(write=False)
    heights = [np.interp(p.q, *knots) for p, knots in zip(points, curves, strict=True)]
    certified = int(np.count_nonzero(np.any([height > 0.5 for height in heights], axis=0)))  # NaN is none
    return JointCalibration(
        curve=curve,
        guarantee=guarantee,
        beta=float(beta),
        gamma=float(gamma),
        eta=float(eta),
        n=n,
        images=images,
        t=t,
        sigmas=tuple(map(float, sigmas)),
        curves=curves,
        certified=certified,
        **found,
    )


def joint_scores(families: Sequence[Family], points: Sequence[Scored], beta: float, cap: float) -> NDArray[np.float64]:
    """Return each input's largest score over the noise levels, float64[M]; -inf where the engine makes no claim."""
    each = [
        family.scores(p.q, clopper_pearson(p.k, p.n, beta), cap) for family, p in zip(families, points, strict=True)
    ]
    return np.asarray(np.max(each, axis=0))


def _shared(sigmas: Sequence[float], points: Sequence[Scored]) -> tuple[int, int]:
    """Return the number of inputs and of draws, the same at every sigma."""
    rising = len(sigmas) >= 2 and all(a < b for a, b in pairwise(sigmas)) and sigmas[0] > 0
    if not rising or not math.isfinite(sigmas[-1]) or len(points) != len(sigmas):
        raise ValueError(
            f"sigmas: expected two or more rising noise levels above 0 and points of each, got {list(sigmas)} and "
            f"{len(points)}. Sort them; for a single one use calibrate."
        )
    sizes = {len(p.q) for p in points} | {len(p.k) for p in points} | {len(p.n) for p in points}
    draws = {int(n) for p in points for n in np.unique(p.n)}
    if len(sizes) > 1 or len(draws) != 1 or sizes == {0}:
        raise ValueError(
            f"points: expected the same inputs and the same number of draws of each at every sigma, got "
            f"{sorted(sizes)} inputs and {sorted(draws)[:5]} draws. Sample the same images with the same n."
        )
    return sizes.pop(), draws.pop()
