"""The slow truth of the certification kernel: 50 digits of mpmath, and exact fractions for the curve."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import mpmath

DIGITS = 50


def exact(x: float) -> mpmath.mpf:
    """The double itself, without a detour through decimal."""
    return mpmath.mpf(float(x))


def probit(p: float) -> mpmath.mpf:
    """Φ⁻¹(p) by Newton's method on Φ, for 1/2 < p < 1."""
    with mpmath.workdps(DIGITS):
        tail = 1 - exact(p)
        z = mpmath.sqrt(2) * mpmath.erfinv(2 * exact(p) - 1) if tail > 0.02 else mpmath.sqrt(-2 * mpmath.log(tail))
        for _ in range(200):
            step = (mpmath.erfc(z / mpmath.sqrt(2)) / 2 - tail) / mpmath.npdf(z)
            z += step
            if abs(step) < mpmath.mpf(10) ** (10 - DIGITS):
                return z
    raise ArithmeticError(f"no convergence at p={p!r}")


def softmax_of_largest(logits: Sequence[float]) -> tuple[int, mpmath.mpf, mpmath.mpf]:
    """Index of the first largest logit, its softmax probability, and one minus that without cancellation."""
    values = [float(z) for z in logits]
    label = values.index(max(values))
    with mpmath.workdps(DIGITS):
        others = mpmath.fsum(mpmath.exp(exact(z) - exact(values[label])) for i, z in enumerate(values) if i != label)
        return label, 1 / (1 + others), others / (1 + others)


def curve(knots_q: Sequence[float], knots_p: Sequence[float], q: float) -> Fraction:
    """Exact piecewise-linear interpolation at the double q, clamped to [0, 1]."""
    knots = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(knots_q, knots_p, strict=True)]
    x = Fraction(float(q))
    for (q0, p0), (q1, p1) in pairwise(knots):
        if q0 <= x <= q1:
            return min(max(p0 + (p1 - p0) * (x - q0) / (q1 - q0), Fraction(0)), Fraction(1))
    raise ValueError(f"q: expected a number in [0, 1], got {q!r}.")
