"""Which order statistic of the calibration scores a guarantee needs, decided in exact arithmetic.

A score is how far the calibration curve must be lowered before it is right about one calibration input. Lowering it
to the k-th smallest of M scores leaves a new input above the curve with a probability that depends on k and M alone.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrise.calibration.conformal import Calibration

MARGINAL = "marginal"
TRAINING_CONDITIONAL = "training-conditional"
GUARANTEES = (MARGINAL, TRAINING_CONDITIONAL)


def marginal_rank(M: int, gamma: float) -> int:
    """Return the smallest k such that, with P >= 1 - gamma, a new score is at most the k-th smallest of M.

    Parameters
    ----------
    M : int
        Calibration inputs.
    gamma : float
        Allowed probability that a new score is larger, read as the decimal it prints as (0.1 is one tenth).

    Returns
    -------
    int
        ceil((M + 1) * (1 - gamma)), between 1 and M.

    Raises
    ------
    ValueError
        If M is too small for any rank to do; the message names the M needed.

    References
    ----------
    RRISE, Proposition 1; Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), section 4.2.

    Examples
    --------
    >>> marginal_rank(500, 0.049)
    477
    """
    share = _exact("gamma", gamma)
    rank = math.ceil((_images(M) + 1) * (1 - share))
    if rank > M:
        needed = math.ceil(1 / share) - 1
        raise ValueError(
            f"calibration: expected at least {needed} images for gamma {gamma}, got {M}. Use more or raise gamma."
        )
    return rank


def training_conditional_rank(M: int, gamma: float, eta: float) -> int:
    """Return the smallest k such that, with P >= 1 - eta over the M scores, the k-th smallest covers 1 - gamma.

    The probability that a new score is at most the k-th smallest of M independent ones is itself random, at least
    Beta(k, M + 1 - k) in law; so k = min{k : P[Beta(k, M + 1 - k) >= 1 - gamma] >= 1 - eta}. Parameters and errors
    are those of :func:`marginal_rank`; ``eta`` is the allowed probability of an unlucky calibration draw.

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors" (2012), Proposition 2a.

    Examples
    --------
    >>> training_conditional_rank(1000, 0.05, 0.01)
    966
    """
    share, risk = _exact("gamma", gamma), _exact("eta", eta)
    # P[Beta(k, M + 1 - k) < 1 - gamma] = P[Bin(M, gamma) <= M - k]: the largest d = M - k with that tail <= eta.
    allowed = _largest_quantile(_images(M), share, risk)
    if allowed < 0:
        needed = max(1, math.floor(math.log(eta) / math.log1p(-gamma)) - 1)
        while _largest_quantile(needed, share, risk) < 0:
            needed += 1
        raise ValueError(
            f"calibration: expected at least {needed} images for gamma {gamma} at eta {eta}, got {M}. "
            "Use more, or raise gamma or eta."
        )
    return M - allowed


def conformal_rank(guarantee: str, M: int, gamma: float, eta: float) -> int:
    """Return the rank that ``guarantee`` needs, one of :data:`GUARANTEES`; the marginal one ignores ``eta``."""
    if guarantee == MARGINAL:
        return marginal_rank(M, gamma)
    if guarantee == TRAINING_CONDITIONAL:
        return training_conditional_rank(M, gamma, eta)
    raise ValueError(f"guarantee: expected one of {', '.join(GUARANTEES)}, got {guarantee!r}. Pick one of them.")


def check_levels(beta: float, gamma: float, eta: float) -> None:
    """Refuse error probabilities outside (0, 1) and a total beta + gamma of 1 or more, naming the field."""
    total = _exact("beta", beta) + _exact("gamma", gamma)
    _exact("eta", eta)
    if total >= 1:
        raise ValueError(f"beta + gamma: expected less than 1, got {beta} + {gamma}. Lower one of them.")


def describe(calibration: Calibration) -> str:
    """Return what a calibration guarantees, in two sentences with its numbers: the claim, then how it was reached.

    What the claim is not about stands beside it wherever it is shown (``limits`` of a bundle).
    """
    c = calibration
    error = float(_exact("beta", c.beta) + _exact("gamma", c.gamma))
    wrong = f"{100 * error:.6g}%"
    claim = "the noise-smoothed classifier g gives the returned label less than the returned lower bound"
    if c.guarantee == MARGINAL:
        scope = (
            f"On average over calibration sets, a new input exchangeable with the {c.images} calibration inputs has a "
            f"chance of at most {wrong} that {claim}"
        )
    else:
        scope = (
            f"With confidence {float(1 - _exact('eta', c.eta)):.6g} over the draw of the {c.images} calibration "
            f"inputs, at most {wrong} of new inputs drawn independently from their source are such that {claim}"
        )
    largest = float(c.knots_p.max())
    reach = f"the largest bound is {largest:.6g}" if largest > 0.5 else "it certifies nothing, for no bound exceeds 1/2"
    eta = "" if c.guarantee == MARGINAL else f", eta = {c.eta:g}"
    return (
        f"{scope}; for all others whose bound exceeds 1/2, the label is g's own and g keeps it within the returned "
        f"radius. This is a {c.guarantee} guarantee with beta = {c.beta:g}, gamma = {c.gamma:g}{eta}, from n = {c.n} "
        f"noisy draws an input; {c.curve} curve at rank {c.rank} of {c.images}, t = {c.t:.6g}; {reach}."
    )


def _exact(name: str, value: float) -> Fraction:
    if isinstance(value, bool) or not 0 < value < 1:
        raise ValueError(f"{name}: expected a number strictly between 0 and 1, got {value}. Typical: 0.01.")
    return Fraction(str(value))


def _images(M: int) -> int:
    if M < 1:
        raise ValueError(f"calibration: expected at least 1 image, got {M}. Give it a calibration split.")
    return int(M)


def _largest_quantile(n: int, p: Fraction, risk: Fraction) -> int:
    """Return the largest d with P[Bin(n, p) <= d] <= risk, -1 if there is none; exact for every n."""
    # 60 digits decide every case but ties: each step rounds five times, so the sum is off by less than 10 (n + 2) e-60.
    context = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)
    number = context.create_decimal
    success, failure = (context.divide(number(r.numerator), number(r.denominator)) for r in (p, 1 - p))
    odds = context.divide(success, failure)
    limit = context.divide(number(risk.numerator), number(risk.denominator))
    slack = context.multiply(limit, number("1e-40"))
    term = context.power(failure, n)
    tail = number(0)
    for d in range(n + 1):
        tail = context.add(tail, term)
        gap = context.subtract(tail, limit)
        if _binomial_tail(d, n, p) > risk if abs(gap) <= slack else gap > 0:
            return d - 1
        term = context.multiply(term, context.divide(context.multiply(number(n - d), odds), number(d + 1)))
    return n


def _binomial_tail(d: int, n: int, p: Fraction) -> Fraction:
    """Return P[Bin(n, p) <= d] as an exact fraction."""
    a, b = p.numerator, p.denominator - p.numerator
    term = b**n
    total = term
    for j in range(d):
        term = term * a * (n - j) // ((j + 1) * b)
        total += term
    return Fraction(total, p.denominator**n)
