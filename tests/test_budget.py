"""Draws that stop early: when they stop, what that does to a training target, computed exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rrise.targets.budget import Budget
from rrise.targets.sampling import sample_counts
from rrise.targets.settings import SampleConfig

BUDGET = Budget(first=100, n=1000)


def test_looks_double_up_to_n() -> None:
    assert BUDGET.looks() == (100, 200, 400, 800, 1000)
    assert Budget(100, 800).looks() == (100, 200, 400, 800)
    assert Budget(1000, 1000).looks() == (1000,)


@pytest.mark.parametrize(
    ("first_n", "batch_size", "first", "batch"), [(100, 250, 100, 100), (101, 50, 102, 34), (300, 250, 300, 150)]
)
def test_the_first_look_is_whole_passes(first_n: int, batch_size: int, first: int, batch: int) -> None:
    config = SampleConfig(n=1000, first_n=first_n, batch_size=batch_size)
    budget = Budget.of(config)
    assert budget is not None
    assert (budget.first, config.batch) == (first, batch)
    assert budget.first % config.batch == 0
    assert Budget.of(SampleConfig(n=1000)) is None


@pytest.mark.parametrize(
    ("counts", "settled"),
    [
        ([100, 0], False),  # one draw for and against: 1/102, for which 197 draws are called for
        ([200, 0], True),  # 1/202: 140
        ([198, 2], False),  # 3/202: 242
        ([396, 4], True),  # 5/402: 222
        ([720, 80], True),  # 81/802: 603
        ([600, 200], False),
        ([400, 400], False),
        ([267, 267, 266], False),
    ],
)
def test_an_image_is_settled_by_its_most_uncertain_share(counts: list[int], settled: bool) -> None:
    assert BUDGET.settled(np.array(counts)) is settled


def classifier(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1)
    return torch.stack([flat[:, :8].sum(1), flat[:, 8:].sum(1) - 0.8], dim=1)


def test_an_image_that_stops_has_the_first_draws_of_one_that_does_not() -> None:
    images = np.random.default_rng(2).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    ids = np.arange(30, dtype=np.uint64)
    same = {"sigma": 0.25, "seed": 7, "batch_size": 20}
    images = np.concatenate([images, images // 4, 191 + images // 4])
    ids = np.arange(90, dtype=np.uint64)
    budget = Budget(20, 320)
    counts = sample_counts(classifier, images, ids, n=320, budget=budget, **same)
    spent = counts.sum(axis=1)
    assert set(spent.tolist()) == {80, 160, 320}
    for look in (80, 160, 320):
        stopped = spent == look
        full = sample_counts(classifier, images[stopped], ids[stopped], n=look, **same)
        np.testing.assert_array_equal(counts[stopped], full)
        assert all(look == 320 or budget.settled(row) for row in full)
        half = sample_counts(classifier, images[stopped], ids[stopped], n=look // 2, **same)
        assert not any(budget.settled(row) for row in half)  # and did not stop before


def test_a_budget_that_is_no_whole_passes_is_refused() -> None:
    images, ids = np.zeros((1, 4, 4), dtype=np.uint8), np.zeros(1, dtype=np.uint64)
    for wrong in (Budget(41, 160), Budget(20, 100)):
        with pytest.raises(ValueError, match="budget: expected looks of whole batches of"):
            sample_counts(classifier, images, ids, sigma=0.25, seed=7, n=160, batch_size=20, budget=wrong)


def moments(budget: Budget, p: float) -> tuple[float, float, float]:
    """E[count], E[τ] and E[count/τ] of the first of two classes, exactly, from the law of the counts at each look."""
    alive = np.array([1.0])  # probability of each count, among those that have not stopped
    before, count, draws, share = 0, 0.0, 0.0, 0.0
    for look in budget.looks():
        alive = np.convolve(alive, stats.binom.pmf(np.arange(look - before + 1), look - before, p))
        stops = np.array([look == budget.n or budget.settled(np.array([k, look - k])) for k in range(look + 1)])
        k, mass = np.flatnonzero(stops), alive[stops]
        count, draws, share = count + mass @ k, draws + look * mass.sum(), share + mass @ k / look
        alive, before = np.where(stops, 0.0, alive), look
    return count, draws, share


def test_draws_that_weigh_the_same_are_unbiased_and_shares_are_not() -> None:
    biases = {}
    for p in np.arange(0.5, 1.0, 0.02).tolist():
        count, draws, share = moments(BUDGET, p)
        assert abs(count - p * draws) < 1e-9  # Wald's identity
        biases[p] = share - p
    assert abs(moments(Budget(1000, 1000), 0.9)[2] - 0.9) < 1e-12
    worst = max(biases, key=lambda p: abs(biases[p]))
    # The figures that rrise/targets/budget.py and docs/adaptive-draws.md quote.
    assert worst == pytest.approx(0.96)
    assert biases[worst] == pytest.approx(0.0020, abs=5e-5)
    assert min(biases.values()) > -1e-12  # never downwards: an early stop flatters the top class
    assert [round(moments(BUDGET, p)[1]) for p in (0.8, 0.9, 0.96, 0.99, 0.999)] == [903, 800, 614, 319, 203]
