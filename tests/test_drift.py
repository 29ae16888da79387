"""The drift signal: exact p-values, few false alarms over long streams, shifts found, a fixed reference caught."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, kstest

from rrise.audit.bets import grow, worth
from rrise.audit.drift import CELLS, DRIFT_BETS, Drift, cells, densities, rank

ALPHA, FALSE_ALARM = 0.05, 1e-6


def test_each_bet_integrates_to_one() -> None:
    for bet in range(DRIFT_BETS):
        halves = [quad(lambda p, bet=bet: densities(p)[bet], a, b, limit=200)[0] for a, b in ((0, 0.5), (0.5, 1))]
        assert sum(halves) == pytest.approx(1, abs=1e-4)


def test_cells_keep_the_order_and_take_every_q() -> None:
    q = np.array([0.0, 1e-9, 0.1, 0.1001, 0.5, 0.9, 0.999999, 1 - 1e-12, 1.0, np.nan])
    found = cells(q)
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-2], found[-1]) == (0, CELLS - 1, CELLS)
    assert found[5] > found[4] > found[3]


def p_values(q: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    counts, found = np.zeros(CELLS + 1, np.int64), []
    for cell, uniform in zip(cells(q), uniforms, strict=True):
        counts[cell] += 1
        found.append(rank(counts, cell, uniform))
    return np.array(found)


def test_p_values_are_uniform_and_independent_even_where_all_q_are_equal_or_few() -> None:
    rng = np.random.default_rng(0)
    for q in (rng.beta(8, 1, 4000), np.full(4000, 0.9), rng.choice([0.3, 0.99], 4000)):
        p = p_values(q, rng.random(4000))
        assert kstest(p, "uniform").pvalue > FALSE_ALARM
        assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 5 / np.sqrt(4000)


def alarms(p: np.ndarray) -> int:
    """Streams of p-values float64[S, T] that ever raise an alarm."""
    capital, alarmed = np.zeros((len(p), DRIFT_BETS)), np.zeros(len(p), bool)
    for step in range(p.shape[1]):
        capital = grow(capital, step, densities(p[:, step]))
        alarmed |= worth(capital, step + 1) >= 1 / ALPHA
    return int(alarmed.sum())


def test_false_alarms_of_uniform_p_values() -> None:
    streams = 200
    assert 0 < alarms(np.random.default_rng(1).random((streams, 10_000))) <= binom.isf(FALSE_ALARM, streams, ALPHA)


def test_the_check_catches_ranks_among_a_fixed_reference() -> None:
    rng, streams, reference = np.random.default_rng(2), 60, 100
    sample = np.sort(rng.random((streams, reference)), axis=1)
    q = rng.random((streams, 10_000))
    below = np.stack([np.searchsorted(row, new) for row, new in zip(sample, q, strict=True)])
    p = (below + rng.random(q.shape)) / (reference + 1)
    assert alarms(p) > binom.isf(FALSE_ALARM, streams, ALPHA)


def run(q: np.ndarray, reference: np.ndarray | None = None, seed: int = 0) -> Drift:
    rng, drift = np.random.default_rng(seed), Drift.begin(reference)
    for value in q:
        drift = drift.after(float(value), float(rng.random()))
    return drift


def test_streams_as_the_auditor_sees_them() -> None:
    rng = np.random.default_rng(3)
    found = [run(rng.beta(8, 1, 500), rng.beta(8, 1, 300), seed).largest for seed in range(20)]
    assert sum(value >= 1 / ALPHA for value in found) <= binom.isf(FALSE_ALARM, 20, ALPHA)


@pytest.mark.parametrize("after", [(4, 1), (40, 1), (60, 8)], ids=["less sure", "surer", "less spread"])
def test_a_shift_is_found_with_and_without_a_reference(after: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    assert run(np.r_[rng.beta(8, 1, 500), rng.beta(*after, 400)]).largest >= 100
    assert run(rng.beta(*after, 400), rng.beta(8, 1, 1000)).largest >= 100


@pytest.mark.parametrize("reference", [np.array([0.5, 1.5]), np.array([[0.5]]), np.array([-0.1])])
def test_a_reference_must_hold_probabilities(reference: np.ndarray) -> None:
    with pytest.raises(ValueError, match="reference: expected top probabilities"):
        Drift.begin(reference)
