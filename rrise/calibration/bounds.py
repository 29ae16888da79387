"""Lower bounds for a binomial probability, rounded so that a certificate made from one is never too large.

Every function works on the failure side u = 1 - p, where nothing is lost as p approaches 1, and rounds the
probability down at the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST_DRAWS = 10**7
"""Largest n for which the rounding margins below were checked."""

# scipy's inverse is off by up to 2e-11 at n = 1e7; one Newton step leaves about 3e-14, far inside this margin.
_MARGIN = 5e-13
_SMALLEST_LEVEL = 1e-50  # scipy's inverse returns NaN for some k below about 1e-200


def clopper_pearson(k: ArrayLike, n: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return lower bounds with P[p >= bound] >= 1 - alpha when k of n independent draws succeed with probability p.

    The result lies below the exact one-sided Clopper-Pearson bound BetaInv(alpha; k, n - k + 1) and within 1e-12 of
    it. It is 0 at k = 0 and alpha^(1/n), to a few units in the last place, at k = n.

    Parameters
    ----------
    k : int[...]
        Successes, 0 <= k <= n.
    n : int[...]
        Draws, at least 1; broadcast against ``k``.
    alpha : float
        Error probability of each bound, in [1e-50, 1).

    Returns
    -------
    float64[...]
        Lower bounds in [0, 1).

    Raises
    ------
    TypeError
        If ``k`` or ``n`` are not integers.
    ValueError
        If n < 1, k < 0, k > n or alpha is outside [1e-50, 1).

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934); in randomized smoothing: Cohen, Rosenfeld and Kolter (2019), section 3.2.2.

    Examples
    --------
    >>> print(clopper_pearson([0, 9000, 10000], 10000, 0.25).round(6))
    [0.       0.897901 0.999861]
    """
    successes, draws = _counts(k, n)
    return _complement_down(_failure_bound(successes, draws, _level("alpha", alpha)))


def clopper_pearson_interval(
    k: ArrayLike, n: ArrayLike, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return intervals with P[lower <= p <= upper] >= 1 - alpha, each side spending alpha / 2.

    Parameters and errors are those of :func:`clopper_pearson`. Neither end lies inside the exact interval.

    Returns
    -------
    lower, upper : float64[...]
        ``lower`` is 0 at k = 0, ``upper`` is 1 at k = n.
    """
    successes, draws = _counts(k, n)
    side = _level("alpha", alpha) / 2
    lower = _complement_down(_failure_bound(successes, draws, side))
    return lower, _failure_bound(draws - successes, draws, side)


def largest_p(n: int, beta: float) -> float:
    """Return the largest bound that n draws can support, beta^(1/n) rounded down: the bound when all n succeed.

    >>> round(largest_p(1000, 0.001), 6)
    0.993116
    """
    return float(clopper_pearson(n, n, beta))


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """Return the largest radius that n draws can certify at level alpha, sigma * probit(alpha^(1/n)); 0 if none.

    Same unit as ``sigma``. For messages and plots: a certificate's own radius is computed by the kernel.

    >>> round(largest_radius(1000, 0.001, 1.0), 6)
    2.463263
    """
    from scipy.special import ndtri

    if not sigma > 0 or not math.isfinite(sigma):
        raise ValueError(
            f"sigma: expected a positive number, got {sigma}. Use the noise level the counts were made with."
        )
    draws, _ = _counts(n, n)
    failure = float(_failure_bound(draws, draws, _level("alpha", alpha)))
    return max(0.0, -float(ndtri(failure)) * sigma)


def require_cap(n: int, beta: float) -> float:
    """Return :func:`largest_p` of n draws at beta; ValueError if so few can certify nothing."""
    cap = largest_p(n, beta)
    if not cap > 0.5:
        needed = smallest_draws(beta)
        raise ValueError(
            f"n: expected at least {needed} draws at beta {beta} to certify anything, got {n}. "
            f"Sample more: the largest radius is {largest_radius(needed, beta, 1.0):.3f} sigma with {needed} draws "
            f"and {largest_radius(100 * needed, beta, 1.0):.3f} sigma with {100 * needed}."
        )
    return cap


def smallest_draws(alpha: float, radius: float = 0.0, sigma: float = 1.0) -> int:
    """Return the smallest n that can certify more than ``radius``: alpha^(1/n) > Phi(radius / sigma).

    >>> smallest_draws(0.001), smallest_draws(0.001, radius=2.0, sigma=1.0)
    (10, 301)
    """
    from scipy.special import log_ndtr

    level = _level("alpha", alpha)
    if not radius >= 0:
        raise ValueError(f"radius: expected a number of at least 0, got {radius}. Use the unit of sigma.")
    # Phi(radius / sigma)^n < alpha; beyond about 38 sigma the logarithm of Phi is 0.
    log_cdf = float(log_ndtr(radius / sigma))
    guess = math.floor(math.log(level) / log_cdf) if log_cdf < 0 else MOST_DRAWS
    if guess >= MOST_DRAWS:
        raise ValueError(
            f"radius: expected one that {MOST_DRAWS} draws can certify, got {radius} at sigma {sigma}. "
            "Use a larger sigma."
        )
    n = max(1, guess - 1)
    while not largest_radius(n, level, sigma) > radius:
        n += 1
    return n


def smallest_certifying_count(n: int, alpha: float) -> int:
    """Return the smallest k whose :func:`clopper_pearson` bound exceeds one half, so that a certificate is issued.

    Raises
    ------
    ValueError
        If not even k = n certifies; the message names the n needed.

    Examples
    --------
    >>> smallest_certifying_count(1000, 0.001)
    550
    """
    if not largest_p(n, alpha) > 0.5:
        raise ValueError(
            f"n: expected at least {smallest_draws(alpha)} draws to certify anything at alpha {alpha}, got {n}. "
            "Sample more draws or raise alpha."
        )
    low, high = 0, n  # k = 0 never certifies, k = n does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if clopper_pearson(middle, n, alpha) > 0.5 else (middle, high)
    return high


def mixture_lower(k: ArrayLike, n: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return lower bounds that hold at all times at once: P[p >= bound(k_n, n) for every n] >= 1 - alpha.

    Use it where the number of draws depends on the draws (adaptive stopping); the running maximum over n is valid too.
    A Clopper-Pearson bound at such a stopping time is not. Parameters and errors are those of :func:`clopper_pearson`.

    Notes
    -----
    The bound is the largest p < k/n at which the mixture of likelihood ratios over a Jeffreys prior restricted to
    (p, 1) reaches 1/alpha. Under the true p that mixture is a nonnegative martingale of mean 1, so by Ville's
    inequality it ever reaches 1/alpha with probability at most alpha.

    References
    ----------
    Voracek, "Treatment of statistical estimation problems in randomized smoothing for adversarial robustness" (2024).

    Examples
    --------
    >>> print(mixture_lower([9000, 10000], 10000, 0.001).round(6))
    [0.885892 0.999193]
    """
    successes, draws = np.broadcast_arrays(*_counts(k, n))
    return mixture_lower_raised(np.zeros(successes.shape), successes, draws, alpha)


def mixture_lower_raised(best: ArrayLike, k: ArrayLike, n: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the larger of a lower bound that is known and :func:`mixture_lower`, at the price of the rows it raises.

    Parameters
    ----------
    best : float64[...]
        Lower bounds in [0, 1) from fewer draws of the same inputs, 0 where there are none: with them the result is the
        running maximum over the looks so far, which holds at all of them at once.
    k, n, alpha
        As for :func:`mixture_lower`, which also has the errors.
    """
    from scipy.optimize.elementwise import find_root

    known = np.asarray(best, dtype=np.float64)
    arrays = np.broadcast_arrays(*_counts(k, n), known)
    successes, draws, low = (each.ravel() for each in arrays)
    result = np.array(low)
    # Terms of size n cancel in the log evidence; ask for more than their rounding error so that the bound stays below.
    asked = -math.log(_level("alpha", alpha)) + 1e-10 + 1e-14 * draws
    share = successes / draws

    def excess(p: NDArray[np.float64], *counts: NDArray[Any]) -> NDArray[np.float64]:
        k, n, level = counts
        inside = _log_evidence(np.minimum(p, np.nextafter(1.0, 0.0)), k, n) - level
        return np.where(p < k / n, inside, -level)

    low = np.maximum(low, 1e-300)
    raised = (successes > 0) & (low < share)
    raised[raised] = excess(low[raised], successes[raised], draws[raised], asked[raised]) > 0
    if raised.any():
        rows = tuple(each[raised] for each in (successes, draws, asked))
        # Bounds of many draws lie a few standard errors below the share: looked for there first.
        error = np.sqrt(share[raised] * (1 - share[raised]) / rows[1]) + 1 / rows[1]
        near = share[raised] - (2 + np.sqrt(2 * rows[2])) * error
        near = np.maximum(near, low[raised])
        near = np.where(excess(near, *rows) > 0, near, low[raised])
        found = find_root(
            excess,
            (near, share[raised]),
            args=rows,
            tolerances={"xatol": 1e-16, "xrtol": 1e-15, "fatol": 0, "frtol": 0},
        )
        at_least = np.where(found.f_x >= 0, found.x, np.minimum(*found.bracket))
        result[raised] = np.maximum(result[raised], at_least)
    return result.reshape(arrays[0].shape)


def _log_evidence(p: NDArray[np.float64], k: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log of the one-sided mixture martingale at 0 < p < k/n; -inf where p is 0."""
    from scipy.special import betaincc, betaln, xlog1py, xlogy

    with np.errstate(divide="ignore"):
        likelihood = xlogy(k, p) + xlog1py(n - k, -p)
        mixture = betaln(k + 0.5, n - k + 0.5) + np.log(betaincc(k + 0.5, n - k + 0.5, p))
    # The prior's mass above p: B(1/2, 1/2) * betaincc(1/2, 1/2, p) in closed form, exact as p -> 1.
    prior = np.log(2 * np.arctan2(np.sqrt(1 - p), np.sqrt(p)))
    return np.where(p > 0, mixture - prior - likelihood, -np.inf)


def _failure_bound(k: NDArray[np.int64], n: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Return upper confidence bounds of u = 1 - p, in (0, 1]: at or above the exact ones, by about 5e-13 relative."""
    from scipy.special import betaincc, betainccinv, betaln, xlog1py, xlogy

    k, n = np.broadcast_arrays(k, n)
    a, b = (n - k + 1).astype(float), np.maximum(k, 1).astype(float)  # u ~ Beta(a, b)
    u = betainccinv(a, b, alpha)
    with np.errstate(all="ignore"):
        density = np.exp(xlogy(a - 1, u) + xlog1py(b - 1, -u) - betaln(a, b))
        step = (betaincc(a, b, u) - alpha) / density
        u = np.where(np.abs(step) < 1e-6 * u, u + step, u) * (1 + _MARGIN)
    # k = n in closed form: u = 1 - alpha^(1/n); log and expm1 are off by a few units in the last place.
    u = np.where(k == n, -np.expm1(math.log(alpha) / n) * (1 + 8 * np.finfo(float).eps), u)
    return np.where(k == 0, 1.0, np.minimum(u, 1.0))


def _complement_down(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - u rounded down (1 - p is exact for p in [0, 1] of this origin, so the comparison is exact)."""
    p = 1 - u
    return np.where(1 - p < u, np.nextafter(p, 0.0), p)


def _counts(k: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    successes, draws = np.asarray(k), np.asarray(n)
    for name, values in (("k", successes), ("n", draws)):
        if values.dtype.kind not in "iu" and values.size:
            raise TypeError(
                f"{name}: expected integers, got {values.dtype}. Pass class counts, not shares of the draws."
            )
    successes, draws = successes.astype(np.int64), draws.astype(np.int64)
    try:
        np.broadcast_shapes(successes.shape, draws.shape)
    except ValueError:
        raise ValueError(
            f"k and n: expected shapes that broadcast, got {successes.shape} and {draws.shape}. Pass one n or one each."
        ) from None
    if np.any(draws < 1) or np.any(draws > MOST_DRAWS):
        bad = int(draws[(draws < 1) | (draws > MOST_DRAWS)].flat[0])
        raise ValueError(
            f"n: expected 1 to {MOST_DRAWS} draws, got {bad}. Pass the number of noisy draws behind each count."
        )
    wrong = (successes < 0) | (successes > draws)
    if np.any(wrong):
        index = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        bad_k, bad_n = (int(np.broadcast_to(v, wrong.shape)[index]) for v in (successes, draws))
        raise ValueError(f"k: expected a count from 0 to n = {bad_n}, got {bad_k}. Pass k and n of the same inputs.")
    return successes, draws


def _level(name: str, alpha: float) -> float:
    if not _SMALLEST_LEVEL <= alpha < 1:
        raise ValueError(
            f"{name}: expected a probability of at least {_SMALLEST_LEVEL} and below 1, got {alpha}. Typical: 0.001."
        )
    return float(alpha)
