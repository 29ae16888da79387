"""The evidence against a promise that is kept stays small; what would break that is caught; the interval holds."""

import numpy as np
import pytest
from scipy.stats import binom

from rrise.audit.bets import LARGEST, grow, waiting, worth
from rrise.audit.eprocess import BETS, EProcess, factors, rates, refutes

ERROR, B = 0.05, 0.01
M = ERROR + B
STEPS = 10_000
FALSE_ALARM = 1e-6


def alarms(seed: int, streams: int, alpha: float, bets: np.ndarray, rate: float = M, steps: int = STEPS) -> int:
    """How many streams of audits ever raise an alarm when each is refuted at a rate, given the bets' factors."""
    rng = np.random.default_rng(seed)
    capital, alarmed = np.zeros((streams, bets.shape[1])), np.zeros(streams, bool)
    for step in range(steps):
        capital = grow(capital, step, bets[(rng.random(streams) < rate).astype(int)])
        alarmed |= worth(capital, step + 1) >= 1 / alpha
    return int(alarmed.sum())


def allowed(streams: int, alpha: float) -> int:
    """Alarms that a probability of alpha explains, but for a chance of 1e-6."""
    return int(binom.isf(FALSE_ALARM, streams, alpha))


def test_the_money_is_all_there_and_each_bet_is_fair() -> None:
    assert waiting(0) == 1
    assert worth(np.zeros(3), 0) == 1
    for m in (1e-6, 0.011, 0.055, 0.3, 0.95):
        lose, win = factors(m)
        np.testing.assert_allclose((1 - m) * lose + m * win, 1, rtol=1e-12)  # a fair bet at the boundary
        assert (lose > 0).all()
        assert (win > 1).all()
        assert (rates(m) > m).all()
        np.testing.assert_allclose((win - 1) / (1 - m), (1 - lose) / m)  # one lambda a bet: 1 + lambda (X - m)
    capital = np.zeros(BETS)
    for step in range(1000):  # bets that neither win nor lose keep the whole
        capital = grow(capital, step, np.ones(BETS))
        assert worth(capital, step + 1) == pytest.approx(1, abs=1e-12)
    assert grow(np.array([LARGEST]), 5, np.array([7.0])) == LARGEST


def test_it_is_the_sum_over_bets_and_first_steps() -> None:
    refuted = np.random.default_rng(0).random(60) < 0.3
    evidence = EProcess.begin(0.1)
    for x in refuted:
        evidence = evidence.after(bool(x))
    lose, win = factors(0.1)
    total = waiting(60)
    for start in range(60):
        steps = np.where(refuted[start:, None], win, lose)
        total += (waiting(start) - waiting(start + 1)) * steps.prod(axis=0).mean()
    assert evidence.value == pytest.approx(total, rel=1e-12)
    assert (evidence.audits, evidence.refuted) == (60, refuted.sum())
    assert evidence.largest >= evidence.value


def test_false_alarms_at_the_boundary() -> None:
    assert 0 < alarms(1, 400, 0.05, factors(M)) <= allowed(400, 0.05)  # some, or the check would prove nothing


@pytest.mark.slow
@pytest.mark.parametrize(("m", "alpha"), [(0.011, 0.01), (0.055, 0.01), (0.055, 0.1), (0.275, 0.01)])
def test_false_alarms_in_many_streams(m: float, alpha: float) -> None:
    streams = 5000
    assert 0 < alarms(2, streams, alpha, factors(m), rate=m) <= allowed(streams, alpha)


def test_the_check_catches_a_promise_without_b() -> None:
    assert alarms(1, 400, 0.05, factors(ERROR)) > allowed(400, 0.05)


def test_the_check_catches_a_bet_that_looks_at_the_outcome() -> None:
    lose, win = factors(M)
    looking = np.stack([np.ones_like(lose), win])  # it stakes nothing where it would lose
    assert alarms(1, 400, 0.05, looking, steps=500) > allowed(400, 0.05)


def test_the_check_catches_stakes_that_are_lent() -> None:
    """Each first step bets the whole money, not a share: the sum of e-processes is none."""
    rng, bets, streams = np.random.default_rng(3), factors(M), 400
    capital, alarmed = np.zeros((streams, BETS)), np.zeros(streams, bool)
    for _ in range(2000):
        capital = (capital + 1) * bets[(rng.random(streams) < M).astype(int)]
        alarmed |= capital.mean(axis=1) >= 20
    assert alarmed.sum() > allowed(streams, 0.05)


def test_a_rate_that_depends_on_the_past_gains_nothing() -> None:
    """An adversary who knows the evidence, and may choose any conditional rate up to m."""
    rng, bets, streams = np.random.default_rng(4), factors(M), 400
    capital, largest = np.zeros((streams, BETS)), np.ones(streams)
    for step in range(2000):
        value = worth(capital, step)
        rate = np.where((value > 0.5) & (value < 20), M, 0.2 * M)
        capital = grow(capital, step, bets[(rng.random(streams) < rate).astype(int)])
        largest = np.maximum(largest, worth(capital, step + 1))
    assert (largest >= 20).sum() <= allowed(streams, 0.05)


@pytest.mark.parametrize("n", [20, 200, 1000])
@pytest.mark.parametrize("b", [0.001, 0.005, 0.05])
@pytest.mark.parametrize("p_lower", [0.51, 0.75, 0.9, 0.99])
def test_a_true_certificate_is_refuted_with_probability_at_most_b(n: int, b: float, p_lower: float) -> None:
    refuting = [k for k in range(n + 1) if refutes(k, n, p_lower, b)]
    assert refuting == list(range(len(refuting)))
    most = len(refuting) - 1
    assert binom.cdf(most, n, p_lower) <= b  # p = p_lower, the least that makes the claim true
    assert binom.cdf(most + 1, n, p_lower) > b * (1 - 1e-9)  # and no larger set would do
    assert refutes(0, n, p_lower, b)


def test_the_interval_holds_at_all_times_and_brackets_the_share() -> None:
    rng, streams, alpha, rate = np.random.default_rng(5), 300, 0.1, 0.2
    x = rng.random((streams, 300)) < rate
    missed = np.zeros(streams, bool)
    for audits in (1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200, 300):
        totals = x[:, :audits].sum(axis=1)
        for refuted in np.unique(totals).tolist():
            low, high = EProcess(rate, audits, refuted, np.zeros(BETS), 1.0).interval(alpha)
            assert low <= refuted / audits <= high
            missed[totals == refuted] |= not low <= rate <= high
    assert missed.sum() <= allowed(streams, alpha)
    assert high - low < 0.25
    assert EProcess.begin(0.1).interval(0.1) == (0.0, 1.0)


def test_a_shift_after_a_long_good_time_is_found() -> None:
    rng, evidence = np.random.default_rng(6), EProcess.begin(0.055)
    for x in rng.random(2000) < 0.002:
        evidence = evidence.after(bool(x))
    assert evidence.largest < 100
    for _ in range(400):
        evidence = evidence.after(bool(rng.random() < 0.165))
    assert evidence.largest >= 100


@pytest.mark.parametrize("m", [0.0, 1.0, float("nan")])
def test_a_rate_must_be_one(m: float) -> None:
    with pytest.raises(ValueError, match="m: expected a rate strictly between 0 and 1"):
        EProcess.begin(m)
