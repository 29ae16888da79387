"""The slow truth for bounds and ranks: binomial tails in exact fractions and in 60-digit arithmetic.

Nothing here shares a formula or a library with ``rrise.calibration``: tails are summed term by term from their
definition, so a bound is right when the tail at it says so.
"""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath as mp

DIGITS = 60


def exact_lower_tail(k: int, n: int, p: Fraction) -> Fraction:
    """P[Bin(n, p) <= k] as an exact fraction."""
    return sum((math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1)), Fraction(0))


def upper_tail(k: int, n: int, u: mp.mpf) -> mp.mpf:
    """P[Bin(n, 1 - u) >= k]; ``u`` is the failure probability so that nothing is lost near p = 1."""
    with mp.workdps(DIGITS):
        u = mp.mpf(u)
        p = 1 - u
        if k <= 0 or u <= 0:
            return mp.mpf(1)
        if p <= 0:
            return mp.mpf(0)
        log_comb = mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)
        if k >= n * p:  # sum upwards from k
            term = mp.exp(log_comb + k * mp.log(p) + (n - k) * mp.log(u))
            total = mp.mpf(0)
            for j in range(k, n + 1):
                total += term
                term *= mp.mpf(n - j) / (j + 1) * p / u
                if term < total * mp.mpf(10) ** -DIGITS:
                    break
            return total
        j = k - 1  # sum downwards from k - 1 and take the complement
        log_comb += mp.log(k) - mp.log(n - k + 1)
        term = mp.exp(log_comb + j * mp.log(p) + (n - j) * mp.log(u))
        total = mp.mpf(0)
        while j >= 0:
            total += term
            term *= mp.mpf(j) / (n - j + 1) * u / p
            if term < total * mp.mpf(10) ** -DIGITS:
                break
            j -= 1
        return 1 - total


def failure_bound(k: int, n: int, alpha: float | mp.mpf) -> mp.mpf:
    """u = 1 - CP(k, n, alpha) to about 50 digits: the root of upper_tail(k, n, u) = alpha."""
    with mp.workdps(DIGITS):
        a = mp.mpf(alpha)
        if k == n:
            return -mp.expm1(mp.log(a) / n)
        # P[X >= k] falls in u: bisect to some digits, then Newton; its slope is -n * C(n-1, k-1) p^(k-1) u^(n-k).
        low, high = mp.mpf(0), mp.mpf(1)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if upper_tail(k, n, middle) > a else (low, middle)
        u = (low + high) / 2
        for _ in range(4):
            log_slope = mp.log(n) + mp.loggamma(n) - mp.loggamma(k) - mp.loggamma(n - k + 1)
            slope = mp.exp(log_slope + (k - 1) * mp.log(1 - u) + (n - k) * mp.log(u))
            u += (upper_tail(k, n, u) - a) / slope
        return u


def lower_bound(k: int, n: int, alpha: float | mp.mpf) -> mp.mpf:
    """CP(k, n, alpha) to about 50 digits."""
    with mp.workdps(DIGITS):
        return mp.mpf(0) if k == 0 else 1 - failure_bound(k, n, alpha)


def probit(p: mp.mpf) -> mp.mpf:
    """The inverse normal cdf of p to about 50 digits."""
    with mp.workdps(DIGITS):
        z = mp.sqrt(2) * mp.erfinv(2 * mp.mpf(p) - 1)
        for _ in range(2):  # erfinv loses digits near 1; Newton on the tail restores them
            z += (mp.erfc(z / mp.sqrt(2)) / 2 - (1 - mp.mpf(p))) / mp.npdf(z)
        return z


def mixture_log_evidence(p: float, k: int, n: int) -> mp.mpf:
    """The log of the one-sided Jeffreys mixture martingale at p, by quadrature of its definition."""
    with mp.workdps(30):
        # theta = sin(a)^2 turns the Jeffreys prior d theta / sqrt(theta (1 - theta)) into 2 da.
        start, stop = mp.asin(mp.sqrt(mp.mpf(p))), mp.pi / 2
        peak = mp.asin(mp.sqrt(mp.mpf(k) / n))

        def log_likelihood(a: mp.mpf) -> mp.mpf:
            return (2 * k * mp.log(mp.sin(a)) if k else 0) + (2 * (n - k) * mp.log(mp.cos(a)) if k < n else 0)

        highest = log_likelihood(peak)
        width = 1 / (2 * mp.sqrt(n))  # of the likelihood in a
        cuts = [start, *(peak + s * width for s in (-12, -6, -3, 0, 3, 6, 12) if start < peak + s * width < stop), stop]
        mixture = mp.quad(lambda a: mp.exp(log_likelihood(a) - highest), cuts, method="gauss-legendre")
        return mp.log(mixture / (stop - start)) + highest - log_likelihood(start)
