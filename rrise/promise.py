"""What a calibration at β and γ promises: one formula, in exact arithmetic, and its roundings, all to the safe side.

Calibration makes promises and the runtime repeats them, so both import this module; it needs the standard library only.
Probabilities given as floats are read as the decimals they print as: 0.1 is one tenth.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

_DIGITS = 15  # of a decimal that float64 keeps


def promise(beta: float | Fraction, gamma: float | Fraction, *, shared_draws: bool = False) -> Fraction:
    """Return the share of inputs whose bound may be wrong: γ / (1 - β), or β + γ where score and bound share draws.

    Parameters
    ----------
    beta : float
        Error probability of a calibration input's Clopper-Pearson bound, in (0, 1).
    gamma : float
        Probability that a new input's bound lies below the curve, in (0, 1 - β).
    shared_draws : bool
        Whether the score of an input is made from some of the draws that its bound counts, as with more passes.

    Returns
    -------
    Fraction
        In (0, 1) if β + γ < 1.

    Notes
    -----
    Why, and where γ / (1 - β) does not hold: docs/theory.md, Theorem 1 and section "Where it does not hold". Which
    inputs, and over what the probability is taken, is the guarantee's to say.

    Examples
    --------
    >>> promise(0.5, 0.025), promise(0.01, 0.04), promise(0.01, 0.04, shared_draws=True)
    (Fraction(1, 20), Fraction(4, 99), Fraction(1, 20))
    """
    level, share = decimal(beta), decimal(gamma)
    return level + share if shared_draws else share / (1 - level)


def rounded_up(share: Fraction) -> float:
    """Return the smallest float that, read as the decimal it prints as, is at least ``share``.

    >>> rounded_up(Fraction(1, 20)), rounded_up(Fraction(4, 99))
    (0.05, 0.04040404040404041)
    """
    found = float(share)
    while decimal(found) < share:
        found = math.nextafter(found, math.inf)
    return found


def rounded_down(share: Fraction) -> float:
    """Return the largest decimal of 15 digits, which a float prints as, that is at most ``share``.

    >>> rounded_down(Fraction(3, 200)), rounded_down(Fraction(2, 3))
    (0.015, 0.666666666666666)
    """
    return float(_divided(share, _DIGITS, ROUND_FLOOR))


def percent(share: float | Fraction) -> str:
    """Return an upper bound as a percentage of four digits, rounded up: never less than was promised.

    >>> percent(0.05), percent(Fraction(4, 99))
    ('5%', '4.041%')
    """
    return f"{_four_digits(share).normalize():f}%"


def complement(share: float | Fraction) -> str:
    """Return the percentage that is left of all: 100% less what :func:`percent` says, never more than was promised.

    >>> complement(0.05), complement(Fraction(4, 99))
    ('95%', '95.959%')
    """
    return f"{(100 - _four_digits(share)).normalize():f}%"


def decimal(value: float | Fraction) -> Fraction:
    """Return a number as the decimal it prints as, exactly; a fraction as it is.

    >>> decimal(0.1)
    Fraction(1, 10)
    """
    return Fraction(str(value))


def _four_digits(share: float | Fraction) -> Decimal:
    return _divided(100 * decimal(share), 4, ROUND_CEILING)


def _divided(share: Fraction, digits: int, rounding: str) -> Decimal:
    context = Context(prec=digits, rounding=rounding)
    return context.divide(Decimal(share.numerator), Decimal(share.denominator))
