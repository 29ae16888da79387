"""How to spend alpha: the beta and gamma that promise it and would certify most, judged on the profile alone.

A small beta makes every calibration bound loose and caps all radii at beta^(1/n); a large one leaves the curve little
gamma = alpha (1 - beta) to be wrong by. Any pair that does not depend on calibration or test inputs is as valid as
another. Under priors it may depend on the calibration inputs' classes, given which the guarantee holds
(:mod:`rrise.calibration.shift`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.bins import Bin, bin_edges, binned_curve
from rrise.calibration.bounds import clopper_pearson, largest_p, require_cap, smallest_draws
from rrise.calibration.certified import sequence, withdrawn
from rrise.calibration.curves import Family, offset_family, scaled_family
from rrise.calibration.guarantees import CERTIFIED, conformal_rank, exact, fewest_images
from rrise.calibration.shift import ShiftWeights, exact_priors, shift_weights
from rrise.promise import decimal, rounded_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from rrise.calibration.settings import CalibrateConfig

BETAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 0.9)
"""Of which beta is chosen; where score and bound share draws, and the promise is a sum, these shares of alpha."""

_FEWEST = 40
_NEARLY = 0.99
Knots = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def spent(alpha: float, share: float, *, shared_draws: bool = False) -> tuple[float, float]:
    """Return (beta, gamma) that promise alpha, or the nearest less that 15 digits can say; ``share`` is of `BETAS`.

    >>> spent(0.05, 0.7), spent(0.05, 0.7, shared_draws=True)
    ((0.7, 0.015), (0.035, 0.015))
    """
    total, beta = decimal(alpha), decimal(share)
    return (rounded_down(total * beta) if shared_draws else share), rounded_down(total * (1 - beta))


def choose_levels(
    q: ArrayLike,
    k: ArrayLike,
    n: ArrayLike,
    *,
    alpha: float,
    images: int,
    draws: int,
    curve: str,
    guarantee: str,
    eta: float,
    labels: ArrayLike | None = None,
    priors: Sequence[float] = (),
    classes: Sequence[int] = (),
    shared_draws: bool = False,
) -> tuple[float, float]:
    """Return (beta, gamma) that promise alpha, the smallest beta with nearly the largest mean radius in a rehearsal.

    The rehearsal halves the profile: one half shapes the curve, the other is calibrated on as if it were ``images``
    inputs (the score at the quantile where the rank among so many is expected) and certified; then the halves change
    places. The profile's inputs trained the surrogate, so few of their bounds lie far below the curve, and a rehearsal
    flatters a small gamma. Hence of all beta with at least 99% of the largest radius the smallest is taken.
    With priors each class counts by its own: in the curve's score as calibration will weigh it, and in the mean radius.

    Parameters
    ----------
    q : float64[N]
        The profile's top probabilities; NaN where the engine abstains.
    k, n : int[N], int[N] or int
        Agreeing noisy draws and all draws of the profile, best scaled to ``draws``: bounds would be as loose.
    alpha : float
        What may be wrong in all: the promise.
    images, draws : int
        Calibration inputs, and noisy draws of each: their numbers, which are known beforehand.
    curve, guarantee, eta
        As for :func:`rrise.calibration.conformal.calibrate`.
    labels : int[N], optional
        True classes of the profile's inputs; for ``priors``.
    priors : sequence of K floats, optional
        Class frequencies in service, as for ``calibrate``.
    classes : sequence of K ints, optional
        Calibration inputs of each class; for ``priors``.
    shared_draws : bool
        As for ``calibrate``: the promise is then beta + gamma.

    Returns
    -------
    beta, gamma : float
        Decimals whose promise is exactly alpha, or less by what 15 digits cannot say. The same for any order of the
        profile.

    Raises
    ------
    ValueError
        If no pair can be calibrated with so many images and draws, or the profile has fewer than two inputs of a class
        in service; the message names what would do.
    """
    exact("alpha", alpha)
    x = np.asarray(q, dtype=np.float64)
    successes, trials = np.asarray(k), np.broadcast_to(n, x.shape)
    if x.size < _FEWEST:
        raise ValueError(
            f"profile: expected at least {_FEWEST} inputs to choose beta by, got {x.size}. Give more training counts, "
            "or beta and gamma themselves."
        )
    truth = _checked(labels, priors, x.size) if priors else np.zeros(x.size, dtype=np.int64)
    order = np.lexsort((trials, successes, x, truth))  # each class in both halves
    halves = order[0::2], order[1::2]
    pairs, radii = (
        [spent(alpha, share, shared_draws=shared_draws) for share in BETAS],
        dict[tuple[float, float], float](),
    )
    for levels in _possible(pairs, images, draws, guarantee, eta):
        cap = largest_p(draws, levels[0])
        shift = _shift(classes, priors, levels[1]) if priors else None
        if priors and shift is None:
            continue
        plan = _Plan(curve, guarantee, images, levels[1], eta, cap, shift)
        bounds = clopper_pearson(successes, trials, levels[0])
        one, other = (_Half.of(x[half], bounds[half], truth[half], priors) for half in halves)
        radii[levels] = plan.radius(one, other) + plan.radius(other, one)
    if not radii:
        largest = pairs[0][1]
        if priors and images >= fewest_images(guarantee, largest, eta):
            shift_weights(classes, priors, largest)  # says what is missing
        raise _too_few(alpha, pairs, images, draws, guarantee, eta)
    best = max(radii.values())
    if not best > 0:
        raise ValueError(
            f"alpha: expected a beta for {alpha} that certifies some of the profile with {images} calibration images, "
            "got none. Use more images, raise alpha, or use another curve."
        )
    return next(levels for levels, radius in radii.items() if radius >= _NEARLY * best)  # by rising beta


def require_enough(config: CalibrateConfig, images: int, draws: int, *, shared_draws: bool = False) -> None:
    """Raise ValueError unless so many calibration images, and draws of each, can carry a promise: no data are needed.

    Parameters
    ----------
    config : CalibrateConfig
        With alpha, or beta and gamma; priors are not looked at.
    images, draws : int
        Calibration inputs, and noisy draws of each.
    shared_draws : bool
        As for :func:`choose_levels`.
    """
    alpha, beta, gamma, guarantee, eta = config.alpha, config.beta, config.gamma, config.guarantee, config.eta_each
    if alpha:
        pairs = [spent(alpha, share, shared_draws=shared_draws) for share in BETAS]
        if not _possible(pairs, images, draws, guarantee, eta):
            raise _too_few(alpha, pairs, images, draws, guarantee, eta)
        return
    require_cap(draws, beta)
    if images < (needed := fewest_images(guarantee, gamma, eta)):
        raise ValueError(
            f"calibration: expected at least {needed} images for gamma {gamma:g} and a {guarantee} guarantee, got "
            f"{images}. Use more, or raise gamma."
        )


def _possible(
    pairs: Sequence[tuple[float, float]], images: int, draws: int, guarantee: str, eta: float
) -> list[tuple[float, float]]:
    """Return the pairs (beta, gamma) that so many images and draws can carry, under equal weights."""
    return [
        (beta, gamma)
        for beta, gamma in pairs
        if largest_p(draws, beta) > 0.5 and images >= fewest_images(guarantee, gamma, eta)
    ]


def _too_few(
    alpha: float, pairs: Sequence[tuple[float, float]], images: int, draws: int, guarantee: str, eta: float
) -> ValueError:
    needed, fewest = fewest_images(guarantee, pairs[0][1], eta), smallest_draws(pairs[-1][0])
    return ValueError(
        f"alpha: expected at least {needed} images and {fewest} draws of each for {alpha}, got {images} and {draws}. "
        "Use more, or raise alpha."
    )


@dataclass(frozen=True, eq=False)
class _Half:
    """One half of the profile: float64[N] each, int64[N] classes, and what share of service each input stands for."""

    q: NDArray[np.float64]
    bounds: NDArray[np.float64]
    labels: NDArray[np.int64]
    shares: NDArray[np.float64]

    @classmethod
    def of(
        cls, q: NDArray[np.float64], bounds: NDArray[np.float64], labels: NDArray[np.int64], priors: Sequence[float]
    ) -> _Half:
        if not priors:
            return cls(q, bounds, labels, np.full(q.size, 1 / q.size))
        each = np.array([float(share) for share in exact_priors(priors)])
        return cls(q, bounds, labels, (each / np.maximum(np.bincount(labels, minlength=each.size), 1))[labels])


@dataclass(frozen=True)
class _Plan:
    """A calibration to rehearse."""

    curve: str
    guarantee: str
    images: int
    gamma: float
    eta: float
    cap: float
    shift: ShiftWeights | None

    def radius(self, shape: _Half, held: _Half) -> float:
        """Return the mean radius, in sigma, on inputs that a curve of the other half's shape was calibrated on."""
        from scipy.special import ndtri

        family = offset_family() if self.curve == "offset" else scaled_family(shape.q, shape.bounds)
        if self.curve == "binned":
            knots = self._binned(family, shape, held)
        elif self.guarantee == CERTIFIED:
            knots = self._tested(withdrawn(family), shape, held)
        elif self.shift is not None:
            knots = family.at(self._weighted(family.scores(held.q, held.bounds, self.cap), held), self.cap)
        else:
            rank = conformal_rank(self.guarantee, self.images, self.gamma, self.eta)
            scores = family.scores(held.q, held.bounds, self.cap)
            knots = family.at(_expected_score(scores, rank, self.images), self.cap)
        if knots is None:
            return 0.0
        known = ~np.isnan(held.q)
        height = np.interp(held.q[known], *knots)
        high = height > 0.5
        return float(np.sum(ndtri(height[high]) * held.shares[known][high]))

    def _weighted(self, scores: NDArray[np.float64], held: _Half) -> float:
        """Return the smallest score above which held inputs, in shares of all service, weigh no more than allowed."""
        assert self.shift is not None
        order = np.argsort(scores, kind="stable")[::-1]
        above = np.cumsum(held.shares[order]) <= float(self.shift.budget)
        return max(0.0, float(scores[order][min(int(np.sum(above)), scores.size - 1)]))

    def _binned(self, family: Family, shape: _Half, held: _Half) -> Knots | None:
        edges = bin_edges(family, shape.q, self.images, self.guarantee, self.gamma, self.eta)
        share = exact("eta", self.eta) / len(edges)
        scores = family.scores(held.q, held.bounds, self.cap)
        which = np.where(np.isnan(held.q), 0, np.searchsorted(edges, held.q, side="right"))
        bins = []
        for b, start in enumerate(edges, start=1):
            inside = scores[which == b]
            expected = self.images * inside.size // held.q.size
            if expected < fewest_images(self.guarantee, self.gamma, share):
                return None
            rank = conformal_rank(self.guarantee, expected, self.gamma, share)
            bins.append(Bin(start, expected, rank, _expected_score(inside, rank, expected)))
        return binned_curve(family, tuple(bins), self.cap)

    def _tested(self, family: Family, shape: _Half, held: _Half) -> Knots | None:
        from scipy.stats import binom

        ts = sequence(family, shape.q, shape.bounds, self.cap, images=self.images, gamma=self.gamma, eta=self.eta)
        scores, last = (family.scores(held.q, l, self.cap) for l in (held.bounds, np.zeros(held.q.size)))  # noqa: E741
        claims = last[None, :] > ts[:, None]
        wrong = claims & (scores > ts[:, None])
        scale = self.images / held.q.size
        tail = binom.cdf(np.ceil(wrong.sum(axis=1) * scale), np.floor(claims.sum(axis=1) * scale), self.gamma)
        accepted = int(np.argmax(np.append(tail, 1.0) > self.eta))
        return family.at(float(ts[accepted - 1]), self.cap) if accepted else None


def _checked(labels: ArrayLike | None, priors: Sequence[float], inputs: int) -> NDArray[np.int64]:
    """Return the profile's classes, two inputs at least of each that occurs in service."""
    truth, shares = np.asarray(labels), exact_priors(priors)
    if truth.shape != (inputs,) or truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(shares):
        raise ValueError(
            f"labels: expected the true class of each of {inputs} profile inputs, 0 to {len(shares) - 1}, for priors, "
            f"got {truth.dtype} of shape {truth.shape}. Give them."
        )
    for y, (share, count) in enumerate(zip(shares, np.bincount(truth, minlength=len(shares)).tolist(), strict=True)):
        if share > 0 and count < 2:
            raise ValueError(
                f"profile: expected at least 2 inputs of class {y}, whose prior is {float(share):g}, to choose beta "
                f"by, got {count}. Give more training counts, or beta and gamma themselves."
            )
    return truth.astype(np.int64)


def _shift(classes: Sequence[int], priors: Sequence[float], gamma: float) -> ShiftWeights | None:
    """Return the weights of so many calibration inputs of each class, None where they cannot carry this gamma."""
    try:
        return shift_weights(classes, priors, gamma)
    except ValueError:
        return None


def _expected_score(scores: NDArray[np.float64], rank: int, images: int) -> float:
    """Return the score at the quantile where the rank-th smallest of so many is expected, rank / (images + 1)."""
    place = min(scores.size, math.ceil(rank * (scores.size + 1) / (images + 1)))
    return max(0.0, float(np.partition(scores, place - 1)[place - 1]))
