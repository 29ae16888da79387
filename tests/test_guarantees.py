"""Ranks against exact arithmetic, then the theorem itself: repeated calibrations of inputs whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_bounds import exact_lower_tail
from reference_population import (
    FALSE_ALARM,
    Population,
    concentrated_population,
    family_named,
    linear_population,
    memorised,
    two_cluster_population,
)
from scipy.stats import binom, norm

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.conformal import calibrate
from rrise.calibration.guarantees import (
    MARGINAL,
    TRAINING_CONDITIONAL,
    check_levels,
    conformal_rank,
    marginal_rank,
    training_conditional_rank,
)
from rrise.calibration.levels import spent
from rrise.promise import promise

# --- Ranks -----------------------------------------------------------------------------------------------------------


def test_ranks_of_the_method_page() -> None:
    assert training_conditional_rank(1000, 0.249, 0.01) == 783
    assert training_conditional_rank(1000, 0.05, 0.01) == 966
    assert training_conditional_rank(5000, 0.249, 0.01) == 3827
    assert training_conditional_rank(5000, 0.05, 0.01) == 4786


def test_a_marginal_rank_reads_gamma_as_a_decimal() -> None:
    slips = 0
    for M in range(1, 2_000):
        for hundredths in (1, 3, 5, 7, 10, 14, 25, 29, 30, 45):
            rank = -((M + 1) * (100 - hundredths) // -100)  # ceil in integers
            gamma = hundredths / 100
            if rank <= M:
                assert marginal_rank(M, gamma) == rank
                slips += math.ceil((M + 1) * (1 - gamma)) != rank
            else:
                with pytest.raises(ValueError, match=f"at least {-(-100 // hundredths) - 1} images"):
                    marginal_rank(M, gamma)
    assert slips > 0  # or this test could not tell floats from decimals


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 99), st.integers(1, 99))
def test_a_training_conditional_rank_is_the_smallest_by_its_definition(M: int, g: int, e: int) -> None:
    gamma, eta = Fraction(g, 100), Fraction(e, 100)
    # P[Beta(k, M + 1 - k) >= 1 - gamma] = P[Bin(M, 1 - gamma) <= k - 1], both exact.
    ranks = [k for k in range(1, M + 1) if exact_lower_tail(k - 1, M, 1 - gamma) >= 1 - eta]
    if ranks:
        assert training_conditional_rank(M, g / 100, e / 100) == ranks[0]
    else:
        with pytest.raises(ValueError, match="calibration: expected at least"):
            training_conditional_rank(M, g / 100, e / 100)


@pytest.mark.parametrize(("M", "gamma", "eta", "rank"), [(1, 0.1, 0.9, 1), (2, 0.5, 0.25, 2), (2, 0.5, 0.75, 1)])
def test_a_tie_counts_as_enough(M: int, gamma: float, eta: float, rank: int) -> None:
    assert training_conditional_rank(M, gamma, eta) == rank


@pytest.mark.parametrize(("M", "gamma", "eta"), [(500, 0.049, 0.01), (20_000, 0.009, 0.001), (200_000, 0.249, 0.05)])
def test_a_training_conditional_rank_agrees_with_the_binomial_law(M: int, gamma: float, eta: float) -> None:
    rank = training_conditional_rank(M, gamma, eta)
    assert binom.cdf(M - rank, M, gamma) <= eta < binom.cdf(M - rank + 1, M, gamma)
    assert rank > marginal_rank(M, gamma)


@pytest.mark.parametrize(("gamma", "eta"), [(0.01, 0.05), (0.049, 0.01), (0.5, 0.25), (0.9, 0.1), (0.001, 0.001)])
def test_too_few_images_are_told_how_many_are_needed(gamma: float, eta: float) -> None:
    needed = max(1, round(math.log(eta) / math.log1p(-gamma)) - 1)
    while (1 - Fraction(str(gamma))) ** needed > Fraction(str(eta)):
        needed += 1
    assert (1 - Fraction(str(gamma))) ** (needed - 1) > Fraction(str(eta))
    assert training_conditional_rank(needed, gamma, eta) == needed
    if needed > 1:
        with pytest.raises(
            ValueError,
            match=f"^calibration: expected at least {needed} images for gamma {gamma} at eta {eta}, got {needed - 1}. ",
        ):
            training_conditional_rank(needed - 1, gamma, eta)


@given(st.integers(400, 3_000), st.integers(1, 400))
def test_ranks_rise_with_the_confidence_asked_for(M: int, thousandths: int) -> None:
    gamma = (thousandths + 20) / 1000
    ranks = [training_conditional_rank(M, gamma, eta) for eta in (0.5, 0.1, 0.01, 0.001)]
    assert ranks == sorted(ranks)
    assert ranks[1] >= marginal_rank(M, gamma)
    assert ranks[-1] <= M


def test_a_guarantee_is_picked_by_name() -> None:
    assert conformal_rank("marginal", 1000, 0.05, 0.01) == 951
    assert conformal_rank("training-conditional", 1000, 0.05, 0.01) == 966
    with pytest.raises(ValueError, match="guarantee: expected one of marginal, training-conditional, got 'pac'"):
        conformal_rank("pac", 1000, 0.05, 0.01)
    with pytest.raises(ValueError, match="calibration: expected at least 1 image, got 0"):
        conformal_rank("marginal", 0, 0.05, 0.01)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((0.0, 0.1, 0.1), "beta: expected a number strictly between 0 and 1, got 0.0"),
        ((0.1, 1.0, 0.1), "gamma: expected a number strictly between 0 and 1, got 1.0"),
        ((0.1, 0.1, math.nan), "eta: expected a number strictly between 0 and 1, got nan"),
        ((0.1, 0.9, 0.1), r"gamma / \(1 - beta\): expected less than 1, got 0.9 / \(1 - 0.1\)"),
    ],
)
def test_levels_out_of_range_are_named(levels: tuple[float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_levels(*levels)
    check_levels(0.1, 0.89999, 0.1)


# --- Populations with a known truth ----------------------------------------------------------------------------------


Bound = Callable[[np.ndarray, int, float], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """Many calibrations of one population: the t of each, and from which t on each input of the pool is covered."""

    t: np.ndarray
    stars: np.ndarray

    @classmethod
    def run(
        cls,
        population: Population,
        curve: str,
        guarantee: str,
        *,
        M: int,
        n: int,
        beta: float,
        gamma: float,
        eta: float = 0.1,
        repetitions: int,
        seed: int = 0,
        rank_shift: int = 0,
        bound: Bound = clopper_pearson,
    ) -> Trial:
        rng = np.random.default_rng(seed)
        family, cap = family_named(curve, population, beta), largest_p(n, beta)
        rows = rng.integers(population.q.size, size=(repetitions, M))
        k = rng.binomial(n, population.p[rows])
        lower = bound(np.arange(n + 1), n, beta)[k] if n < k.size else bound(k, n, beta)
        scores = family.scores(population.q_in_calibration[rows], lower, cap)
        rank = conformal_rank(guarantee, M, gamma, eta) + rank_shift
        return cls(np.sort(scores, axis=1)[:, rank - 1], population.stars(family, cap))

    def coverage(self) -> np.ndarray:
        """The share of the pool that each calibrated curve is right about; exact."""
        return np.searchsorted(np.sort(self.stars), self.t, side="right") / self.stars.size


def check_marginal(trial: Trial, error: float) -> None:
    """One new input for each calibration: at most a share ``error`` of them above the curve, within binomial slack."""
    new = np.random.default_rng(12345).integers(trial.stars.size, size=trial.t.size)
    misses = int(np.sum(trial.stars[new] > trial.t))
    assert misses <= binom.isf(FALSE_ALARM, trial.t.size, error)


def check_training_conditional(trial: Trial, error: float, eta: float) -> None:
    """At most a share ``eta`` of calibrated curves cover less than 1 - ``error`` of the pool, within binomial slack."""
    failures = int(np.sum(trial.coverage() < 1 - error))
    assert failures <= binom.isf(FALSE_ALARM, trial.t.size, eta)


def promised(setting: Mapping[str, Any]) -> float:
    return float(promise(setting["beta"], setting["gamma"]))


# The sizes at which one rank less matters most. A million draws make the bounds of single inputs nearly exact, so that
# nothing but the rank stands between the curve and its guarantee.
TIGHT_MARGINAL = {"M": 19, "n": 10**6, "beta": 0.001, "gamma": 0.05}
TIGHT_CONDITIONAL = {"M": 22, "n": 10**6, "beta": 0.001, "gamma": 0.1, "eta": 0.1}
CURVES = ("offset", "scaled")


@pytest.mark.parametrize("curve", CURVES)
def test_marginal_coverage_holds_where_it_is_tight(curve: str) -> None:
    trial = Trial.run(linear_population(1), curve, MARGINAL, **TIGHT_MARGINAL, repetitions=2_000)
    check_marginal(trial, promised(TIGHT_MARGINAL))
    assert trial.coverage().mean() < 0.97  # tight indeed


@pytest.mark.parametrize("curve", CURVES)
def test_a_marginal_rank_one_too_low_is_detected(curve: str) -> None:
    trial = Trial.run(linear_population(1), curve, MARGINAL, **TIGHT_MARGINAL, repetitions=2_000, rank_shift=-1)
    with pytest.raises(AssertionError):
        check_marginal(trial, promised(TIGHT_MARGINAL))


@pytest.mark.parametrize("curve", CURVES)
def test_training_conditional_coverage_holds_where_it_is_tight(curve: str) -> None:
    trial = Trial.run(linear_population(2), curve, TRAINING_CONDITIONAL, **TIGHT_CONDITIONAL, repetitions=1_000)
    check_training_conditional(trial, promised(TIGHT_CONDITIONAL), 0.1)
    assert np.mean(trial.coverage() < 0.9) > 0.05  # tight indeed


@pytest.mark.parametrize("curve", CURVES)
def test_a_training_conditional_rank_one_too_low_is_detected(curve: str) -> None:
    trial = Trial.run(
        linear_population(2), curve, TRAINING_CONDITIONAL, **TIGHT_CONDITIONAL, repetitions=1_000, rank_shift=-1
    )
    with pytest.raises(AssertionError):
        check_training_conditional(trial, promised(TIGHT_CONDITIONAL), 0.1)


@pytest.mark.parametrize("curve", CURVES)
def test_a_marginal_rank_is_not_taken_for_a_training_conditional_one(curve: str) -> None:
    trial = Trial.run(linear_population(2), curve, MARGINAL, **TIGHT_CONDITIONAL, repetitions=1_000)
    with pytest.raises(AssertionError):
        check_training_conditional(trial, promised(TIGHT_CONDITIONAL), 0.1)


CLUSTERS = {"M": 399, "n": 100, "beta": 0.05, "gamma": 0.25, "repetitions": 1_000}


@pytest.mark.parametrize("curve", CURVES)
def test_noisy_counts_are_bounded_before_they_are_ranked(curve: str) -> None:
    trial = Trial.run(two_cluster_population(), curve, MARGINAL, **CLUSTERS)
    check_marginal(trial, promised(CLUSTERS))
    trial = Trial.run(two_cluster_population(), curve, TRAINING_CONDITIONAL, **CLUSTERS, eta=0.01)
    check_training_conditional(trial, promised(CLUSTERS), 0.01)


def test_shares_in_place_of_bounds_are_detected() -> None:
    def share(k: np.ndarray, n: int, beta: float) -> np.ndarray:
        return k / n

    trial = Trial.run(two_cluster_population(), "offset", MARGINAL, **CLUSTERS, bound=share)
    with pytest.raises(AssertionError):
        check_marginal(trial, promised(CLUSTERS))
    trial = Trial.run(two_cluster_population(), "offset", TRAINING_CONDITIONAL, **CLUSTERS, eta=0.01, bound=share)
    with pytest.raises(AssertionError):
        check_training_conditional(trial, promised(CLUSTERS), 0.01)


TYPICAL = {"M": 300, "n": 1000, "beta": 0.001, "gamma": 0.049, "repetitions": 1_000}


@pytest.mark.parametrize("curve", CURVES)
def test_calibration_on_memorised_inputs_is_detected(curve: str) -> None:
    honest = linear_population(3)
    check_marginal(Trial.run(honest, curve, MARGINAL, **TYPICAL), promised(TYPICAL))
    check_training_conditional(
        Trial.run(honest, curve, TRAINING_CONDITIONAL, **TYPICAL, eta=0.05), promised(TYPICAL), 0.05
    )
    cheat = memorised(honest)
    with pytest.raises(AssertionError):
        check_marginal(Trial.run(cheat, curve, MARGINAL, **TYPICAL), promised(TYPICAL))
    with pytest.raises(AssertionError):
        check_training_conditional(
            Trial.run(cheat, curve, TRAINING_CONDITIONAL, **TYPICAL, eta=0.05), promised(TYPICAL), 0.05
        )


@pytest.mark.parametrize("curve", CURVES)
def test_calibration_on_another_engine_s_scores_is_detected(curve: str) -> None:
    """The engine that is deployed is far surer of the same labels, as one whose arithmetic saturates may be."""
    deployed = linear_population(3)
    other = replace(deployed, q_in_calibration=norm.cdf(norm.ppf(deployed.q) / 3))
    with pytest.raises(AssertionError):
        check_marginal(Trial.run(other, curve, MARGINAL, **TYPICAL), promised(TYPICAL))
    with pytest.raises(AssertionError):
        check_training_conditional(
            Trial.run(other, curve, TRAINING_CONDITIONAL, **TYPICAL, eta=0.05), promised(TYPICAL), 0.05
        )


# --- The promise itself: gamma / (1 - beta), and no less -----------------------------------------------------------

ALPHA = 0.1
"""What is promised, and so the share of hard inputs that may just be missed."""
LARGE = {"M": 4_000, "n": 20_000, "repetitions": 80}
"""Many inputs with nearly exact bounds: of some at one p a share 1 - beta has a bound of at most p."""


def check_mean(trial: Trial, error: float) -> None:
    """The mean miscoverage, exact for each calibration, is at most ``error`` but for five standard errors."""
    missed = 1 - trial.coverage()
    assert missed.mean() <= error + 5 * missed.std(ddof=1) / math.sqrt(missed.size)


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8])
def test_the_promise_holds_where_all_that_it_allows_may_go_wrong(beta: float) -> None:
    """Just more hard inputs than the promise allows, all missed or none: a calibration must mostly miss none."""
    setting = LARGE | {"beta": beta, "gamma": spent(ALPHA, beta)[1]}
    population = concentrated_population(1.03 * ALPHA)
    check_mean(Trial.run(population, "offset", MARGINAL, **setting), promised(setting))
    trial = Trial.run(population, "offset", TRAINING_CONDITIONAL, **setting, eta=0.1)
    check_training_conditional(trial, promised(setting), 0.1)
    misses_all = np.mean(trial.coverage() < 1 - promised(setting))
    assert misses_all > 0  # a share of about 0.01 to 0.07: as many hard inputs as make it possible


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8])
def test_gamma_alone_is_detected_as_too_small_a_promise(beta: float) -> None:
    """Just fewer hard inputs than the promise allows are missed in nearly every calibration."""
    setting = LARGE | {"beta": beta, "gamma": spent(ALPHA, beta)[1]}
    population = concentrated_population(0.85 * ALPHA)
    marginal = Trial.run(population, "offset", MARGINAL, **setting)
    conditional = Trial.run(population, "offset", TRAINING_CONDITIONAL, **setting, eta=0.1)
    check_mean(marginal, promised(setting))
    check_training_conditional(conditional, promised(setting), 0.1)
    with pytest.raises(AssertionError):
        check_mean(marginal, setting["gamma"])
    with pytest.raises(AssertionError):
        check_training_conditional(conditional, setting["gamma"], 0.1)


def served_trial(population: Population, curve: str, guarantee: str, repetitions: int, seed: int) -> np.ndarray:
    """Coverage of curves made by ``calibrate`` and evaluated by the serving kernel, exact over the pool."""
    rng = np.random.default_rng(seed)
    logits = np.stack([np.log(population.q / (1 - population.q)), np.zeros(population.q.size)], axis=1)
    _, q = _C.top(logits)
    rows = rng.integers(q.size, size=400)
    profile = (q[rows], rng.binomial(1000, population.p[rows]), 1000) if curve == "scaled" else None
    coverage = []
    for _ in range(repetitions):
        rows = rng.integers(q.size, size=300)
        k = rng.binomial(1000, population.p[rows])
        found = calibrate(
            q[rows], k, 1000, beta=0.001, gamma=0.049, eta=0.05, curve=curve, guarantee=guarantee, profile=profile
        )
        label, _, p_lower, radius = _C.certify(logits, found.knots_q, found.knots_p, 0.5)
        right = population.p >= p_lower
        coverage.append(right.mean())
        # The corollary: where a certificate is issued and the bound is right, label and radius are g's own.
        issued = (label >= 0) & right
        assert np.all(population.p[issued] > 0.5)
        assert np.all(radius[issued] <= 0.5 * norm.ppf(population.p[issued]) + 1e-12)
    return np.array(coverage)


@pytest.mark.parametrize("curve", CURVES)
def test_served_curves_keep_their_guarantee(curve: str) -> None:
    population = linear_population(4, size=4_000)
    coverage = served_trial(population, curve, TRAINING_CONDITIONAL, repetitions=60, seed=1)
    assert np.sum(coverage < 1 - promised(TYPICAL)) <= binom.isf(FALSE_ALARM, coverage.size, 0.05)
    assert coverage.max() < 1  # the curve claims enough to be wrong at times


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(
    ("M", "n", "beta", "gamma", "eta"),
    [
        (99, 10**5, 0.001, 0.049, 0.1),
        (500, 1_000, 0.001, 0.049, 0.01),
        (500, 1_000, 0.01, 0.04, 0.01),
        (1_000, 1_000, 0.001, 0.249, 0.01),
        (1_000, 100, 0.01, 0.09, 0.05),
        (46, 10_000, 0.001, 0.1, 0.01),
        (500, 1_000, 0.3, 0.07, 0.05),
        (500, 1_000, 0.5, 0.05, 0.05),
        (500, 10**6, 0.5, 0.05, 0.05),
        (500, 1_000, 0.8, 0.02, 0.05),
        (500, 10**5, 0.8, 0.02, 0.05),
    ],
)
def test_guarantees_hold_over_many_settings(curve: str, M: int, n: int, beta: float, gamma: float, eta: float) -> None:
    for seed in range(2):
        for population in (linear_population(10 + seed), two_cluster_population()):
            setting = {"M": M, "n": n, "beta": beta, "gamma": gamma, "eta": eta, "repetitions": 800, "seed": seed}
            check_marginal(Trial.run(population, curve, MARGINAL, **setting), promised(setting))
            trial = Trial.run(population, curve, TRAINING_CONDITIONAL, **setting)
            check_training_conditional(trial, promised(setting), eta)


@pytest.mark.slow
@pytest.mark.parametrize("guarantee", [MARGINAL, TRAINING_CONDITIONAL])
@pytest.mark.parametrize("curve", CURVES)
def test_served_curves_keep_their_guarantee_over_many_calibrations(curve: str, guarantee: str) -> None:
    coverage = served_trial(linear_population(5, size=3_000), curve, guarantee, repetitions=200, seed=2)
    if guarantee == MARGINAL:
        # The mean of coverages is at least what is promised; five standard errors are a false alarm below 1e-6.
        assert coverage.mean() >= 1 - promised(TYPICAL) - 5 * coverage.std() / math.sqrt(coverage.size)
    else:
        assert np.sum(coverage < 1 - promised(TYPICAL)) <= binom.isf(FALSE_ALARM, coverage.size, 0.05)
