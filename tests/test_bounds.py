from __future__ import annotations

import csv
import math
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_bounds import DIGITS, lower_bound, mixture_log_evidence, probit, upper_tail
from scipy.special import betainccinv

from rrise import _C
from rrise.calibration.bounds import (
    MOST_DRAWS,
    clopper_pearson,
    clopper_pearson_interval,
    largest_p,
    largest_radius,
    mixture_lower,
    mixture_lower_raised,
    smallest_certifying_count,
    smallest_draws,
)

GOLDEN = list(csv.DictReader((Path(__file__).parent / "golden" / "clopper_pearson.csv").read_text().splitlines()))
TOLERANCE = mp.mpf(10) ** -12


def assert_just_below_exact(p: float, k: int, n: int, alpha: float) -> None:
    """P is not above CP(k, n, alpha) and within 1e-12 of it: decided by the binomial tail, whose root CP is."""
    with mp.workdps(DIGITS):
        failure = 1 - mp.mpf(p)
        assert upper_tail(k, n, failure) <= alpha, (k, n, alpha)
        assert upper_tail(k, n, failure - TOLERANCE) > alpha, (k, n, alpha)


# --- Clopper-Pearson -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_golden_table_is_the_truth_of_this_page() -> None:
    assert len(GOLDEN) == 156
    with mp.workdps(DIGITS):
        for row in GOLDEN[::25]:
            p = lower_bound(int(row["k"]), int(row["n"]), mp.mpf(row["alpha"]))
            assert abs(p - mp.mpf(row["cp_lower"])) < mp.mpf(10) ** -29, row
            assert abs(probit(p) - mp.mpf(row["probit_of_cp_lower"])) < mp.mpf(10) ** -27, row


def test_bounds_lie_just_below_the_golden_ones() -> None:
    for row in GOLDEN:
        p = float(clopper_pearson(int(row["k"]), int(row["n"]), float(row["alpha"])))
        gap = Fraction(row["cp_lower"]) - Fraction(p)
        assert 0 <= gap <= Fraction(1, 10**12), row
        assert (p > 0.5) == (row["certifiable"] == "1"), row


def test_radii_of_bounds_lie_just_below_the_golden_ones() -> None:
    p = np.array([float(clopper_pearson(int(r["k"]), int(r["n"]), float(r["alpha"]))) for r in GOLDEN])
    for row, radius in zip(GOLDEN, _C.radius(p, 1.0), strict=True):
        if row["certifiable"] == "1":
            gap = Fraction(row["probit_of_cp_lower"]) - Fraction(float(radius))
            # One unit in the last place of a float64 bound near 1 is worth more than 1e-12 of radius where the density
            # is small: no float64 bound can do better.
            place = 2.0**-53 / math.exp(-(float(radius) ** 2) / 2) * math.sqrt(2 * math.pi)
            assert 0 <= gap <= 1e-12 + place, row
        else:
            assert radius == 0, row


def test_numbers_of_the_method_page() -> None:
    assert float(clopper_pearson(9000, 10000, 0.25)) == pytest.approx(0.897900594805808085, abs=1e-12)
    sizes = (100, 1_000, 10_000, 100_000)
    assert [smallest_certifying_count(n, 0.001) for n in sizes] == [66, 550, 5156, 50490]
    assert [smallest_certifying_count(n, 0.25) for n in sizes] == [54, 512, 5035, 50108]
    assert [smallest_certifying_count(n, 0.05) for n in sizes] == [59, 527, 5083, 50261]
    for alpha, radii in (
        (0.001, (1.500475, 2.463263, 3.198578, 3.811457)),
        (0.25, (2.203854, 2.992099, 3.635688, 4.191385)),
    ):
        assert [largest_radius(n, alpha, 1.0) for n in sizes] == pytest.approx(radii, abs=6e-7)
        assert [float(_C.radius(np.array([largest_p(n, alpha)]), 1.0)[0]) for n in sizes] == pytest.approx(
            radii, abs=6e-7
        )


@pytest.mark.parametrize("n", [1, 2, 3, 10, 47, 100, 1_000, 10_000, 1_000_000])
def test_bounds_lie_just_below_the_exact_tail_root(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(12):
        k = int(rng.integers(1, n + 1)) if rng.random() < 0.5 else n - int(rng.integers(0, min(n, 30)))
        alpha = float(10.0 ** rng.uniform(-9, -0.05))
        assert_just_below_exact(float(clopper_pearson(k, n, alpha)), k, n, alpha)


@pytest.mark.parametrize(
    ("k", "n", "alpha"),
    [(999_997, 10**6, 0.00499), (999_986, 10**6, 0.27076), (999_962, 10**6, 0.16238), (9_999_992, 10**7, 2.72e-6)],
)
def test_bounds_do_not_trust_an_inaccurate_inverse(k: int, n: int, alpha: float) -> None:
    assert_just_below_exact(float(clopper_pearson(k, n, alpha)), k, n, alpha)


def test_the_library_inverse_alone_would_be_too_high() -> None:
    # Why the bound takes a Newton step: with the margin only, this bound would be above the exact one.
    k, n, alpha = 999_997, 10**6, 0.00499
    assert upper_tail(k, n, mp.mpf(float(betainccinv(n - k + 1, k, alpha)) * (1 + 1e-12))) > alpha


@given(st.integers(1, 2_000), st.floats(1e-12, 0.999))
def test_all_draws_succeeding_gives_the_root_of_alpha(n: int, alpha: float) -> None:
    p = largest_p(n, alpha)
    assert p == clopper_pearson(n, n, alpha)
    assert Fraction(p) ** n <= Fraction(alpha) < (Fraction(p) + Fraction(1, 10**14)) ** n


@given(st.integers(1, 100_000), st.floats(1e-12, 0.999))
def test_no_success_gives_zero(n: int, alpha: float) -> None:
    lower, upper = clopper_pearson_interval(0, n, alpha)
    assert clopper_pearson(0, n, alpha) == lower == 0
    assert clopper_pearson_interval(n, n, alpha)[1] == 1
    assert 0 < upper < 1


@settings(max_examples=60)
@given(st.integers(1, 3_000), st.floats(1e-9, 0.5))
def test_bounds_rise_with_the_count_and_stay_below_the_share(n: int, alpha: float) -> None:
    k = np.arange(n + 1)
    p = clopper_pearson(k, n, alpha)
    assert np.all(np.diff(p)[p[1:] > 1e-9] > 0)
    assert np.all(np.diff(p) >= 0)
    assert np.all(p <= k / n)
    assert np.all(p < 1)


@settings(max_examples=60)
@given(st.integers(1, 10**6), st.data())
def test_bounds_fall_with_a_smaller_alpha(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    small, large = sorted(data.draw(st.lists(st.floats(1e-9, 0.9), min_size=2, max_size=2)))
    assert clopper_pearson(k, n, small) <= clopper_pearson(k, n, large) + (1e-12 if small == large else 0)
    if large > small * 1.001:
        assert clopper_pearson(k, n, small) < clopper_pearson(k, n, large)


def test_arrays_broadcast_and_match_single_calls() -> None:
    k, n = np.array([[3], [7]]), np.array([7, 50, 1000])
    table = clopper_pearson(k, n, 0.01)
    assert table.shape == (2, 3)
    assert table.dtype == np.float64
    for i, j in np.ndindex(2, 3):
        assert table[i, j] == clopper_pearson(int(k[i, 0]), int(n[j]), 0.01)
    assert clopper_pearson(np.array([], dtype=np.int64), 5, 0.1).shape == (0,)
    assert clopper_pearson(k.astype(np.uint8), n.astype(np.uint32), 0.01).tolist() == table.tolist()


def test_the_interval_contains_the_exact_one() -> None:
    for k, n, alpha in ((0, 10, 0.1), (1, 10, 0.1), (500, 1000, 0.05), (990, 1000, 0.001), (100, 100, 0.01)):
        lower, upper = (float(end) for end in clopper_pearson_interval(k, n, alpha))
        assert 0 <= lower_bound(k, n, alpha / 2) - mp.mpf(lower) < TOLERANCE
        assert 0 <= mp.mpf(upper) - (1 - lower_bound(n - k, n, alpha / 2)) < TOLERANCE


@settings(max_examples=40)
@given(st.integers(1, 400), st.floats(1e-6, 0.9))
def test_the_smallest_certifying_count_is_that_of_exact_integers(n: int, alpha: float) -> None:
    # CP(k, n, alpha) > 1/2 if and only if P[Bin(n, 1/2) >= k] < alpha.
    certifying = [k for k in range(n + 1) if Fraction(sum(math.comb(n, j) for j in range(k, n + 1)), 2**n) < alpha]
    if certifying:
        assert smallest_certifying_count(n, alpha) == certifying[0]
    else:
        with pytest.raises(ValueError, match=f"at least {smallest_draws(alpha)} draws"):
            smallest_certifying_count(n, alpha)


@given(st.floats(1e-12, 0.9))
def test_the_smallest_number_of_draws_is_the_first_that_certifies(alpha: float) -> None:
    n = smallest_draws(alpha)
    assert largest_p(n, alpha) > 0.5
    assert n == 1 or largest_p(n - 1, alpha) <= 0.5


def test_the_smallest_number_of_draws_reaches_the_radius_asked_for() -> None:
    for sigma, radius in ((0.25, 0.5), (1.0, 2.0), (0.5, 1.9)):
        n = smallest_draws(0.001, radius, sigma)
        assert largest_radius(n, 0.001, sigma) > radius >= largest_radius(n - 1, 0.001, sigma)
    assert largest_radius(9, 0.001, 1.0) == 0
    with pytest.raises(ValueError, match=r"radius: expected one that .* draws can certify"):
        smallest_draws(0.001, 50.0, 1.0)


@pytest.mark.parametrize(
    ("k", "n", "alpha", "error", "message"),
    [
        (5, 4, 0.1, ValueError, r"k: expected a count from 0 to n = 4, got 5\. "),
        ([1, -1], 4, 0.1, ValueError, r"k: expected a count from 0 to n = 4, got -1\. "),
        (0, 0, 0.1, ValueError, r"n: expected 1 to \d+ draws, got 0\. "),
        (0, MOST_DRAWS + 1, 0.1, ValueError, r"n: expected 1 to \d+ draws, got \d+\. "),
        (1.0, 4, 0.1, TypeError, r"k: expected integers, got float64\. "),
        (1, 4.0, 0.1, TypeError, r"n: expected integers, got float64\. "),
        (True, 4, 0.1, TypeError, r"k: expected integers, got bool\. "),
        ([1, 2], [3, 4, 5], 0.1, ValueError, r"k and n: expected shapes that broadcast, got \(2,\) and \(3,\)\. "),
        (1, 4, 0.0, ValueError, r"alpha: expected a probability of at least 1e-50 and below 1, got 0\.0\. "),
        (1, 4, 1.0, ValueError, r"alpha: expected a probability of at least 1e-50 and below 1, got 1\.0\. "),
        (1, 4, math.nan, ValueError, r"alpha: expected a probability of at least 1e-50 and below 1, got nan\. "),
    ],
)
@pytest.mark.parametrize("bound", [clopper_pearson, clopper_pearson_interval, mixture_lower])
def test_bad_input_is_refused_by_name(bound, k, n, alpha, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        bound(k, n, alpha)


def test_a_radius_needs_a_noise_level() -> None:
    with pytest.raises(ValueError, match="radius: expected a number of at least 0, got -1"):
        smallest_draws(0.001, -1.0, 1.0)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma: expected a positive number"):
            largest_radius(100, 0.001, sigma)


# --- Mixture bound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "alpha", "expected"),
    [
        (10_000, 9_000, 0.001, 0.885892),
        (10_000, 9_000, 0.25, 0.890573),
        (10_000, 10_000, 0.001, 0.999193),
        (100, 100, 0.001, 0.922498),
    ],
)
def test_mixture_numbers_of_the_method_page(n: int, k: int, alpha: float, expected: float) -> None:
    assert float(mixture_lower(k, n, alpha)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "k", "alpha"),
    [(10_000, 9_000, 0.001), (100, 100, 0.001), (100, 1, 0.05), (3, 2, 0.3), (1, 1, 0.01), (50_000, 49_990, 0.01)],
)
def test_the_mixture_bound_solves_its_definition_from_below(n: int, k: int, alpha: float) -> None:
    p = float(mixture_lower(k, n, alpha))
    excess = float(mixture_log_evidence(p, k, n) + mp.log(mp.mpf(alpha)))
    assert 0 <= excess < 1e-8  # evidence falls in p: a positive excess means that the bound is not too high


def test_a_mixture_bound_that_is_known_is_raised_or_kept() -> None:
    looks = np.arange(50, 1001, 50)
    k = np.cumsum(np.random.default_rng(3).binomial(50, [[0.6], [0.95], [1.0]], (3, len(looks))), axis=1)
    separate, best = mixture_lower(k, looks, 0.05), np.zeros(3)
    assert np.any(np.diff(separate) < 0)  # or this test would know no bound to keep
    for column, look in enumerate(looks.tolist()):
        best = mixture_lower_raised(best, k[:, column], look, 0.05)
        np.testing.assert_allclose(best, separate[:, : column + 1].max(axis=1), rtol=0, atol=4e-15)
    np.testing.assert_array_equal(mixture_lower_raised([0.9, 0.0], [0, 0], 10, 0.05), [0.9, 0.0])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.25, 1e-3, 1e-9])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_the_mixture_bound_of_every_count_solves_its_definition(n: int, alpha: float) -> None:
    for k, p in enumerate(mixture_lower(np.arange(n + 1), n, alpha).tolist()):
        assert (p == 0) == (k == 0)
        if k:
            below, above = (float(mixture_log_evidence(each, k, n) + mp.log(mp.mpf(alpha))) for each in (p, p + 1e-9))
            assert below >= 0
            assert above < 0


def test_the_mixture_bound_rises_with_the_count_and_costs_more_than_a_fixed_size() -> None:
    k = np.arange(501)
    p = mixture_lower(k, 500, 0.01)
    assert p[0] == 0
    assert np.all(np.diff(p) > 0)
    assert np.all(p[1:] < clopper_pearson(k[1:], 500, 0.01))
    assert np.all(mixture_lower(k[1:], 500, 0.001) < p[1:])


def test_the_mixture_bound_survives_optional_stopping_where_clopper_pearson_does_not() -> None:
    p, alpha, runs, last = 0.8, 0.05, 4_000, 2_000
    looks = np.arange(10, last + 1, 10)
    draws = np.random.default_rng(7).random((runs, last)) < p
    counts = np.cumsum(draws, axis=1)[:, looks - 1]

    def ever_wrong(bound) -> int:  # type: ignore[no-untyped-def]
        # The bound rises with k: find, for each look, the smallest count that refutes the true p.
        low, high = np.zeros(looks.size, dtype=np.int64), looks + 1  # low never refutes, high does
        while np.any(high - low > 1):
            middle = (low + high) // 2
            refutes = bound(np.minimum(middle, looks), looks, alpha) > p
            refutes |= middle > looks
            low, high = np.where(refutes, low, middle), np.where(refutes, middle, high)
        return int(np.any(counts >= high, axis=1).sum())

    # 4000 runs at a true rate of at most 5%: more than 270 has probability below 1e-6.
    assert ever_wrong(mixture_lower) <= 270
    assert ever_wrong(clopper_pearson) > 600
