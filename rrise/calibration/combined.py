"""More passes: the surrogate's top probability q and m noisy draws as one score, which is calibrated like q itself.

The score is the posterior mean of the probability p of the surrogate's label when q stands for kappa draws:
q_m = (kappa q + k_m) / (kappa + m), k_m of the m draws having given that label; q_0 = q.

What is guaranteed: let a calibration point be (q_m, k), k the agreeing draws of its n, and think of a new input's k as
drawn too. Points are then exchangeable: with probability 1 - gamma the new one's bound CP(k, n, beta) is not below the
curve at its q_m, with probability 1 - beta it is not above p, and both hold with 1 - beta - gamma (union bound),
whatever the dependence of q_m and k. The training-conditional guarantee follows in the same way.

The promise is the sum. The sharper gamma / (1 - beta) of a curve of q alone does not hold where k_m is part of k: its
proof draws k anew when q is known, and draws that raised q_m have raised k too (docs/theory.md, section "Where it does
not hold", with a counterexample that tests/test_more_passes.py simulates).

In particular k_m may be m of the very draws that k counts, at no cost: a new input's m draws are then read as m of n,
of which the others need never be made. With m = n and kappa near 0, that is Monte Carlo's own bound.

What breaks it: another m, kappa, sigma, classifier or label at service than at calibration; draws that were known
before the input was chosen; draws counted twice, (k + k_m of n + m) where k_m is among k; kappa or the curve's shape
taken from the calibration points, for a new input took no part in them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LARGEST_KAPPA = 1e6
"""A surrogate is never taken for more draws than this, nor for fewer than its inverse."""


def combined_score(q: ArrayLike, k: ArrayLike, m: int, kappa: float) -> NDArray[np.float64]:
    """Return q_m = (kappa q + k) / (kappa + m), elementwise; exactly q for m = 0.

    Parameters
    ----------
    q : float64[B]
        Top probabilities of the engine in [0, 1]; NaN where it abstains, which stays NaN.
    k : int[B]
        How many of the m draws gave the engine's label, 0 to m (any count where q is NaN).
    m : int
        Noisy draws of each input, at least 0.
    kappa : float
        For how many draws q stands, above 0; see :func:`fit_kappa`.

    Raises
    ------
    ValueError
        If shapes differ, a count is not in 0..m, or m or kappa is out of range.
    """
    x, agreeing = np.asarray(q, dtype=np.float64), np.asarray(k)
    if x.shape != agreeing.shape or agreeing.dtype.kind not in "iu":
        raise ValueError(
            f"passes: expected integer counts of shape {x.shape} as q, got {agreeing.dtype} of {agreeing.shape}. "
            "Give one count an input."
        )
    if m < 0 or not 0 < kappa < math.inf:
        raise ValueError(f"passes: expected m >= 0 and a finite kappa above 0, got m = {m}, kappa = {kappa}. See fit.")
    wrong = (agreeing < 0) | (agreeing > m)
    if wrong.any():
        raise ValueError(f"passes: expected counts from 0 to m = {m}, got {agreeing[wrong][0]}. Draw m an input.")
    return x.copy() if m == 0 else (kappa * x + agreeing) / (kappa + m)


def fit_kappa(q: ArrayLike, k: ArrayLike, n: ArrayLike) -> float:
    """Return the kappa under which k of n draws are likeliest, k beta-binomial with prior Beta(kappa q, kappa (1 - q)).

    It must come from other inputs than the calibration's, such as those that trained the surrogate. A kappa that does
    not fit costs tightness, never validity.

    Parameters
    ----------
    q : float64[N]
        Top probabilities; rows with NaN are left out.
    k, n : int[N]
        Draws that gave the engine's label, and all draws.

    Raises
    ------
    ValueError
        If shapes differ or no row is left.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import betaln

    x, agreeing = np.asarray(q, dtype=np.float64), np.asarray(k, dtype=np.float64)
    draws = np.broadcast_to(np.asarray(n, dtype=np.float64), x.shape)
    known = ~np.isnan(x)
    if x.ndim != 1 or agreeing.shape != x.shape or not known.any():
        raise ValueError(f"kappa: expected q and k of one length, not all NaN, got {x.shape} and {agreeing.shape}.")
    x, agreeing, draws = x[known], agreeing[known], draws[known]
    x = np.clip(x, 0.5 / draws, 1 - 0.5 / draws)  # one draw against a q of 1 is unlikely, not impossible

    def surprise(log_kappa: float) -> float:
        a, b = np.exp(log_kappa) * x, np.exp(log_kappa) * (1 - x)
        return -float(np.sum(betaln(a + agreeing, b + draws - agreeing) - betaln(a, b)))

    limit = math.log(LARGEST_KAPPA)
    return float(np.exp(minimize_scalar(surprise, bounds=(-limit, limit), method="bounded").x))


def describe_passes(m: int, kappa: float) -> str:
    """Return what the statement of a curve for q_m adds to that of a plain one."""
    return (
        f" The curve is one of q_m = (kappa q + k) / (kappa + m): k of m = {m} noisy passes of the base classifier, "
        f"made anew for each input, gave the surrogate's label, and its probability q counts for kappa = {kappa:.4g}."
    )
