"""Calibration curves: nested families L_t that turn a surrogate's top probability q into a lower bound p.

A family is fixed before calibration; calibration only picks t. The larger t, the lower the curve. A chosen curve leaves
here as knots of a piecewise-linear function, which is all that the serving kernel knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FAMILIES = ("offset", "scaled", "binned")
USUAL = ("offset", "scaled")
"""Of which bundles are made unless told otherwise."""

_TINY = 1e-100  # products of two such numbers do not underflow

# Shape of the scaled family; measured on the counts of small networks on digits and FashionMNIST.
_FEWEST_POINTS = 20
_SMALLEST_WINDOW = 100
_WINDOWS = 10  # a window holds at least this share, 1/10, of the profile
_TAIL = 0.05  # h - u is the lower 5% quantile
_LOGIT_ERROR = 0.5  # of a surrogate away from its training inputs, unseen in a profile of training inputs
_SMALLEST_SPREAD = 3e-4


@dataclass(frozen=True, eq=False)
class Family:
    """Curves L_t(q) = min(h(q) - t u(q), cap) where that exceeds ``floor``, else 0; t >= 0, h and u piecewise linear.

    Raising t never raises the curve. A claim of at most ``floor`` is withdrawn (the curve is 0 there) because it
    certifies nothing: with floor = 1/2 an input that is wrong beyond repair only has to be abstained on, while with
    floor = 0 the whole curve would have to come down to its bound.

    Parameters
    ----------
    knots_q : float64[J]
        Increasing from 0.0 to 1.0 by at least 1e-100.
    h : float64[J]
        The curve at t = 0, in [0, 1].
    u : float64[J]
        By how much the curve falls for each unit of t; at least 1e-100.
    floor : float
        Largest claim that is withdrawn, in [0, 1).

    Raises
    ------
    ValueError
        If any of these does not hold.
    """

    knots_q: NDArray[np.float64]
    h: NDArray[np.float64]
    u: NDArray[np.float64]
    floor: float = 0.0

    def __post_init__(self) -> None:
        q, h, u = (np.asarray(v, dtype=np.float64) for v in (self.knots_q, self.h, self.u))
        shapes = f"{q.shape}, {h.shape} and {u.shape}"
        if q.ndim != 1 or q.size < 2 or not q.shape == h.shape == u.shape:
            raise ValueError(f"family: expected knots_q, h and u of one length of at least 2, got {shapes}.")
        if q[0] != 0 or q[-1] != 1 or not np.all(np.diff(q) >= _TINY):
            raise ValueError(f"family: expected knots_q strictly increasing from 0.0 to 1.0, got {q}. Sort the knots.")
        if not np.all((h >= 0) & (h <= 1)):
            raise ValueError(f"family: expected h in [0, 1], got {h.min()} to {h.max()}. Clip it.")
        if not np.all((u >= _TINY) & (u < np.inf)):
            raise ValueError(f"family: expected u positive, got {u.min()} to {u.max()}. Raise it above 0.")
        if not 0 <= self.floor < 1:
            raise ValueError(f"family: expected floor in [0, 1), got {self.floor}. Use 0 or 0.5.")
        for name, values in (("knots_q", q), ("h", h), ("u", u)):
            frozen = values.copy()
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)

    def scores(self, q: ArrayLike, l: ArrayLike, cap: float) -> NDArray[np.float64]:  # noqa: E741 (the paper's letter)
        """Return the smallest t >= 0 at which L_t(q) <= l, rounded up, so that the knots of :meth:`at` keep to it.

        Parameters
        ----------
        q : float64[M]
            Top probabilities in [0, 1]; NaN where the engine abstained.
        l : float64[M]
            Lower bounds of the smoothed classifier's probability of the same labels.
        cap : float
            Largest value of the curve.

        Returns
        -------
        float64[M]
            Scores >= 0. An abstention makes no claim and is right at every t: its score is -inf.
        """
        x, bound = np.asarray(q, dtype=np.float64), np.asarray(l, dtype=np.float64)
        right = np.clip(np.searchsorted(self.knots_q, x, side="right"), 1, self.knots_q.size - 1)
        a, b = self.knots_q[right - 1], self.knots_q[right]
        # Sums of positive terms: h and u are within 5 units of 2^-53, relative, of the exact interpolation.
        h, u = (((b - x) * v[right - 1] + (x - a) * v[right]) / (b - a) for v in (self.h, self.u))
        # The margins cover the rounding of h <= 1, of the difference, of u and of the quotient.
        t = (h - np.maximum(bound, self.floor) + 2e-15) / u * (1 + 2e-15)
        t = np.where(bound >= cap, 0.0, np.maximum(t, 0.0))
        return np.where(np.isnan(x), -np.inf, t)

    def at(self, t: float, cap: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return knots of L_t, its kinks included; their interpolation at any float64 q is never above L_t(q).

        Computed in exact fractions and rounded down. Where the curve falls to 0 from a positive floor, two knots lie
        on neighbouring float64 numbers.

        Parameters
        ----------
        t : float
            At least 0; inf gives the curve that is 0 everywhere.
        cap : float
            Largest value of the curve, in [0, 1].

        Returns
        -------
        knots_q, knots_p : float64[J']
            ``knots_q`` strictly increasing from 0.0 to 1.0, ``knots_p`` in [0, cap].
        """
        if not t >= 0:
            raise ValueError(f"t: expected a number of at least 0, got {t}. Take it from the scores.")
        if not 0 <= cap <= 1:
            raise ValueError(f"cap: expected a probability, got {cap}. Use largest_p(n, beta).")
        if t == math.inf:
            return np.array([0.0, 1.0]), np.zeros(2)
        floor, top = Fraction(self.floor), Fraction(cap)
        line = [Fraction(h) - Fraction(t) * Fraction(u) for h, u in zip(self.h.tolist(), self.u.tolist(), strict=True)]
        q = self.knots_q.tolist()
        knots = []
        for j, value in enumerate(line):
            knots.append((q[j], _round_down(min(value, top)) if value > floor else 0.0))
            if j + 1 < len(line):
                knots.extend(_kinks(q[j], q[j + 1], value, line[j + 1], floor, top))
        level = [
            0 < j < len(knots) - 1 and knots[j - 1][1] == knots[j][1] == knots[j + 1][1] for j in range(len(knots))
        ]
        kept = np.array([knot for knot, drop in zip(knots, level, strict=True) if not drop])
        return kept[:, 0].copy(), kept[:, 1].copy()


def offset_family() -> Family:
    """Return the paper's curves, L_t(q) = q - t: one correction for every confidence."""
    return Family(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0]))


def scaled_family(q: ArrayLike, p_lower: ArrayLike) -> Family:
    """Return curves that follow a profile of the surrogate: h its running median, u its spread below that.

    A profile that does not resemble the calibration inputs costs tightness, never validity, provided that no
    calibration input took part in it. Claims of at most 1/2 are withdrawn (``floor`` = 1/2).

    Parameters
    ----------
    q : float64[N]
        The engine's top probabilities on the profile's inputs, usually the surrogate's training inputs; at least 20.
        NaNs are left out.
    p_lower : float64[N]
        Lower bounds of the smoothed classifier's probability of the same labels.

    Notes
    -----
    Residuals are taken as arcsin(sqrt(q)) - arcsin(sqrt(p_lower)), in which the binomial noise of the counts has the
    same spread at every p; windows can then be wide (a tenth of the profile, at least 100 points), quantiles of the
    window nearest in rank serve beyond the data, and ties of q share a window whole. Knots are even in arcsin(sqrt(q))
    and denser towards 1. A surrogate errs more away from its training inputs than on them, by about the same amount in
    logits everywhere: u adds q (1 - q) / 2 in quadrature for it.
    """
    x, bound = np.asarray(q, dtype=np.float64), np.asarray(p_lower, dtype=np.float64)
    if x.ndim != 1 or x.shape != bound.shape:
        raise ValueError(f"profile: expected q and p_lower of one length, got {x.shape} and {bound.shape}. Align them.")
    known = ~np.isnan(x)
    order = np.argsort(x[known], kind="stable")
    x, bound = x[known][order], bound[known][order]
    if x.size < _FEWEST_POINTS:
        raise ValueError(
            f"profile: expected at least {_FEWEST_POINTS} inputs for the scaled curve, got {x.size}. "
            "Give it more training counts or use the offset curve."
        )
    if not (np.all((x >= 0) & (x <= 1)) and np.all((bound >= 0) & (bound <= 1))):
        raise ValueError("profile: expected q and p_lower in [0, 1], got others. Pass probabilities and their bounds.")

    knots = np.sin(np.linspace(0, np.pi / 2, 65)) ** 2
    knots = np.unique(np.concatenate([[0.0, 1.0], knots[1:-1], 1 - 0.5 ** np.arange(8, 25)]))
    residual = _angle(x) - _angle(bound)
    window = min(x.size, max(_SMALLEST_WINDOW, x.size // _WINDOWS))
    centre = (np.searchsorted(x, knots, side="left") + np.searchsorted(x, knots, side="right")) // 2
    first = np.clip(centre - window // 2, 0, x.size - window)
    start = np.searchsorted(x, x[first], side="left")
    stop = np.searchsorted(x, x[first + window - 1], side="right")
    spans = [residual[i:j] for i, j in zip(start, stop, strict=True)]
    middle = np.array([np.quantile(span, 0.5) for span in spans])
    tail = np.array([np.quantile(span, 1 - _TAIL, method="higher") for span in spans])
    h, lower = (_rising(np.sin(np.clip(_angle(knots) - shift, 0, np.pi / 2)) ** 2) for shift in (middle, tail))
    u = np.sqrt((h - lower) ** 2 + (_LOGIT_ERROR * knots * (1 - knots)) ** 2 + _SMALLEST_SPREAD**2)
    return Family(knots, h, u, floor=0.5)


def interpolated_down(knots_q: NDArray[np.float64], knots_p: NDArray[np.float64], q: float) -> float:
    """Return the piecewise-linear function through the knots at one q of [0, 1], computed exactly and rounded down."""
    j = min(max(int(np.searchsorted(knots_q, q, side="right")), 1), knots_q.size - 1)
    a, b, low, high = (Fraction(float(v)) for v in (*knots_q[j - 1 : j + 1], *knots_p[j - 1 : j + 1]))
    return _round_down(low + (high - low) * (Fraction(q) - a) / (b - a))


def _angle(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.arcsin(np.sqrt(p)))


def _rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a nondecreasing sequence: halfway between the running maximum and the running minimum from the right."""
    upper = np.maximum.accumulate(values)
    lower = np.minimum.accumulate(values[::-1])[::-1]
    return np.asarray((upper + lower) / 2)


def _kinks(a: float, b: float, va: Fraction, vb: Fraction, floor: Fraction, top: Fraction) -> list[tuple[float, float]]:
    """Return knots strictly between a and b, where the line from va to vb passes ``floor`` or ``top``."""
    if va == vb:
        return []
    width, rise = Fraction(b) - Fraction(a), vb - va

    def height(x: float) -> Fraction:
        return va + rise * (Fraction(x) - Fraction(a)) / width

    found: dict[float, float] = {}
    if (va > top) != (vb > top):
        # The curve is concave here: wherever the knot lands, chords between points on it lie below it.
        x = float(Fraction(a) + width * (top - va) / rise)
        if a < x < b and height(x) > floor:
            found[x] = _round_down(min(height(x), top))
    if (va > floor) != (vb > floor) and not min(va, vb) == floor == 0:
        # The last float64 at or below the floor must answer 0, the first above it may claim what is above the floor.
        x = float(Fraction(a) + width * (floor - va) / rise)
        up = b if rise > 0 else a
        while x != up and height(x) <= floor:
            x = math.nextafter(x, up)
        down = a if rise > 0 else b
        while height(last := math.nextafter(x, down)) > floor:
            x = last
        if a < last < b and (floor > 0 or x == up):
            found[last] = 0.0
        if a < x < b:
            found[x] = _round_down(min(height(x), top)) if floor > 0 else 0.0
    return sorted(found.items())


def _round_down(value: Fraction) -> float:
    nearest = float(value)
    return math.nextafter(nearest, -math.inf) if Fraction(nearest) > value else nearest
