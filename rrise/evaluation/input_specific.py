"""Monte Carlo certificates with as many draws as an input needs (B2): a pilot chooses the budget, fresh draws bound.

How many draws an input gets depends on the pilot alone, and the bound on the fresh draws alone, so each bound is one
of a number of draws fixed beforehand. Counting the pilot's draws again would break that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

from rrise.calibration.bounds import clopper_pearson, clopper_pearson_interval
from rrise.evaluation.baselines import bounded, checked_alpha, checked_counts, checked_sigma

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates

GRID = np.arange(500, 1001) / 1000
"""Probabilities of the map."""


@dataclass(frozen=True, eq=False)
class BudgetMap:
    """The draws that give up no more than a little of the radius that ``n_max`` draws would certify.

    Attributes
    ----------
    p, draws : float64[501], int64[501]
        Probability of the class, and the draws for it; 0 where even n_max certify nothing worth having.
    n_max, batch : int
        Most draws, and the unit in which they are counted.
    """

    p: NDArray[np.float64]
    draws: NDArray[np.int64]
    n_max: int
    batch: int

    def largest(self, low: ArrayLike, high: ArrayLike) -> NDArray[np.int64]:
        """Return the most draws of any p in [low, high], whose ends are moved outwards to the map's grid.

        An interval that lies below one half needs none.
        """
        first = np.clip(np.floor(np.asarray(low) * 1000 - 500), 0, 500).astype(np.int64)
        last = np.ceil(np.asarray(high) * 1000 - 500).astype(np.int64)
        found = [
            self.draws[a : b + 1].max() if b >= 0 else 0 for a, b in zip(first, np.minimum(last, 500), strict=True)
        ]
        return np.array(found, dtype=np.int64)


def budget_map(
    *, n_max: int, batch: int, alpha: float, sigma: float, decline: float = 0.01, relative: bool = True
) -> BudgetMap:
    """Return the smallest budgets whose radius, were the class seen in its exact share, is near that of ``n_max``.

    Parameters
    ----------
    n_max, batch : int
        Most draws, and the unit: budgets are multiples of ``batch``, at most n_max.
    alpha, sigma : float
        Failure probability of a certificate; noise level in units of [0, 1] pixels.
    decline : float
        What may be lost of the radius: a share of it if ``relative``, else a length in units of [0, 1] pixels.
    relative : bool
        See ``decline``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Chen et al., "Input-specific robustness certification for randomized smoothing", AAAI 2022 (the map); Seferis et
    al. (2024). The map is a heuristic: a certificate's validity does not rest on it.
    """
    checked_alpha(alpha)
    checked_sigma(sigma)
    if not (1 <= batch <= n_max and n_max % batch == 0):
        raise ValueError(f"batch: expected a divisor of n_max={n_max}, got {batch}. Try {math.gcd(100, n_max)}.")
    if not (0 <= decline < (1 if relative else math.inf)):
        raise ValueError(f"decline: expected a share of the radius in [0, 1), or a length, got {decline}. Try 0.01.")
    most = _radius(GRID, n_max, alpha, sigma)
    wanted = most * (1 - decline) if relative else most - decline
    draws = np.where(wanted > 0, n_max, 0)
    for n in range(n_max - batch, 0, -batch):  # the radius need not grow with n at every step: keep the smallest
        draws = np.where((wanted > 0) & (_radius(GRID, n, alpha, sigma) >= wanted), n, draws)
    return BudgetMap(GRID, draws.astype(np.int64), n_max, batch)


def input_specific_budget(pilot: ArrayLike, budgets: BudgetMap, *, alpha: float) -> NDArray[np.int64]:
    """Return the fresh draws of each input: the most that any probability in the pilot's interval asks for.

    Parameters
    ----------
    pilot : int[B, K]
        Class counts of the pilot draws.
    budgets : BudgetMap
    alpha : float
        The interval of the pilot's first class is Clopper and Pearson's two-sided one at this level.

    Returns
    -------
    int64[B]
        0 where nothing worth having can be certified.
    """
    checked_alpha(alpha)
    counts = checked_counts("pilot", pilot)
    low, high = clopper_pearson_interval(counts.max(axis=1), counts.sum(axis=1), alpha)
    return budgets.largest(low, high)


def input_specific_certify(pilot: ArrayLike, estimation: ArrayLike, *, alpha: float, sigma: float) -> Certificates:
    """Return certificates that each hold with probability at least ``1 - alpha`` over the noise (B2).

    Parameters
    ----------
    pilot : int[B, K]
        Class counts that pick the class and chose the budget.
    estimation : int[B, K]
        Class counts of that many fresh draws, from another stream than the pilot's; rows of zeros abstain.
    alpha, sigma : float
        Failure probability of one certificate; noise level, in units of [0, 1] pixels.

    Returns
    -------
    Certificates
        ``q`` is the share of the class among the fresh draws, 0 without any; ``evaluations`` counts both sets.

    Raises
    ------
    ValueError, TypeError
        If the shapes differ, counts are no counts, or ``alpha`` or ``sigma`` is out of range.
    """
    checked_alpha(alpha)
    checked_sigma(sigma)
    picked, fresh = checked_counts("pilot", pilot), checked_counts("estimation", estimation, least=0)
    if picked.shape != fresh.shape:
        raise ValueError(
            f"estimation counts: expected shape {picked.shape} as the pilot counts, got {fresh.shape}. "
            "Give both for the same inputs and classes."
        )
    n = fresh.sum(axis=1)
    guess = np.argmax(picked, axis=1).astype(np.int64)
    k = np.take_along_axis(fresh, guess[:, None], axis=1)[:, 0]
    drawn = n > 0
    p_lower = np.zeros(len(n))
    p_lower[drawn] = clopper_pearson(k[drawn], n[drawn], alpha)
    return bounded(guess, p_lower, k / np.maximum(n, 1), picked.sum(axis=1) + n, sigma)


def _radius(p: NDArray[np.float64], n: int, alpha: float, sigma: float) -> NDArray[np.float64]:
    """Return the radius of a class seen in exactly the share p of n draws; a real number of draws will do."""
    k = p * n
    failure = betaincinv(n - k + 1, k, 1 - alpha)
    return np.asarray(-sigma * ndtri(failure), dtype=np.float64)
