"""The promise among issued certificates: the walk against the exact law, then repeated calibrations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from reference_population import (
    FALSE_ALARM,
    Population,
    concentrated_population,
    family_named,
    linear_population,
    two_cluster_population,
)
from scipy.stats import binom
from test_conformal import LEVELS, PROFILE, outputs

from rrise import _C
from rrise.calibration import certified as module
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.certified import (
    FLOOR,
    certified_threshold,
    is_certified,
    sequence,
    walk,
    withdrawn,
)
from rrise.calibration.conformal import calibrate
from rrise.calibration.curves import Family, offset_family, scaled_family
from rrise.calibration.guarantees import most_failures, training_conditional_rank
from rrise.promise import promise

Q, K, N = PROFILE
BOUNDS = clopper_pearson(K, N, 0.001)
CAP = largest_p(1000, 0.001)

# --- The walk --------------------------------------------------------------------------------------------------------


def test_the_walk_stops_at_the_first_curve_that_is_not_accepted() -> None:
    allowed = most_failures(500, 0.05, 0.01)
    assert binom.cdf(allowed, 500, 0.05) <= 0.01 < binom.cdf(allowed + 1, 500, 0.05)
    good, bad = (500, allowed), (500, allowed + 1)
    assert walk([], 0.05, 0.01) == 0
    assert walk([good, good, bad, good], 0.05, 0.01) == 2
    assert walk([bad, good, good], 0.05, 0.01) == 0
    assert walk([(0, 0), good], 0.05, 0.01) == 0
    assert walk([(90, 0), good], 0.05, 0.01) == 2  # 0.95^90 = 0.0099; 0.95^89 is above 0.01
    assert walk([(89, 0), good], 0.05, 0.01) == 0


def test_the_walk_looks_no_further_than_it_goes() -> None:
    def counts() -> Iterable[tuple[int, int]]:
        yield 500, 0
        yield 500, 500
        raise AssertionError("looked beyond the first curve that was not accepted")

    assert walk(counts(), 0.05, 0.01) == 1


def test_the_sequence_falls_and_comes_from_the_profile() -> None:
    for family in (withdrawn(offset_family()), withdrawn(scaled_family(Q, BOUNDS))):
        ts = sequence(family, Q, BOUNDS, CAP, images=500, gamma=0.049, eta=0.01)
        assert np.all(np.diff(ts) < 0)
        assert ts[-1] == 0
        # Its first curve certifies enough of the profile, scaled to 500 inputs, for a test to reject.
        claims = is_certified(*family.at(ts[0], CAP), Q)
        assert 500 * claims.mean() > 92


def test_who_is_certified_does_not_hang_on_the_last_bits() -> None:
    rng = np.random.default_rng(0)
    logits = np.stack([rng.normal(0, 3, 20_000), np.zeros(20_000)], axis=1)
    q = _C.top(logits)[1]
    for family in (withdrawn(offset_family()), withdrawn(scaled_family(Q, BOUNDS))):
        for t in (0.0, 0.1, 0.25, 0.4):
            knots = family.at(t, CAP)
            label, _, p_lower, _ = _C.certify(logits, *knots, 0.5)
            assert np.array_equal(label >= 0, is_certified(*knots, q))
            assert not np.any((p_lower > 0) & (p_lower <= 0.5))
            claimed = knots[1][knots[1] > 0]
            assert claimed.size == 0 or claimed.min() >= np.nextafter(FLOOR, 0)
    assert not is_certified(*offset_family().at(0.0, CAP), np.array([np.nan]))[0]


@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_the_calibrated_curve_is_where_the_walk_stopped(curve: str) -> None:
    q, k, n = outputs(1, 800)
    found = calibrate(q, k, n, **LEVELS, curve=curve, guarantee="certified", profile=PROFILE)
    family = withdrawn(offset_family() if curve == "offset" else scaled_family(Q, BOUNDS))
    ts = sequence(family, Q, BOUNDS, CAP, images=800, gamma=0.049, eta=0.01).tolist()
    bounds = clopper_pearson(k, n, 0.001)
    place = ts.index(found.t)
    for t, accepted in ((found.t, True), (ts[0], True), (ts[place + 1], False)):
        knots = family.at(t, CAP)
        claims = is_certified(*knots, q)
        wrong = int(np.sum(claims & (np.interp(q, *knots) > bounds + 1e-13)))
        assert (wrong <= most_failures(int(claims.sum()), 0.049, 0.01)) == accepted
        if t == found.t:
            assert (found.certified, found.images - found.rank) == (claims.sum(), wrong)
    statement = found.statement()
    assert "at most 4.905% of the certificates issued for new inputs" in statement
    assert f"certifies {found.certified} of 800 calibration inputs, {800 - found.rank} of them above" in statement


def test_a_hopeless_surrogate_certifies_nothing_and_says_so() -> None:
    found = calibrate(*outputs(1, 500)[:1], np.zeros(500, int), 1000, **LEVELS, guarantee="certified", profile=PROFILE)
    assert (found.certified, found.rank) == (0, 500)
    assert found.knots_p.max() == 0
    assert "it certifies nothing" in found.statement()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"profile": None, "curve": "offset"},
            "profile: expected .* for the guarantee among certified inputs, got none",
        ),
        ({"q": Q[:90], "k": K[:90]}, "calibration: expected at least 92 images, all certified, for gamma 0.049"),
        ({"curve": "binned"}, "guarantee: expected marginal or training-conditional for the binned curve"),
        ({"profile": (Q, np.zeros(Q.size, int), N)}, "profile: expected inputs that the curve would certify, got none"),
    ],
)
def test_what_cannot_be_promised_is_refused(change: dict[str, Any], message: str) -> None:
    usable: dict[str, Any] = {"q": Q, "k": K, "n": N, "profile": PROFILE, "guarantee": "certified", **LEVELS}
    with pytest.raises(ValueError, match=message):
        calibrate(**(usable | change))


def test_an_order_that_does_not_start_with_the_safest_curve_is_refused() -> None:
    for ts in ([0.0, 0.1, 0.2], [0.2, 0.2], []):
        with pytest.raises(ValueError, match="ts: expected falling numbers, the safest curve first"):
            certified_threshold(withdrawn(offset_family()), ts, Q, BOUNDS, CAP, 0.049, 0.01)


# --- The promise, in closed form -------------------------------------------------------------------------------------

Walk = Callable[[list[tuple[int, int]], float, float], int]


def from_below(counts: list[tuple[int, int]], gamma: float, eta: float) -> int:
    """The wrong way: the lowest curve whose own test rejects, whatever the safer ones say."""
    passed = [i for i, (n, v) in enumerate(counts) if n and v <= most_failures(n, gamma, eta)]
    return passed[-1] + 1 if passed else 0


def failures_where_every_curve_is_too_low(walked: Walk, M: int, gamma: float, eta: float, repetitions: int) -> int:
    """How often any curve is accepted when each errs on a share just above gamma of what it certifies.

    q is uniform in (0.6, 1) and the classifier is wrong about each input with probability gamma, whatever its q.
    """
    rng = np.random.default_rng(5)
    ts = np.linspace(0.3, 0.1, 21)  # the offset curve certifies q > 1/2 + t: from half of the inputs to all
    q = rng.uniform(0.6, 1.0, size=(repetitions, M))
    wrong = rng.random((repetitions, M)) < gamma * (1 + 1e-9)
    certified = np.stack([(q > 0.5 + t).sum(axis=1) for t in ts], axis=1)
    missed = np.stack([((q > 0.5 + t) & wrong).sum(axis=1) for t in ts], axis=1)
    rows = zip(certified.tolist(), missed.tolist(), strict=True)
    return sum(walked(list(zip(n, v, strict=True)), gamma, eta) > 0 for n, v in rows)


def test_the_first_test_spends_what_the_binomial_law_says() -> None:
    failures = failures_where_every_curve_is_too_low(walk, 100, 0.1, 0.1, 1_500)
    first = sum(binom.pmf(n, 100, 0.5) * binom.cdf(most_failures(n, 0.1, 0.1), n, 0.1) for n in range(22, 101))
    assert abs(failures - 1_500 * first) < 5 * np.sqrt(1_500 * first * (1 - first))
    assert failures <= binom.isf(FALSE_ALARM, 1_500, 0.1)


def test_walking_the_wrong_way_is_detected() -> None:
    failures = failures_where_every_curve_is_too_low(from_below, 100, 0.1, 0.1, 1_500)
    assert failures > binom.isf(FALSE_ALARM, 1_500, 0.1)


def test_one_failure_too_many_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "most_failures", lambda *arguments: most_failures(*arguments) + 1)
    assert failures_where_every_curve_is_too_low(walk, 100, 0.1, 0.1, 1_500) > binom.isf(FALSE_ALARM, 1_500, 0.1)


# --- The promise, by repeated calibrations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Walks:
    """Curves of one sequence over a pool whose truth is known, and how many each calibration accepts."""

    errors: np.ndarray  # float64[G]: share of wrong ones among those that each curve certifies; exact
    accepted: np.ndarray  # int[R]

    @classmethod
    def run(
        cls,
        population: Population,
        curve: str,
        *,
        M: int,
        n: int,
        beta: float,
        gamma: float,
        eta: float,
        repetitions: int,
        share: bool = False,
    ) -> Walks:
        rng = np.random.default_rng(0)
        cap = largest_p(n, beta)
        rows = rng.integers(population.q.size, size=1_000)
        family: Family = withdrawn(family_named(curve, population, beta))
        table = np.arange(n + 1) / n if share else clopper_pearson(np.arange(n + 1), n, beta)
        profile = population.q[rows], clopper_pearson(rng.binomial(n, population.p[rows]), n, beta)
        ts = sequence(family, *profile, cap, images=M, gamma=gamma, eta=eta)
        stars = population.stars(family, cap)
        claims = np.stack([is_certified(*family.at(t, cap), population.q) for t in ts.tolist()])
        errors = np.array([np.mean(stars[c] > t) if c.any() else 0.0 for c, t in zip(claims, ts, strict=True)])
        accepted = []
        for repetition in range(repetitions):
            rows = rng.integers(population.q.size, size=M)
            bounds = table[rng.binomial(n, population.p[rows])]
            scores = family.scores(population.q[rows], bounds, cap)
            mine = claims[:, rows]
            counts = zip(mine.sum(axis=1).tolist(), (mine & (scores > ts[:, None])).sum(axis=1).tolist(), strict=True)
            accepted.append(walk(counts, gamma, eta))
            if repetition < 3:  # the pool's short cut and the function that calibrates agree
                found = certified_threshold(family, ts, population.q[rows], bounds, cap, gamma, eta)
                assert found.t == ts[accepted[-1] - 1] if accepted[-1] else found.certified == 0
        return cls(errors, np.array(accepted))

    def check(self, error: float, eta: float) -> None:
        failures = int(np.sum((self.accepted > 0) & (self.errors[self.accepted - 1] > error)))
        assert failures <= binom.isf(FALSE_ALARM, self.accepted.size, eta)


@pytest.mark.parametrize("curve", [pytest.param("offset", marks=pytest.mark.slow), "scaled"])
def test_the_promise_holds_among_issued_certificates(curve: str) -> None:
    walks = Walks.run(linear_population(31), curve, M=300, n=1_000, beta=0.001, gamma=0.049, eta=0.1, repetitions=400)
    walks.check(0.05, 0.1)
    assert np.mean(walks.accepted > 0) > 0.9
    # Without the walk's caution, one curve more for everybody is too low too often.
    with pytest.raises(AssertionError):
        Walks(walks.errors, np.minimum(walks.accepted + 25, walks.errors.size)).check(0.05, 0.1)


def test_a_promise_over_all_inputs_is_not_taken_for_one_among_certificates() -> None:
    population = linear_population(32)
    unsure = population.q < np.quantile(population.q, 0.7)  # most inputs are not certified at all
    population = Population(np.where(unsure, 0.4, population.q), population.p, population.q)
    family, cap = withdrawn(offset_family()), largest_p(1_000, 0.001)
    stars, rng = population.stars(family, cap), np.random.default_rng(1)
    failures = 0
    for _ in range(200):
        rows = rng.integers(population.q.size, size=300)
        bounds = clopper_pearson(rng.binomial(1_000, population.p[rows]), 1_000, 0.001)
        t = np.sort(family.scores(population.q[rows], bounds, cap))[training_conditional_rank(300, 0.049, 0.1) - 1]
        claims = population.q > 0.5 + t
        failures += bool(claims.any() and np.mean(stars[claims] > t) > 0.05)
    assert failures > binom.isf(FALSE_ALARM, 200, 0.1)


def test_a_dropped_beta_is_detected() -> None:
    setting: dict[str, Any] = {"M": 399, "n": 100, "beta": 0.05, "gamma": 0.25, "eta": 0.05, "repetitions": 250}
    promised = float(promise(0.05, 0.25))
    Walks.run(two_cluster_population(), "offset", **setting).check(promised, 0.05)
    with pytest.raises(AssertionError):
        Walks.run(two_cluster_population(), "offset", **setting, share=True).check(promised, 0.05)


@pytest.mark.parametrize("beta", [0.5, pytest.param(0.8, marks=pytest.mark.slow)])
def test_gamma_alone_is_too_small_a_promise_among_certificates(beta: float) -> None:
    """Hard inputs are missed all or none; fewer than the promise allows, and more than gamma, mostly all."""
    setting = {
        "M": 2_000,
        "n": 2_000,
        "beta": beta,
        "gamma": round(0.1 * (1 - beta), 12),
        "eta": 0.1,
        "repetitions": 40,
    }
    walks = Walks.run(concentrated_population(0.065), "offset", **setting)
    with pytest.raises(AssertionError):
        walks.check(setting["gamma"], 0.1)
    Walks.run(concentrated_population(0.103), "offset", **setting).check(float(promise(beta, setting["gamma"])), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("curve", ["offset", "scaled"])
@pytest.mark.parametrize(
    ("M", "n", "beta", "gamma", "eta"),
    [
        (500, 1_000, 0.001, 0.049, 0.01),
        (1_000, 100, 0.01, 0.09, 0.05),
        (1_000, 10_000, 0.001, 0.249, 0.1),
        (500, 1_000, 0.3, 0.07, 0.05),
        (500, 10_000, 0.5, 0.05, 0.05),
        (500, 10_000, 0.8, 0.05, 0.05),
    ],
)
def test_the_promise_holds_over_many_settings(
    curve: str, M: int, n: int, beta: float, gamma: float, eta: float
) -> None:
    for population in (linear_population(33), linear_population(34), two_cluster_population()):
        setting = {"M": M, "n": n, "beta": beta, "gamma": gamma, "eta": eta, "repetitions": 1_500}
        Walks.run(population, curve, **setting).check(float(promise(beta, gamma)), eta)
