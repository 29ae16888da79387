"""Which order statistic of the calibration scores a guarantee needs, decided in exact arithmetic.

A score is how far the calibration curve must be lowered before it lies below one calibration input's own bound.
Lowering it to the k-th smallest of M scores leaves a new input's bound below the curve with a probability of at most
gamma, which depends on k and M alone; what that says of the probability itself, gamma / (1 - beta), is
:func:`rrise.promise.promise` (docs/theory.md, Theorem 1).
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context
from fractions import Fraction
from functools import cache

from rrise.promise import decimal, promise

MARGINAL = "marginal"
TRAINING_CONDITIONAL = "training-conditional"
CERTIFIED = "certified"
RANKED = (MARGINAL, TRAINING_CONDITIONAL)
"""Guarantees that take one of the calibration scores; the other tests curves one after the other."""
GUARANTEES = (*RANKED, CERTIFIED)
_TYPICAL = {"alpha": 0.05, "gamma": 0.05, "cascade": 0.9}
"""What an error message proposes for a probability; 0.01 for others."""


def marginal_rank(M: int, gamma: float | Fraction) -> int:
    """Return the smallest k such that, with P >= 1 - gamma, a new score is at most the k-th smallest of M.

    The conformal step of the guarantee "marginal" (docs/theory.md, Theorem 1, with Lemma 2).

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
    share = exact("gamma", gamma)
    rank = math.ceil((_images(M) + 1) * (1 - share))
    if rank > M:
        needed = fewest_images(MARGINAL, gamma, 0.5)
        raise ValueError(
            f"calibration: expected at least {needed} images for gamma {gamma}, got {M}. Use more or raise gamma."
        )
    return rank


def training_conditional_rank(M: int, gamma: float, eta: float | Fraction) -> int:
    """Return the smallest k such that, with P >= 1 - eta over the M scores, the k-th smallest covers 1 - gamma.

    The probability that a new score is at most the k-th smallest of M independent ones is itself random, at least
    Beta(k, M + 1 - k) in law; so k = min{k : P[Beta(k, M + 1 - k) >= 1 - gamma] >= 1 - eta}. Parameters and errors
    are those of :func:`marginal_rank`; ``eta`` is the allowed probability of an unlucky calibration draw. The conformal
    step of the guarantee "training-conditional" (docs/theory.md, Theorem 1, with Lemma 2).

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors" (2012), Proposition 2a.

    Examples
    --------
    >>> training_conditional_rank(1000, 0.05, 0.01)
    966
    """
    # P[Beta(k, M + 1 - k) < 1 - gamma] = P[Bin(M, gamma) <= M - k]: the largest d = M - k with that tail <= eta.
    allowed = most_failures(_images(M), gamma, eta)
    if allowed < 0:
        needed = fewest_images(TRAINING_CONDITIONAL, gamma, eta)
        raise ValueError(
            f"calibration: expected at least {needed} images for gamma {gamma} at eta {eta}, got {M}. "
            "Use more, or raise gamma or eta."
        )
    return M - allowed


@cache
def fewest_images(guarantee: str, gamma: float | Fraction, eta: float | Fraction) -> int:
    """Return the smallest M with a rank: the number of images of which none may fail.

    >>> fewest_images("marginal", 0.049, 0.01), fewest_images("training-conditional", 0.049, 0.01)
    (20, 92)
    """
    share = exact("gamma", gamma)
    if guarantee == MARGINAL:
        return math.ceil(1 / share) - 1
    needed = max(1, math.floor(math.log(eta) / math.log1p(-gamma)) - 1)
    while most_failures(needed, gamma, eta) < 0:
        needed += 1
    return needed


@cache
def most_failures(n: int, gamma: float | Fraction, eta: float | Fraction) -> int:
    """Return the largest d with P[Bin(n, gamma) <= d] <= eta, -1 if not even 0 failures are so unlikely; exact.

    With at most d failures among n independent trials, "the failure probability exceeds gamma" is rejected at level
    eta; it is the binomial tail's p-value compared with eta, without rounding.
    """
    return _largest_quantile(n, exact("gamma", gamma), exact("eta", eta))


def conformal_rank(guarantee: str, M: int, gamma: float, eta: float | Fraction) -> int:
    """Return the rank that ``guarantee`` needs, one of :data:`RANKED`; the marginal one ignores ``eta``."""
    if guarantee == MARGINAL:
        return marginal_rank(M, gamma)
    if guarantee == TRAINING_CONDITIONAL:
        return training_conditional_rank(M, gamma, eta)
    raise ValueError(f"guarantee: expected one of {', '.join(RANKED)}, got {guarantee!r}. Pick one of them.")


def check_levels(beta: float, gamma: float, eta: float) -> None:
    """Refuse error probabilities outside (0, 1) and a promise of 1 or more, naming the field.

    gamma / (1 - beta) is less than 1 exactly where beta + gamma is.
    """
    for name, value in (("beta", beta), ("gamma", gamma), ("eta", eta)):
        exact(name, value)
    if promise(beta, gamma) >= 1:
        raise ValueError(f"gamma / (1 - beta): expected less than 1, got {gamma} / (1 - {beta}). Lower one of them.")


def exact(name: str, value: float | Fraction) -> Fraction:
    """Return a probability strictly between 0 and 1 as the decimal it prints as, or ValueError with its name."""
    if isinstance(value, bool) or not 0 < value < 1:
        typical = _TYPICAL.get(name, 0.01)
        raise ValueError(f"{name}: expected a number strictly between 0 and 1, got {value}. Typical: {typical}.")
    return decimal(value)


def smallest_share(successes: int, trials: int, doubt: float | Fraction) -> Fraction:
    """Return the exact lower bound of a share, Clopper and Pearson's, rounded down to a hundredth of a percent.

    The largest such c with P[Bin(trials, c) >= successes] <= doubt; 0 without success. It needs no scipy.

    >>> smallest_share(400, 500, 0.01)
    Fraction(151, 200)
    """
    low, high = 0, 9_999  # P[Bin >= successes] <= doubt at low
    while successes and low < high:
        middle = (low + high + 1) // 2
        enough = most_failures(trials, Fraction(10_000 - middle, 10_000), doubt) >= trials - successes
        low, high = (middle, high) if enough else (low, middle - 1)
    return Fraction(low, 10_000)


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
