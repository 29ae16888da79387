"""Monte Carlo certificates that stop drawing when the radius is known well enough (B3).

The number of draws then depends on the draws, and a Clopper-Pearson bound at such a moment does not hold: looked at
often enough, it will be too high at some look. The mixture bound holds at all numbers of draws at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from rrise.calibration.bounds import clopper_pearson, mixture_lower_raised
from rrise.evaluation.baselines import bounded, checked_alpha, checked_counts, checked_sigma

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates

BOUNDS: Final = ("mixture", "clopper-pearson")
"""``mixture`` is valid at any stopping time; ``clopper-pearson`` is not, and is here to be compared with only."""


def raised_bounds(
    best: NDArray[np.float64], k: NDArray[Any], look: int, alpha: float, bound: str = "mixture"
) -> NDArray[np.float64]:
    """Return float64[B], the lower bounds at one more look.

    Parameters
    ----------
    best : float64[B]
        The bounds at the looks before, 0 at the first.
    k : int[B]
        How often the class occurred among the first ``look`` draws.
    look : int
        Number of draws.
    alpha : float
        With ``mixture``, P[p >= all of a row's bounds] >= 1 - alpha: the running maximum over the looks. With
        ``clopper-pearson``, each bound would hold by itself, at a look chosen beforehand, and at no other.
    bound : str
    """
    if bound not in BOUNDS:
        raise ValueError(f"bound: expected one of {', '.join(BOUNDS)}, got {bound!r}. Use mixture.")
    if bound == "clopper-pearson":
        return clopper_pearson(k, look, alpha)
    return mixture_lower_raised(best, k, look, alpha)


def known_enough(
    bounds: NDArray[np.float64],
    shares: NDArray[np.float64],
    *,
    sigma: float,
    tolerance: float = 0.01,
    target: float = math.inf,
) -> NDArray[np.bool_]:
    """Return, of each look, whether an input may stop there.

    Parameters
    ----------
    bounds, shares : float64[...]
        The lower bound, and the plain share k/n.
    sigma : float
        Noise level, in units of [0, 1] pixels.
    tolerance : float
        Stop when the radius of the share exceeds that of the bound by at most this much: sigma (probit(share) -
        probit(bound)). With -inf, never for this reason.
    target : float
        Stop when the bound certifies more than this radius. With inf, never for this reason.
    """
    radius = sigma * ndtri(bounds)
    with np.errstate(invalid="ignore"):  # two infinities: a share of 0 beside a bound of 0
        found = sigma * ndtri(shares) - radius <= tolerance
    return np.asarray(found | (radius > target), dtype=np.bool_)


class Looks:
    """Inputs under adaptive stopping, look by look: which are still drawn, and what is known of each.

    Parameters
    ----------
    inputs : int
        Number of inputs, B.
    alpha, sigma, tolerance, target, bound
        As for :func:`adaptive_certify`, which checks them.

    Attributes
    ----------
    active : int64[A]
        Inputs that may not stop yet, rising.
    """

    def __init__(self, inputs: int, *, alpha: float, sigma: float, tolerance: float, target: float, bound: str) -> None:
        self.active = np.arange(inputs)
        self._alpha, self._sigma, self._tolerance, self._target, self._bound = alpha, sigma, tolerance, target, bound
        self._p_lower, self._q, self._drawn = np.zeros(inputs), np.zeros(inputs), np.zeros(inputs, dtype=np.int64)

    def look(self, k: NDArray[Any], draws: int) -> None:
        """Take int[A], how often the class occurred among the first ``draws`` draws of each active input."""
        rows = self.active
        self._p_lower[rows] = raised_bounds(self._p_lower[rows], k, draws, self._alpha, self._bound)
        self._q[rows], self._drawn[rows] = k / draws, draws
        settings = {"sigma": self._sigma, "tolerance": self._tolerance, "target": self._target}
        self.active = rows[~known_enough(self._p_lower[rows], self._q[rows], **settings)]

    def certificates(self, selection: NDArray[np.int64]) -> Certificates:
        """Return what is certified by now of the classes that int64[B, K] selection counts picked."""
        spent = selection.sum(axis=1) + self._drawn
        return bounded(selection.argmax(axis=1), self._p_lower, self._q, spent, self._sigma)


def adaptive_certify(
    selection: ArrayLike,
    k: ArrayLike,
    looks: ArrayLike,
    *,
    alpha: float,
    sigma: float,
    tolerance: float = 0.01,
    target: float = math.inf,
    bound: str = "mixture",
) -> Certificates:
    """Return certificates that each hold with probability at least ``1 - alpha`` over the noise (B3).

    Parameters
    ----------
    selection : int[B, K]
        Class counts that pick the class.
    k : int[B, T]
        How often that class occurred among the first looks[t] draws of another stream; what comes after the look at
        which an input stops is not used. An input that never may stop does at the last look.
    looks : int[T]
        Numbers of draws at which is looked, rising.
    alpha, sigma : float
        Failure probability of one certificate; noise level, in units of [0, 1] pixels.
    tolerance, target : float
        When to stop, see :func:`known_enough`.
    bound : str
        ``mixture``. With ``clopper-pearson`` the certificates do not hold at the level promised.

    Returns
    -------
    Certificates
        ``q`` is the share of the class when the input stopped; ``evaluations`` counts selection and draws until then.

    Raises
    ------
    ValueError, TypeError
        If shapes, ranges or choices are wrong.

    References
    ----------
    Voracek, "Treatment of statistical estimation problems in randomized smoothing for adversarial robustness" (2024).
    """
    checked_alpha(alpha)
    checked_sigma(sigma)
    picked, draws, successes = checked_counts("selection", selection), np.asarray(looks), np.asarray(k)
    if draws.ndim != 1 or draws.size == 0 or draws.min() < 1 or np.any(np.diff(draws) <= 0):
        raise ValueError(f"looks: expected rising numbers of draws from 1 up, got {draws.tolist()}. Sort them.")
    if successes.shape != (len(picked), len(draws)):
        raise ValueError(f"k: expected shape {(len(picked), len(draws))}, got {successes.shape}. Give a column a look.")
    steps, drawn = np.diff(successes, axis=1, prepend=0), np.diff(draws, prepend=0)
    if successes.dtype.kind not in "iu" or np.any((steps < 0) | (steps > drawn)):
        raise ValueError("k: expected running counts, which rise by at most the draws between two looks. Sum them up.")
    checked_stopping(int(draws[-1]), alpha, tolerance, bound)
    looked = Looks(len(picked), alpha=alpha, sigma=sigma, tolerance=tolerance, target=target, bound=bound)
    for column, look in enumerate(draws.tolist()):
        looked.look(successes[looked.active, column], look)
    return looked.certificates(picked)


def checked_stopping(n_max: int, alpha: float, tolerance: float, bound: str = "mixture") -> None:
    """Raise ValueError if the tolerance is none, or the most draws can certify nothing."""
    if not (tolerance >= 0 or tolerance == -math.inf):
        raise ValueError(
            f"tolerance: expected a length of at least 0, or -inf to stop at the target alone, got {tolerance}. "
            "Try 0.01."
        )
    if not raised_bounds(np.zeros(1), np.array([n_max]), n_max, alpha, bound)[0] > 0.5:
        raise ValueError(
            f"looks: expected a last look at which a unanimous class is certified at alpha={alpha}, got {n_max}. "
            "Take more draws or a larger alpha."
        )
