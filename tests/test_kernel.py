"""The certification kernel against 50-digit truth: never above it, close below it, abstaining on anything unclear."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import threading
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
import reference_radius as reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rrise import _C
from rrise.targets.noise import grid_thresholds

ROOT = Path(__file__).parent.parent
IDENTITY = np.array([0.0, 1.0])
KNOTS_Q = np.array([0.0, 0.25, 0.6, 1.0])
KNOTS_P = np.array([-0.5, 0.2, 0.7, 0.99])
UNIT = 2.0**-53


def random_logits(rows: int, classes: int, seed: int, dtype: type) -> NDArray[np.float32] | NDArray[np.float64]:
    """Rows from near-uniform to saturated, the winner anywhere."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(rows, classes))
    logits[np.arange(rows), rng.integers(classes, size=rows)] += rng.uniform(0.0, 40.0, size=rows)
    return np.ascontiguousarray(logits.astype(dtype))


def probabilities(count: int, seed: int) -> NDArray[np.float64]:
    """Doubles in (1/2, 1): all over, near 1/2 and near 1, and round the seams of AS241."""
    rng = np.random.default_rng(seed)
    near = 10.0 ** rng.uniform(-16, -0.4, size=count)
    seams = np.array(
        [0.925, math.nextafter(0.925, 1), 1 - math.exp(-25.0), math.nextafter(1, 0), math.nextafter(0.5, 1)]
    )
    p = np.concatenate([rng.uniform(0.5, 1.0, count), 0.5 + near, 1.0 - near, seams, seams - UNIT])
    return p[(p > 0.5) & (p < 1.0)]


# ---- radius --------------------------------------------------------------------------------------------------------


def test_radius_is_never_above_the_truth_and_within_24_units_of_it() -> None:
    p = probabilities(500, seed=1)
    sigmas = np.random.default_rng(2).uniform(0.01, 2.0, size=p.size)
    for probability, sigma in zip(p, sigmas, strict=True):
        radius = _C.radius(np.array([probability]), float(sigma))[0]
        with mpmath.workdps(reference.DIGITS):
            truth = reference.exact(sigma) * reference.probit(probability)
            gap = float((truth - reference.exact(radius)) / truth)
        assert 0 <= gap <= 26 * UNIT, (probability, sigma)


@pytest.mark.parametrize(("n", "z"), [(100, 1.500475), (1_000, 2.463263), (10_000, 3.198578), (100_000, 3.811457)])
def test_largest_radius_of_n_draws(n: int, z: float) -> None:
    assert _C.radius(np.array([0.001 ** (1 / n)]), 1.0)[0] == pytest.approx(z, abs=5e-7)


def test_radius_outside_its_range() -> None:
    p = np.array([0.5, 0.0, -0.0, -1.0, math.nextafter(1.0, 2.0), 7.0, np.inf, -np.inf, np.nan, -np.nan])
    np.testing.assert_array_equal(_C.radius(p, 1.0), np.zeros(p.size))
    at_one, below_one = _C.radius(np.array([1.0, math.nextafter(1.0, 0.0)]), 1.0)
    assert at_one == below_one == pytest.approx(8.209536151601387, abs=1e-12)  # finite, and below the infinite truth
    assert _C.radius(np.array([0.5 + 2**-52]), 5e-324)[0] == 0.0  # an underflow certifies nothing
    assert _C.radius(np.array([0.99]), 1.7e308)[0] == np.finfo(float).max


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(1e-3, 100.0))
def test_radius_is_monotone_and_zero_only_up_to_one_half(a: float, b: float, sigma: float) -> None:
    low, high = _C.radius(np.array(sorted([a, b])), sigma)
    assert 0.0 <= low <= high * (1 + 24 * UNIT)
    assert (low > 0.0) == (min(a, b) > 0.5)
    assert (high > 0.0) == (max(a, b) > 0.5)


def test_radius_of_a_linear_classifier_is_its_distance_to_the_boundary() -> None:
    sigma = 0.5
    distance = np.linspace(0.01, 2.0, 100)
    p = np.array([0.5 * math.erfc(-d / sigma / math.sqrt(2)) for d in distance])
    np.testing.assert_allclose(_C.radius(p, sigma), distance, rtol=1e-11)


# ---- the curve -----------------------------------------------------------------------------------------------------


def q_and_p_lower(q: float, knots_q: NDArray[np.float64], knots_p: NDArray[np.float64]) -> tuple[float, float]:
    """q as the kernel sees it, and the curve there; q is steered through two logits."""
    logits = np.array([[0.0, math.log1p(-q) - math.log(q) if 0.5 <= q < 1 else -800.0]])
    _, seen, p_lower, _ = _C.certify(logits, knots_q, knots_p, 1.0)
    return float(seen[0]), float(p_lower[0])


@pytest.mark.parametrize(
    ("knots_q", "knots_p"),
    [
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [-3.0, 0.9991]),
        ([0.0, 1.0], [-1e6, 1e6]),
        ([0.0, 0.3, 0.50001, 0.7, 0.9999, 1.0], [0.0, 0.1, 0.6, 0.61, 0.993, 0.993]),
        ([0.0, 0.6, 1.0], [0.9, 0.1, 1.7]),
        (np.linspace(0, 1, 257), np.linspace(0, 1, 257) ** 2),
    ],
    ids=["identity", "line", "steep", "plateau", "falling", "many"],
)
def test_p_lower_is_never_above_the_exact_interpolation(knots_q: list[float], knots_p: list[float]) -> None:
    kq, kp = np.asarray(knots_q, dtype=float), np.asarray(knots_p, dtype=float)
    size = max(1.0, float(np.abs(kp).max()))
    for q in [*np.random.default_rng(3).uniform(0.5, 1.0, 300), 0.5, 0.7, 1 - 2**-50, 1.0]:
        seen, p_lower = q_and_p_lower(float(q), kq, kp)
        gap = reference.curve(kq.tolist(), kp.tolist(), seen) - Fraction(p_lower)
        assert 0 <= gap <= size * 2**-48


def test_p_lower_never_falls_beside_a_knot() -> None:
    knots_q, knots_p = np.array([0.0, 0.5, 0.75, 1.0]), np.array([0.0, 0.75, 0.9, 0.99])
    around = [0.5 + 2**-53 * k for k in range(0, 60, 2)] + [0.75 + 2**-53 * k for k in range(-40, 60)]
    margins = np.array([math.log(q) - math.log1p(-q) for q in around])
    _, q, p_lower, _ = _C.certify(np.stack([margins, np.zeros(len(around))], axis=1), knots_q, knots_p, 1.0)
    order = np.argsort(q)
    assert len(set(q.tolist())) > 20
    assert (np.diff(p_lower[order]) >= 0).all()
    for seen, bound in zip(q, p_lower, strict=True):
        assert Fraction(bound) <= reference.curve(knots_q.tolist(), knots_p.tolist(), seen)


def test_p_lower_is_exact_on_plateaus_and_at_knots() -> None:
    cap = 0.001 ** (1 / 1000)
    plateau = np.array([0.0, 0.6, 1.0]), np.array([cap, cap, cap])
    assert q_and_p_lower(0.8, *plateau)[1] == cap
    assert q_and_p_lower(1.0, np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.7, 0.93])) == (1.0, 0.93)
    assert q_and_p_lower(0.5, np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.7, 0.93])) == (0.5, 0.7)


@given(st.lists(st.floats(-12.0, 40.0), min_size=2, max_size=2), st.floats(1e-3, 10.0))
def test_a_larger_margin_never_lowers_p_on_a_rising_curve(margins: list[float], sigma: float) -> None:
    logits = np.array([[m, 0.0] for m in sorted(abs(m) for m in margins)])
    _, q, p_lower, radius = _C.certify(logits, KNOTS_Q, KNOTS_P, sigma)
    assert q[0] <= q[1]
    assert p_lower[0] <= p_lower[1]
    assert radius[0] <= radius[1] * (1 + 24 * UNIT)


# ---- certify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 7, 8, 10, 31, 32, 33, 64, 100, 1000])
def test_certify_against_50_digits(classes: int, dtype: type) -> None:
    logits = random_logits(3 if classes == 1000 else 25, classes, seed=classes, dtype=dtype)
    sigma = 0.37
    label, q, p_lower, radius = _C.certify(logits, KNOTS_Q, KNOTS_P, sigma)
    for i, row in enumerate(logits):
        true_label, true_q, true_tail = reference.softmax_of_largest(row)
        with mpmath.workdps(reference.DIGITS):
            assert abs(reference.exact(q[i]) - true_q) <= 4 * UNIT
            assert abs(1 - reference.exact(q[i]) - true_tail) <= 4 * UNIT
            exact_p = reference.curve(KNOTS_Q.tolist(), KNOTS_P.tolist(), q[i])
            assert 0 <= exact_p - Fraction(p_lower[i]) <= Fraction(1, 10**14)
            if p_lower[i] > 0.5:
                gap = float(reference.exact(sigma) * reference.probit(p_lower[i]) - reference.exact(radius[i]))
                assert label[i] == true_label
                assert 0 <= gap <= 1e-12
            else:
                assert (label[i], radius[i]) == (-1, 0.0)


@pytest.mark.parametrize("classes", [2, 5, 10, 37, 1000])
def test_float32_and_float64_logits_of_one_value_agree_to_the_bit(classes: int) -> None:
    logits = random_logits(50, classes, seed=5, dtype=np.float32)
    single, double = (_C.certify(z, KNOTS_Q, KNOTS_P, 0.5) for z in (logits, logits.astype(np.float64)))
    for a, b in zip(single, double, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_sees_what_certify_sees(dtype: type) -> None:
    logits = random_logits(200, 12, seed=6, dtype=dtype)
    logits[3, 4] = np.nan
    top_label, top_q = _C.top(logits)
    label, q, _, _ = _C.certify(logits, KNOTS_Q, KNOTS_P, 0.5)
    assert top_q.tobytes() == q.tobytes()
    certified = label >= 0
    assert 5 < certified.sum() < 195
    np.testing.assert_array_equal(top_label[certified], label[certified])
    finite = np.isfinite(top_q)
    np.testing.assert_array_equal(top_label[finite], logits[finite].argmax(axis=1))
    assert top_label[3] == -1
    assert np.isnan(top_q[3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [2, 9, 37, 70])
def test_a_row_with_a_nan_or_an_infinity_abstains(classes: int, value: float, dtype: type) -> None:
    clean = np.zeros((classes + 2, classes), dtype=dtype)
    clean[:, 1] = 9.0
    logits = clean.copy()
    for column in range(classes):
        logits[column + 1, column] = value
    label, q, p_lower, radius = _C.certify(logits, IDENTITY, IDENTITY, 1.0)
    np.testing.assert_array_equal(label, [1] + [-1] * classes + [1])
    np.testing.assert_array_equal(np.isnan(q), [False] + [True] * classes + [False])
    np.testing.assert_array_equal(p_lower[1:-1], 0.0)
    np.testing.assert_array_equal(radius[1:-1], 0.0)
    assert (radius[[0, -1]] > 0).all()


def test_ties_take_the_first() -> None:
    logits = np.array([[1.0, 7.0, 7.0, 7.0], [0.0, -0.0, 0.0, -0.0], [-0.0, 0.0, -0.0, -5.0], [3.0, 3.0, 3.0, 3.0]])
    for dtype in (np.float32, np.float64):
        label, q = _C.top(logits.astype(dtype))
        np.testing.assert_array_equal(label, [1, 0, 0, 0])
        assert q[1] == q[3] == 0.25
    knots = np.array([0.0, 0.5, 1.0])
    label, q, p_lower, radius = _C.certify(np.zeros((1, 2)), knots, knots, 1.0)
    assert (label[0], q[0], p_lower[0], radius[0]) == (-1, 0.5, 0.5, 0.0)  # 1/2 is not more than 1/2


@pytest.mark.parametrize(("dtype", "huge"), [(np.float32, 1e30), (np.float32, 3.4e38), (np.float64, 1.7e308)])
def test_huge_logits(dtype: type, huge: float) -> None:
    logits = np.array([[-huge, huge, 0.0], [huge, huge, -huge], [-huge, -huge, -huge]], dtype=dtype)
    label, q = _C.top(logits)
    np.testing.assert_array_equal(label, [1, 0, 0])
    np.testing.assert_allclose(q, [1.0, 0.5, 1 / 3], rtol=4 * UNIT)
    label, _, p_lower, radius = _C.certify(logits, IDENTITY, np.array([0.0, 0.999]), 1.0)
    np.testing.assert_array_equal(label, [1, -1, -1])
    assert p_lower[0] == 0.999
    assert radius[0] == pytest.approx(3.090232306167813, abs=1e-12)


@given(
    st.lists(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(1e-3, 10.0),
)
def test_the_radius_is_zero_if_and_only_if_the_label_abstains(rows: list[list[float]], sigma: float) -> None:
    label, q, p_lower, radius = _C.certify(np.array(rows), KNOTS_Q, KNOTS_P, sigma)
    finite = np.isfinite(rows).all(axis=1)
    np.testing.assert_array_equal(radius == 0.0, label == -1)
    np.testing.assert_array_equal(p_lower > 0.5, label >= 0)
    assert np.isfinite(radius).all()
    assert ((radius >= 0) & (p_lower >= 0) & (p_lower <= 1)).all()
    np.testing.assert_array_equal(np.isnan(q), ~finite)
    assert (label[~finite] == -1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 7, 8, 9, 10, 16, 17, 21, 32, 33, 65])
def test_rows_do_not_see_each_other(classes: int, dtype: type) -> None:
    """Few classes are worked row beside row, many row after row, one row by itself: no bit may tell which."""
    logits = random_logits(70, classes, seed=8, dtype=dtype)
    logits[::7] = np.round(logits[::7])  # ties
    logits[5, 1], logits[6, 0] = np.nan, -np.inf
    together = _C.certify(logits, KNOTS_Q, KNOTS_P, 0.5)
    alone = [_C.certify(row[None], KNOTS_Q, KNOTS_P, 0.5) for row in logits]
    few = [_C.certify(logits[i : i + 3], KNOTS_Q, KNOTS_P, 0.5) for i in range(0, 70, 3)]
    for k in range(4):
        assert together[k].tobytes() == b"".join(one[k].tobytes() for one in alone)
        assert together[k].tobytes() == b"".join(some[k].tobytes() for some in few)
    assert [a.shape for a in _C.certify(logits[:0], KNOTS_Q, KNOTS_P, 0.5)] == [(0,)] * 4


def test_the_radius_of_many_rows_is_that_of_one() -> None:
    """The radius that is held against 50 digits above, and the one that rows share vectors for, are the same bits."""
    p = probabilities(400, seed=13)
    logits = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 50.0]])
    for bound in [*p, 1.0, 0.5]:
        _, _, p_lower, radius = _C.Kernel(IDENTITY, np.array([bound, bound]), 0.37).certify(logits)
        assert p_lower.tolist() == [bound] * 3
        assert radius.tolist() == [_C.radius(np.array([bound]), 0.37)[0]] * 3
    margins = np.stack([np.random.default_rng(14).uniform(0.0, 40.0, 5000), np.zeros(5000)], axis=1)
    _, _, p_lower, radius = _C.certify(margins, IDENTITY, IDENTITY, 0.37)
    assert radius.tobytes() == _C.radius(p_lower, 0.37).tobytes()
    assert radius.max() > 1.2 * radius[p_lower < 1 - 1e-11].max() > 0  # both seams of AS241 are crossed


# ---- a curve checked once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 10, 37, 1000, 9000])
def test_a_kernel_answers_as_certify_does(classes: int, dtype: type) -> None:
    logits = random_logits(8, classes, seed=15, dtype=dtype)
    logits[3, 1] = np.nan
    kernel = _C.Kernel(KNOTS_Q, KNOTS_P, 0.5)
    expected = _C.certify(logits, KNOTS_Q, KNOTS_P, 0.5)
    for a, b in zip(kernel.certify(logits), expected, strict=True):
        assert a.tobytes() == b.tobytes()
    for i, row in enumerate(logits):
        for one in (kernel.certify_one(row), kernel.certify_one(row[None])):
            assert [type(x) for x in one] == [int, float, float, float]
            np.testing.assert_array_equal(one, [a[i] for a in expected])


def test_a_kernel_keeps_its_own_curve() -> None:
    knots_q, knots_p = KNOTS_Q.copy(), KNOTS_P.copy()
    kernel = _C.Kernel(knots_q, knots_p, 0.5)
    knots_q[:], knots_p[:] = np.nan, 1.0
    logits = random_logits(20, 5, seed=16, dtype=np.float32)
    for a, b in zip(kernel.certify(logits), _C.certify(logits, KNOTS_Q, KNOTS_P, 0.5), strict=True):
        assert a.tobytes() == b.tobytes()
    with pytest.raises(AttributeError):
        kernel.sigma = 2.0  # type: ignore[attr-defined]


def test_threads_share_a_kernel() -> None:
    kernel = _C.Kernel(KNOTS_Q, KNOTS_P, 0.5)
    logits = random_logits(300, 50, seed=17, dtype=np.float32)
    expected, first = kernel.certify(logits)[3].tobytes(), kernel.certify_one(logits[0])
    wrong: list[int] = []

    def work() -> None:
        for i in range(50):
            if kernel.certify(logits)[3].tobytes() != expected or kernel.certify_one(logits[0]) != first:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


ROW = np.zeros(3)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        ([0.0, 1.0], TypeError, "logits: expected an array of float32.1, K. or float64.1, K., got list"),
        (ROW.astype(np.float16), TypeError, "logits: expected float32.K. or float64.K., got float16"),
        (ROW.astype(">f8"), TypeError, "logits: expected float32.K. or float64.K., got >f8"),
        (np.zeros((2, 3)), ValueError, r"logits: expected one row, got shape \(2, 3\). Use certify"),
        (np.zeros((0, 3)), ValueError, r"logits: expected one row, got shape \(0, 3\)"),
        (np.zeros((1, 1, 3)), ValueError, r"logits: expected shape of .* got \(1, 1, 3\)"),
        (np.zeros(()), ValueError, r"logits: expected shape of .* got \(\)"),
        (np.zeros(1), ValueError, r"logits: expected 2 to 2147483647 classes, got shape \(1,\)"),
        (np.zeros(6)[::2], ValueError, "logits: expected C-contiguous memory"),
    ],
)
def test_certify_one_refuses_by_name(logits: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _C.Kernel(KNOTS_Q, KNOTS_P, 0.5).certify_one(logits)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("knots_q", "knots_p", "sigma", "message"),
    [
        (np.array([0.0, 0.7, 0.7, 1.0]), np.zeros(4), 0.5, "knots_q: expected strictly increasing"),
        (np.array([0.0, np.nan, 1.0]), np.zeros(3), 0.5, "knots_q: expected strictly increasing"),
        (np.zeros(0), np.zeros(0), 0.5, r"knots: expected two arrays of one length, at least 2, got \(0,\)"),
        (IDENTITY, np.array([0.0, np.inf]), 0.5, "knots_p: expected finite"),
        (IDENTITY, IDENTITY, np.nan, "sigma: expected a finite number above 0"),
    ],
)
def test_a_kernel_refuses_by_name(
    knots_q: NDArray[np.float64], knots_p: NDArray[np.float64], sigma: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _C.Kernel(knots_q, knots_p, sigma)


def test_threads_get_the_same_certificates() -> None:
    logits = random_logits(500, 50, seed=9, dtype=np.float32)
    logits.flags.writeable = False
    expected = _C.certify(logits, KNOTS_Q, KNOTS_P, 0.5)[3].tobytes()
    results: list[bytes] = []

    def work() -> None:
        for _ in range(20):
            results.append(_C.certify(logits, KNOTS_Q, KNOTS_P, 0.5)[3].tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 80


# ---- refusals ------------------------------------------------------------------------------------------------------

GOOD = np.zeros((2, 3), dtype=np.float32)
MISALIGNED = np.frombuffer(bytes(2 * 3 * 4 + 1), dtype=np.uint8)[1:].view(np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0, 2.0]], IDENTITY, IDENTITY, 1.0), TypeError, "logits: expected an array of float32"),
        ((GOOD.astype(np.float16), IDENTITY, IDENTITY, 1.0), TypeError, "logits: expected float32.*got float16"),
        ((GOOD.astype(np.int64), IDENTITY, IDENTITY, 1.0), TypeError, "logits: expected float32.*got int64"),
        ((GOOD.astype(">f4"), IDENTITY, IDENTITY, 1.0), TypeError, "logits: expected float32.*got >f4"),
        ((GOOD[0], IDENTITY, IDENTITY, 1.0), ValueError, r"logits: expected shape.*got \(3,\)"),
        ((GOOD[:, :1].copy(), IDENTITY, IDENTITY, 1.0), ValueError, r"logits: expected 2 to .*got shape \(2, 1\)"),
        ((GOOD[:, ::2], IDENTITY, IDENTITY, 1.0), ValueError, "logits: expected C-contiguous"),
        ((np.asfortranarray(GOOD), IDENTITY, IDENTITY, 1.0), ValueError, "logits: expected C-contiguous"),
        ((MISALIGNED, IDENTITY, IDENTITY, 1.0), ValueError, "logits: expected C-contiguous.*misaligned"),
        ((GOOD, [0.0, 1.0], IDENTITY, 1.0), TypeError, "knots_q: expected an array"),
        ((GOOD, IDENTITY.astype(np.float32), IDENTITY, 1.0), TypeError, "knots_q: expected float64"),
        ((GOOD, IDENTITY[:1], IDENTITY[:1], 1.0), ValueError, "knots: expected two arrays"),
        ((GOOD, IDENTITY, np.zeros(3), 1.0), ValueError, r"knots: expected two arrays.*\(2,\) and \(3,\)"),
        ((GOOD, np.array([0.0, 0.5, 0.5, 1.0]), np.zeros(4), 1.0), ValueError, "knots_q: expected strictly increasing"),
        ((GOOD, np.array([0.1, 1.0]), IDENTITY, 1.0), ValueError, "knots_q: expected strictly increasing"),
        ((GOOD, np.array([0.0, 0.9]), IDENTITY, 1.0), ValueError, "knots_q: expected strictly increasing"),
        ((GOOD, np.array([0.0, np.nan, 1.0]), np.zeros(3), 1.0), ValueError, "knots_q: expected strictly increasing"),
        ((GOOD, IDENTITY, np.array([0.0, np.nan]), 1.0), ValueError, "knots_p: expected finite"),
        ((GOOD, IDENTITY, np.array([0.0, np.inf]), 1.0), ValueError, "knots_p: expected finite"),
        ((GOOD, IDENTITY, IDENTITY, 0.0), ValueError, "sigma: expected a finite number above 0"),
        ((GOOD, IDENTITY, IDENTITY, -1.0), ValueError, "sigma: expected a finite number above 0"),
        ((GOOD, IDENTITY, IDENTITY, np.nan), ValueError, "sigma: expected a finite number above 0"),
        ((GOOD, IDENTITY, IDENTITY, np.inf), ValueError, "sigma: expected a finite number above 0"),
        ((GOOD, IDENTITY, IDENTITY, "1"), TypeError, "sigma: expected a number"),
    ],
)
def test_certify_refuses_by_name(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _C.certify(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_radius_and_top_refuse_by_name() -> None:
    with pytest.raises(TypeError, match="p_lower: expected float64"):
        _C.radius(np.zeros(2, dtype=np.float32), 1.0)
    with pytest.raises(ValueError, match="p_lower: expected C-contiguous"):
        _C.radius(np.zeros(4)[::2], 1.0)
    with pytest.raises(ValueError, match="sigma: expected a finite number above 0, got 0"):
        _C.radius(np.zeros(2), 0)
    with pytest.raises(ValueError, match="logits: expected shape"):
        _C.top(np.zeros((2, 2, 2)))


def test_the_version_is_the_package_s() -> None:
    assert _C.__version__ == (ROOT / "rrise" / "VERSION").read_text().strip()


# ---- the headers without Python ------------------------------------------------------------------------------------

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", str(ROOT / "csrc")]


def compile_embed(target: Path, *flags: str) -> Path:
    assert COMPILER is not None
    source = str(ROOT / "tests" / "cpp" / "embed.cpp")
    subprocess.run([COMPILER, *STRICT, *flags, source, "-o", str(target)], check=True, timeout=600)
    return target


def answer(program: Path, values: NDArray[np.generic], *arguments: str) -> bytes:
    return subprocess.run(
        [str(program), *arguments], input=values.tobytes(), stdout=subprocess.PIPE, check=True, timeout=600
    ).stdout


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_embed(tmp_path_factory.mktemp("cpp") / "embed", "-O2", "-ffp-contract=off")


def assert_same_as_extension(program: Path) -> None:
    """Certificates and both noises of the C++ program equal those of ``rrise._C`` to the bit."""
    for classes in (2, 8, 10, 16, 17, 37, 64, 300):
        for dtype, bits in ((np.float32, "32"), (np.float64, "64")):
            logits = random_logits(77, classes, seed=classes, dtype=dtype)
            logits[7, classes - 1], logits[8, 0] = np.nan, np.inf
            logits[10:20] = np.round(logits[10:20])
            for rows in (logits, logits[:1]):
                expected = b"".join(a.tobytes() for a in _C.certify(rows, KNOTS_Q, KNOTS_P, 0.5))
                assert answer(program, rows, "certify", bits, str(classes), "0.5") == expected
    seed, stream, image_id, draw = 2**40 + 1, 3, 2**55 + 7, 5
    thresholds, lowest = grid_thresholds(0.5)
    noise = _C.GridNoise(thresholds, lowest).noise(seed, image_id, draw, 5000, stream)
    assert answer(program, thresholds, "grid", "5000") == noise.tobytes()
    image = np.random.default_rng(11).random((1, 3001), dtype=np.float32)
    noisy = np.empty((1, 1, 3001), dtype=np.float32)
    _C.gaussian_fill(image, np.array([image_id], dtype=np.uint64), 0.5, draw, seed, stream, noisy)
    assert answer(program, image, "gaussian") == noisy.tobytes()


@needs_compiler
def test_a_cpp_program_gets_the_same_certificates_and_noise(embed: Path) -> None:
    assert_same_as_extension(embed)


LEVELS = {  # how the header is compiled, and what the CPU must know to run it
    "one lane": (["-DRRISE_NO_VECTORS"], set()),
    "x86-64": (["-march=x86-64"], {"sse2"}),
    "x86-64-v3": (["-march=x86-64-v3"], {"avx2", "bmi2", "fma"}),
    "x86-64-v4": (["-march=x86-64-v4"], {"avx512f", "avx512vl", "avx512dq", "avx512bw"}),
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("level", LEVELS)
def test_every_vector_width_gives_the_same_bits(level: str, tmp_path: Path) -> None:
    flags, needs = LEVELS[level]
    cpuinfo = Path("/proc/cpuinfo")
    missing = needs - set(cpuinfo.read_text().split() if cpuinfo.exists() else [])
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}, so it cannot run code compiled for {level}")
    assert_same_as_extension(compile_embed(tmp_path / "embed", "-O2", "-ffp-contract=off", "-DRRISE_NO_CLONES", *flags))


@needs_compiler
@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
def test_fast_math_does_not_compile(flag: str) -> None:
    assert COMPILER is not None
    for header in ("radius.h", "noise.h", "softmax.h", "planes.h"):
        source = f'#include "{header}"\n#include "{header}"\nint main() {{}}\n'
        command = [COMPILER, *STRICT, "-fsyntax-only", "-x", "c++", "-"]
        subprocess.run(command, input=source.encode(), check=True, timeout=600)  # alone, and twice, it compiles
        refused = subprocess.run([*command, flag], input=source.encode(), capture_output=True, timeout=600, check=False)
        assert refused.returncode != 0
        assert b"build without -ffast-math" in refused.stderr


@needs_compiler
def test_exp_and_log_are_within_one_ulp(embed: Path) -> None:
    rng = np.random.default_rng(12)
    inputs = {
        "exp": np.concatenate([-rng.uniform(0, 708, 700), -rng.uniform(0, 2, 700), -(10.0 ** rng.uniform(-9, 2, 600))]),
        "log": np.concatenate(
            [rng.uniform(0, 1, 700), 10.0 ** -rng.uniform(0, 16, 700), 1 - 10.0 ** -rng.uniform(1, 15, 600)]
        ),
    }
    for mode, x in inputs.items():
        got = np.frombuffer(answer(embed, x, mode))
        with mpmath.workdps(reference.DIGITS):
            truth = [(mpmath.exp if mode == "exp" else mpmath.log)(reference.exact(v)) for v in x]
            errors = [
                abs(float((reference.exact(g) - t) / float(np.spacing(abs(float(t))))))
                for g, t in zip(got, truth, strict=True)
            ]
        assert 0.4 < max(errors) < 1.0, mode
    edge = np.array([0.0, -0.0, -708.1, -1e30, -np.inf, np.nan])
    np.testing.assert_array_equal(np.frombuffer(answer(embed, edge, "exp")), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert np.frombuffer(answer(embed, np.array([1.0]), "log"))[0] == 0.0
