"""The binned curve, and its promise inside each bin: repeated calibrations of inputs whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_population import FALSE_ALARM, family_named, linear_population
from scipy.stats import binom
from test_conformal import LEVELS, PROFILE, outputs
from test_curves import exact_curve, exact_interpolation, families, neighbours

from rrise import _C
from rrise.calibration import bins as module
from rrise.calibration.bins import Bin, bin_edges, bin_thresholds, binned_curve
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.conformal import calibrate
from rrise.calibration.curves import Family, offset_family, scaled_family
from rrise.calibration.guarantees import MARGINAL, TRAINING_CONDITIONAL, marginal_rank, training_conditional_rank
from rrise.promise import promise

# --- The curve -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    families(),
    st.lists(st.floats(1e-6, 1, exclude_max=True), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(0, 2), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), max_size=12),
)
def test_every_q_is_answered_by_its_own_bin(
    family: Family, starts: list[float], ts: list[float], extra: list[float]
) -> None:
    bins = tuple(Bin(start, 9, 9, t) for start, t in zip(sorted(starts), ts, strict=False))
    q, p = binned_curve(family, bins, 0.99)
    assert q[0] == 0
    assert q[-1] == 1
    assert np.all(np.diff(q) > 0)
    points = {x for edge in (*starts, *q.tolist()) for x in neighbours(edge) if 0 <= x <= 1} | set(extra)
    for x in points:
        own = [b for b in bins if b.start <= x]
        above = exact_curve(family, own[-1].t, 0.99, x) if own else Fraction(0)
        assert exact_interpolation(q, p, x) <= above, x
        if own:  # and it loses only rounding, against the knots of the family itself
            lost = np.interp(x, *family.at(own[-1].t, 0.99)) - np.interp(x, q, p)
            assert lost <= 1e-9 or np.diff(q).min() < 1e-12


@pytest.mark.parametrize("guarantee", [MARGINAL, TRAINING_CONDITIONAL])
def test_in_each_bin_as_served_at_least_rank_inputs_lie_on_the_right_side(guarantee: str) -> None:
    for seed in range(4):
        q, k, n = outputs(seed, 900)
        logits = np.stack([np.log(q / (1 - q)), np.zeros(q.size)], axis=1)
        q = _C.top(logits)[1]
        found = calibrate(q, k, n, **LEVELS, curve="binned", guarantee=guarantee, profile=PROFILE)
        p_lower = _C.certify(logits, found.knots_q, found.knots_p, 0.25)[2]
        right = p_lower <= clopper_pearson(k, n, 0.001)
        starts = [b.start for b in found.bins]
        assert len(starts) >= 2
        which = np.searchsorted(starts, q, side="right")
        assert not p_lower[which == 0].any()
        for place, b in enumerate(found.bins, start=1):
            assert b.images == np.sum(which == place)
            assert np.sum(right[which == place]) >= b.rank
        assert (found.rank, found.t) == (sum(b.rank for b in found.bins), max(b.t for b in found.bins))


def test_bins_come_from_the_profile_and_begin_with_the_boundary_band() -> None:
    q, k, n = PROFILE
    family = scaled_family(q, clopper_pearson(k, n, 0.001))
    edges = bin_edges(family, q, 10_000, MARGINAL, 0.049, 0.01)
    heights = np.interp(edges, family.knots_q, family.h)
    assert heights == pytest.approx([0.5, 0.75, 0.9, 0.99], abs=1e-9)
    one, other = (calibrate(*outputs(s, 900), **LEVELS, curve="binned", profile=PROFILE) for s in (1, 2))
    assert [b.start for b in one.bins] == [b.start for b in other.bins]
    # Fewer calibration inputs, wider bins; the first still begins with the band.
    for images in (800, 300, 100, 1):
        fewer = bin_edges(family, q, images, TRAINING_CONDITIONAL, 0.049, 0.01)
        assert len(fewer) <= len(edges)
        assert set(fewer) <= set(edges)
        assert fewer[0] == edges[0]
        edges = fewer
    assert len(edges) == 1


def test_each_bin_has_the_rank_of_its_own_inputs() -> None:
    q = np.concatenate([np.linspace(0.1, 0.39, 30), np.linspace(0.4, 0.69, 60), np.linspace(0.7, 1, 90), [np.nan]])
    scores = np.arange(q.size, dtype=float)
    scores[-1] = -np.inf
    first, second = bin_thresholds(q, scores, (0.4, 0.7), MARGINAL, 0.1, 0.01)
    assert first == Bin(0.4, 60, marginal_rank(60, 0.1), 30.0 + marginal_rank(60, 0.1) - 1)
    assert second == Bin(0.7, 90, marginal_rank(90, 0.1), 90.0 + marginal_rank(90, 0.1) - 1)
    first, second = bin_thresholds(q, scores, (0.4, 0.7), TRAINING_CONDITIONAL, 0.1, 0.2)
    assert (first.rank, second.rank) == tuple(training_conditional_rank(m, 0.1, 0.1) for m in (60, 90))


def test_a_bin_with_too_few_inputs_is_named_with_the_number_it_needs() -> None:
    q, scores = np.linspace(0.5, 1, 100), np.zeros(100)
    with pytest.raises(ValueError, match=r"at least 19 images with q from 0\.95 up to 1 for gamma 0\.05, got 10\."):
        bin_thresholds(q, scores, (0.5, 0.95), MARGINAL, 0.05, 0.01)
    with pytest.raises(
        ValueError, match=r"at least 104 images with q from 0\.5 below 0\.95 .* at eta 0\.01 / 2, got 90"
    ):
        bin_thresholds(q, scores, (0.5, 0.95), TRAINING_CONDITIONAL, 0.05, 0.01)


def test_the_statement_names_every_bin() -> None:
    found = calibrate(*outputs(1, 900), **LEVELS, curve="binned", profile=PROFILE)
    statement = found.statement()
    assert "\n" not in statement
    assert "at most 4.905% of new inputs drawn independently from their source" in statement
    assert f"within each of the curve's {len(found.bins)} bins of q at once" in statement
    for b in found.bins:
        assert f"from q = {b.start:.6g} rank {b.rank} of {b.images}, t = {b.t:.6g}" in statement
    marginal = calibrate(*outputs(1, 900), **LEVELS, curve="binned", guarantee=MARGINAL, profile=PROFILE)
    assert f"whichever of the curve's {len(marginal.bins)} bins of q it falls in" in marginal.statement()


# --- The promise -----------------------------------------------------------------------------------------------------

Edges = Callable[[np.ndarray, np.ndarray], tuple[float, ...]]


@dataclass(frozen=True)
class Pool:
    """Inputs by rising q, and the t from which on the curve is right about each."""

    q: np.ndarray
    stars: np.ndarray

    @classmethod
    def linear(cls) -> Pool:
        population = linear_population(21)
        stars = population.stars(family_named("scaled", population, 0.001), largest_p(1000, 0.001))
        order = np.argsort(population.q, kind="stable")
        return cls(population.q[order], stars[order])

    @classmethod
    def even(cls) -> Pool:
        """Errors that have nothing to do with q, so that nothing is lost or gained by any fixed bins."""
        rng = np.random.default_rng(3)
        return cls(np.linspace(0.5, 1, 20_000), rng.permutation(20_000) / 20_000)

    def thirds(self) -> tuple[float, ...]:
        """Bins of a third each, fixed by the pool, as a profile would."""
        return tuple(np.quantile(self.q, [0, 1 / 3, 2 / 3]).tolist())

    def coverage(self, guarantee: str, *, M: int, gamma: float, eta: float, edges: Edges | None = None) -> np.ndarray:
        """float[R, B]: exact coverage within each bin, for the calibrations in which no bin is too small.

        Bounds are the truth itself (infinitely many draws), so that the rank alone stands between curve and promise.
        """
        rng = np.random.default_rng(0)
        found, fixed = [], self.thirds()
        for rows in rng.integers(self.q.size, size=(REPETITIONS, M)):
            scores = self.stars[rows]
            starts = edges(self.q[rows], scores) if edges else fixed
            try:
                bins = bin_thresholds(self.q[rows], scores, starts, guarantee, gamma, eta)
            except ValueError:
                continue
            cuts = np.append(np.searchsorted(self.q, starts), self.q.size)
            found.append([np.mean(self.stars[a:b] <= c.t) for a, b, c in zip(cuts, cuts[1:], bins, strict=False)])
        assert len(found) > 0.8 * REPETITIONS
        return np.array(found)


REPETITIONS = 2_000


def check_marginal(coverage: np.ndarray, error: float) -> None:
    """In each bin, a new input of that bin for each calibration: misses within binomial slack."""
    misses = (np.random.default_rng(7).random(coverage.shape) > coverage).sum(axis=0)
    assert np.all(misses <= binom.isf(FALSE_ALARM, coverage.shape[0], error))


def check_simultaneous(coverage: np.ndarray, error: float, eta: float) -> None:
    failures = int(np.sum(np.any(coverage < 1 - error, axis=1)))
    assert failures <= binom.isf(FALSE_ALARM, coverage.shape[0], eta)


def best_looking(q: np.ndarray, scores: np.ndarray) -> tuple[float, ...]:
    """A cheat: the 19 calibration inputs in a row that look best make a bin."""
    order = np.argsort(q)
    worst = np.lib.stride_tricks.sliding_window_view(scores[order], 19).max(axis=1)[:-19]
    first = int(np.argmin(worst))
    return float(q[order][first]), float(q[order][first + 19])


MARGINAL_BINS = {"M": 27, "gamma": 0.25, "eta": 0.5}
CONDITIONAL_BINS = {"M": 75, "gamma": 0.25, "eta": 0.3}


@pytest.mark.parametrize("name", [pytest.param("linear", marks=pytest.mark.slow), "even"])
def test_the_promise_holds_in_every_bin(name: str) -> None:
    pool = Pool.linear() if name == "linear" else Pool.even()
    coverage = pool.coverage(MARGINAL, **MARGINAL_BINS)
    check_marginal(coverage, 0.25)
    both = pool.coverage(TRAINING_CONDITIONAL, **CONDITIONAL_BINS)
    check_simultaneous(both, 0.25, 0.3)
    if name == "even":  # tight, but for the ranks' whole numbers
        assert np.all(coverage.mean(axis=0) < 0.81)
        assert np.mean(np.any(both < 0.75, axis=1)) > 0.1


def test_a_rank_one_too_low_in_each_bin_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, true = Pool.even(), module.conformal_rank
    monkeypatch.setattr(module, "conformal_rank", lambda *arguments: true(*arguments) - 1)
    with pytest.raises(AssertionError):
        check_marginal(pool.coverage(MARGINAL, **MARGINAL_BINS), 0.25)
    with pytest.raises(AssertionError):
        check_simultaneous(pool.coverage(TRAINING_CONDITIONAL, **CONDITIONAL_BINS), 0.25, 0.3)


def test_eta_spent_whole_in_every_bin_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_share", lambda eta, bins: Fraction(str(eta)))
    coverage = Pool.even().coverage(TRAINING_CONDITIONAL, **CONDITIONAL_BINS)
    with pytest.raises(AssertionError):
        check_simultaneous(coverage, 0.25, 0.3)


def test_bins_chosen_from_calibration_inputs_are_detected() -> None:
    setting = {"M": 300, "gamma": 0.05, "eta": 0.5}
    check_marginal(Pool.even().coverage(MARGINAL, **setting), 0.05)
    coverage = Pool.even().coverage(MARGINAL, **setting, edges=best_looking)
    with pytest.raises(AssertionError):
        check_marginal(coverage[:, :1], 0.05)


def test_one_t_for_all_does_not_keep_the_promise_in_every_bin() -> None:
    pool = Pool.linear()
    right = pool.stars <= np.quantile(pool.stars, 0.95)  # one curve that covers 95% of all
    cuts = np.append(np.searchsorted(pool.q, pool.thirds()), pool.q.size)
    shares = [np.mean(right[a:b]) for a, b in pairwise(cuts)]
    assert np.mean(shares) == pytest.approx(0.95, abs=0.001)
    assert min(shares) < 0.93


@pytest.mark.parametrize("beta", [0.5, 0.8])
def test_gamma_alone_is_too_small_a_promise_in_every_bin(beta: float) -> None:
    """In each of two bins just fewer hard inputs than gamma / (1 - beta), which its curve misses all or none."""
    gamma, n, size, M = round(0.1 * (1 - beta), 12), 10**5, 20_000, 8_000
    half = np.arange(size) % 2
    hard = np.arange(size) < 0.085 * size
    p = np.where(hard, 0.55 + 0.3 * half, 0.999)
    q = np.where(hard, p + 0.05, 0.52 + 0.3 * half)
    rng, cap, family = np.random.default_rng(0), largest_p(n, beta), offset_family()
    missed = []
    for _ in range(40):
        rows = rng.integers(size, size=M)
        k, place = np.unique(rng.binomial(n, p[rows]), return_inverse=True)
        bounds = clopper_pearson(k, n, beta)[place]
        bins = bin_thresholds(q[rows], family.scores(q[rows], bounds, cap), (0.5, 0.8), MARGINAL, gamma, 0.1)
        t = np.array([b.t for b in bins])[half]
        wrong = family.scores(q, p, cap) > t
        missed.append([wrong[half == b].mean() for b in (0, 1)])
    shares = np.array(missed)
    slack = 5 * shares.std(axis=0, ddof=1) / np.sqrt(len(shares))
    assert np.all(shares.mean(axis=0) <= float(promise(beta, gamma)) + slack)
    assert np.all(shares.mean(axis=0) > gamma + slack)
