from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.curves import Family, offset_family, scaled_family

CAP = largest_p(1000, 0.001)


def exact_curve(family: Family, t: float, cap: float, q: float) -> Fraction:
    """L_t(q) by its definition, in fractions."""
    j = min(int(np.searchsorted(family.knots_q, q, side="right")), family.knots_q.size - 1)
    a, b = (Fraction(float(x)) for x in family.knots_q[j - 1 : j + 1])
    share = (Fraction(q) - a) / (b - a)
    line = Fraction(0)
    for weight, i in ((1 - share, j - 1), (share, j)):
        line += weight * (Fraction(float(family.h[i])) - Fraction(t) * Fraction(float(family.u[i])))
    return min(line, Fraction(cap)) if line > Fraction(family.floor) else Fraction(0)


def exact_interpolation(knots_q: np.ndarray, knots_p: np.ndarray, q: float) -> Fraction:
    """The piecewise-linear function through the knots at q, in fractions."""
    j = min(int(np.searchsorted(knots_q, q, side="right")), knots_q.size - 1)
    a, b, pa, pb = (Fraction(float(x)) for x in (*knots_q[j - 1 : j + 1], *knots_p[j - 1 : j + 1]))
    return pa + (pb - pa) * (Fraction(q) - a) / (b - a)


def kernel(knots_q: np.ndarray, knots_p: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return _C.certify(logits, knots_q, knots_p, 1.0)[2]


def neighbours(x: float) -> list[float]:
    return [x, math.nextafter(x, 0.0), math.nextafter(x, 1.0)]


@st.composite
def families(draw: st.DrawFn) -> Family:
    inner = draw(st.lists(st.floats(1e-9, 1, exclude_max=True), max_size=8, unique=True))
    if inner and draw(st.booleans()):  # crowded knots, too
        inner += [x for x in neighbours(inner[0]) if 0 < x < 1]
    knots = np.unique([0.0, 1.0, *inner])
    h = draw(st.lists(st.floats(0, 1), min_size=knots.size, max_size=knots.size))
    u = draw(st.lists(st.floats(1e-6, 10), min_size=knots.size, max_size=knots.size))
    return Family(knots, np.array(h), np.array(u), floor=draw(st.sampled_from([0.0, 0.5])))


thresholds = st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 1e6), st.just(math.inf))


def profile(
    rng: np.random.Generator, size: int, n: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, q, p_lower and true p of a plausible surrogate: heavy at q near 1, noisy in logits."""
    margin = np.abs(rng.normal(0, 6, size))
    logits = np.stack([margin, np.zeros(size)], axis=1)
    p = 1 / (1 + np.exp(-margin * rng.normal(0.9, 0.1, size) + rng.normal(0, 0.4, size)))
    _, q = _C.top(logits)
    return logits, q, clopper_pearson(rng.binomial(n, p), n, 0.001), p


# --- Families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([0.0, 1.0], [0.0], [1.0, 1.0]), r"expected knots_q, h and u of one length"),
        (([0.0], [0.0], [1.0]), r"expected knots_q, h and u of one length"),
        (([0.0, 0.5], [0.0, 1.0], [1.0, 1.0]), r"expected knots_q strictly increasing from 0\.0 to 1\.0"),
        (([0.0, 0.5, 0.5, 1.0], [0.0] * 4, [1.0] * 4), r"expected knots_q strictly increasing"),
        (([0.0, np.nan, 1.0], [0.0] * 3, [1.0] * 3), r"expected knots_q strictly increasing"),
        (([0.0, 5e-324, 1.0], [0.0] * 3, [1.0] * 3), r"expected knots_q strictly increasing"),
        (([0.0, 1.0], [0.0, 1.1], [1.0, 1.0]), r"expected h in \[0, 1\]"),
        (([0.0, 1.0], [0.0, np.nan], [1.0, 1.0]), r"expected h in \[0, 1\]"),
        (([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]), r"expected u positive"),
        (([0.0, 1.0], [0.0, 1.0], [1.0, np.inf]), r"expected u positive"),
    ],
)
def test_a_family_that_is_none_is_refused(arrays: tuple[list[float], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Family(*(np.array(a) for a in arrays))


def test_a_family_is_frozen() -> None:
    family = offset_family()
    with pytest.raises(ValueError, match="read-only"):
        family.h[0] = 0.5
    with pytest.raises(ValueError, match="floor in"):
        Family(family.knots_q, family.h, family.u, floor=1.0)


def test_the_offset_curve_is_q_minus_t() -> None:
    q, p = offset_family().at(0.25, 0.875)
    for x in (0.0, 0.2, 0.25, 0.3, 0.75, 1.0):
        assert np.interp(x, q, p) == pytest.approx(max(x - 0.25, 0), abs=1e-15)
    q, p = offset_family().at(0.0, 0.875)
    assert (q.tolist(), p.tolist()) == ([0.0, 0.875, 1.0], [0.0, 0.875, 0.875])


def test_an_infinite_t_certifies_nothing() -> None:
    q, p = scaled_family(*profile(np.random.default_rng(0), 300)[1:3]).at(math.inf, CAP)
    assert (q.tolist(), p.tolist()) == ([0.0, 1.0], [0.0, 0.0])


@pytest.mark.parametrize("t", [-1e-9, math.nan, -math.inf])
def test_a_t_outside_the_family_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match="t: expected a number of at least 0"):
        offset_family().at(t, CAP)


def test_a_cap_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="cap: expected a probability"):
        offset_family().at(0.0, 1.5)


# --- Knots -----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(families(), thresholds, st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=20))
def test_knots_are_a_curve_that_the_kernel_takes_and_never_above_the_family(
    family: Family, t: float, cap: float, extra: list[float]
) -> None:
    q, p = family.at(t, cap)
    assert q[0] == 0
    assert q[-1] == 1
    assert np.all(np.diff(q) > 0)
    assert np.all((p >= 0) & (p <= cap))
    points = {x for knot in (*q, *family.knots_q) for x in neighbours(float(knot)) if 0 <= x <= 1} | set(extra)
    points |= set(((q[1:] + q[:-1]) / 2).tolist())
    for x in points:
        above = exact_curve(family, t, cap, x) if t < math.inf else Fraction(0)
        assert exact_interpolation(q, p, x) <= above, x


@settings(max_examples=150)
@given(families(), st.floats(0, 5), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=20))
def test_knots_lose_only_rounding(family: Family, t: float, cap: float, extra: list[float]) -> None:
    q, p = family.at(t, cap)
    for x in extra:
        # The slope bounds what moving a kink to a float64 number can cost.
        steepest = np.all(np.abs(np.diff(family.h - t * family.u)) < 1e6 * np.diff(family.knots_q))
        if steepest:
            lost = exact_curve(family, t, cap, x) - exact_interpolation(q, p, x)
            jump = abs(float(exact_curve(family, t, cap, x)) - family.floor) < 1e-9
            assert lost <= 1e-9 or jump, x


@settings(max_examples=100)
@given(families(), st.lists(st.floats(0, 5), min_size=2, max_size=2), st.lists(st.floats(0, 1), min_size=5))
def test_curves_are_nested(family: Family, two: list[float], points: list[float]) -> None:
    low, high = sorted(two)
    for x in points:
        assert exact_curve(family, high, CAP, x) <= exact_curve(family, low, CAP, x)


# --- Scores ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(families(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12), st.floats(0.5, 1))
def test_scores_invert_the_family(family: Family, rows: list[tuple[float, float]], cap: float) -> None:
    rows += [(float(x), bound) for x, (_, bound) in zip(family.knots_q, rows, strict=False)]
    q, bounds = np.array(rows).T
    bounds = np.minimum(bounds, cap)
    for x, bound, t in zip(q, bounds, family.scores(q, bounds, cap), strict=True):
        assert t >= 0
        assert exact_curve(family, t, cap, x) <= Fraction(float(bound))
        smaller = t * (1 - 1e-8) - 1e-8
        if smaller > 0:
            assert exact_curve(family, smaller, cap, x) > Fraction(float(bound))


def test_an_abstention_is_never_wrong() -> None:
    scores = offset_family().scores(np.array([np.nan, 0.9]), np.array([0.0, 0.0]), CAP)
    assert scores[0] == -np.inf
    assert scores[1] == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(6))
def test_the_kernel_keeps_every_calibration_point_below_its_bound(seed: int) -> None:
    # The guarantee counts points with score <= t; for each, the curve as served must not exceed the point's bound.
    rng = np.random.default_rng(seed)
    logits, q, l, _ = profile(rng, 4_000)  # noqa: E741
    logits[::7] = logits[3]  # ties in q
    logits[1::11, 0] = 800.0  # q exactly 1
    family = offset_family() if seed % 2 else scaled_family(*profile(rng, 1_500)[1:3])
    # Some q exactly at knots, which logits cannot be asked for: those go through the exact interpolation below.
    _, q = _C.top(logits)
    scores = family.scores(q, l, CAP)
    at_knots = rng.choice(family.knots_q, 300)
    l_knots = clopper_pearson(rng.binomial(1000, at_knots), 1000, 0.001)
    scores_at_knots = family.scores(at_knots, l_knots, CAP)
    kept = 0
    for rank in (1, 40, 1_000, 2_500, 3_600, 3_900, 3_999):
        t = float(np.sort(scores)[rank - 1])
        knots = family.at(t, CAP)
        covered = scores <= t
        kept += int(covered.sum())
        assert covered.sum() >= rank
        assert np.all(kernel(*knots, logits)[covered] <= l[covered])
        for x, bound in zip(at_knots[scores_at_knots <= t], l_knots[scores_at_knots <= t], strict=True):
            assert exact_interpolation(*knots, float(x)) <= Fraction(float(bound))
    assert kept > 15_000


# --- The scaled shape ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 60, 200, 1_000, 100_000])
@pytest.mark.parametrize("ties", [False, True])
def test_the_scaled_family_is_sane_for_any_profile(size: int, ties: bool) -> None:
    rng = np.random.default_rng(size)
    _, q, l, _ = profile(rng, size)  # noqa: E741
    if ties:
        confident = q > 0.9  # four fifths of the inputs answer exactly 1
        q, l = np.where(confident, 1.0, q), np.where(confident, CAP, l)  # noqa: E741
    family = scaled_family(q, l)
    assert family.floor == 0.5
    assert np.all(np.diff(family.h) >= 0)
    assert np.all(family.h <= family.knots_q + 0.1)
    assert family.u.min() >= 3e-4
    assert family.u.max() < 0.6
    if size >= 200:
        # About half of the bounds lie below the curve at t = 0, and 2 to 10% below the one at t = 1.
        curve = [np.interp(q, family.knots_q, family.h - t * family.u) for t in (0.0, 1.0)]
        assert 0.3 < np.mean(l < curve[0] - 1e-12) + np.mean(np.abs(l - curve[0]) <= 1e-12) / 2 < 0.7
        assert np.mean(l < curve[1]) < 0.1


def test_the_scaled_family_does_not_depend_on_the_order_of_its_profile() -> None:
    rng = np.random.default_rng(3)
    _, q, l, _ = profile(rng, 900)  # noqa: E741
    q = np.round(q, 2)  # many ties
    shuffled = rng.permutation(q.size)
    one, other = scaled_family(q, l), scaled_family(q[shuffled], l[shuffled])
    assert one.h.tolist() == other.h.tolist()
    assert one.u.tolist() == other.u.tolist()


def test_the_scaled_family_follows_the_profile_where_the_offset_cannot() -> None:
    # Noise that shrinks towards q = 1: one offset for all must give up the confident inputs to hold the others.
    rng = np.random.default_rng(5)
    family = scaled_family(*profile(rng, 2_000)[1:3])
    _, q, l, p = profile(rng, 4_000)  # noqa: E741
    bounds = {}
    for name, candidate in (("offset", offset_family()), ("scaled", family)):
        t = float(np.sort(candidate.scores(q, l, CAP))[3_800])
        curve = np.interp(q, *candidate.at(t, CAP))
        assert np.mean(p >= curve) > 0.95
        bounds[name] = np.median(_C.radius(curve[q > 0.99], 1.0))
    assert bounds["scaled"] > 1.5 * bounds["offset"]


def test_a_profile_that_is_none_is_refused() -> None:
    _, q, l, _ = profile(np.random.default_rng(0), 40)  # noqa: E741
    with pytest.raises(ValueError, match=r"profile: expected q and p_lower of one length, got \(40,\) and \(39,\)\."):
        scaled_family(q, l[1:])
    with pytest.raises(ValueError, match=r"profile: expected at least 20 inputs .* got 19\."):
        scaled_family(np.where(np.arange(40) < 19, q, np.nan), l)
    with pytest.raises(ValueError, match=r"profile: expected q and p_lower in \[0, 1\]"):
        scaled_family(q + 1, l)
