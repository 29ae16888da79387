"""Input-specific budgets: published draws, and the level of a certificate computed exactly, not sampled."""

import numpy as np
import pytest
from scipy.stats import binom

from rrise.calibration.bounds import clopper_pearson
from rrise.evaluation.baselines import cohen_certify
from rrise.evaluation.input_specific import BudgetMap, budget_map, input_specific_budget, input_specific_certify
from rrise.runtime.certificates import ABSTAIN

SIGMA = 0.25


@pytest.mark.parametrize(
    ("alpha", "draws"), [(0.001, [9600, 8000, 6600, 7000, 9000]), (0.25, [7800, 4200, 2500, 3400, 8700])]
)
def test_the_map_gives_the_known_budgets(alpha: float, draws: list[int]) -> None:
    budgets = budget_map(n_max=10_000, batch=100, alpha=alpha, sigma=SIGMA)
    found = [int(budgets.draws[np.flatnonzero(budgets.p == p)[0]]) for p in (0.55, 0.7, 0.9, 0.99, 1.0)]
    assert found == draws


def test_the_map_is_the_smallest_budget_by_its_definition() -> None:
    from scipy.stats import beta, norm

    def radius(p: float, n: int) -> float:
        return SIGMA * norm.ppf(beta.ppf(0.05, p * n, n - p * n + 1))

    for relative, decline in ((True, 0.02), (False, 0.03)):
        budgets = budget_map(n_max=400, batch=50, alpha=0.05, sigma=SIGMA, decline=decline, relative=relative)
        for p, n in list(zip(budgets.p, budgets.draws, strict=True))[::25]:
            most = radius(p, 400)
            wanted = most * (1 - decline) if relative else most - decline
            fit = [m for m in range(50, 401, 50) if radius(p, m) >= wanted]
            assert n == (fit[0] if wanted > 0 else 0)


def test_the_budget_is_the_most_within_the_pilots_interval() -> None:
    budgets = BudgetMap(np.arange(500, 1001) / 1000, np.arange(501, dtype=np.int64), 500, 1)
    assert budgets.largest([0.6004], [0.7001]).tolist() == [201]
    assert budgets.largest([0.0, 0.2, 0.9], [0.4, 0.5, 1.0]).tolist() == [0, 0, 500]
    few = input_specific_budget([[10, 90], [50, 50]], budgets, alpha=0.05)
    assert few.tolist() == [451, 102]  # intervals [.8238, .9510] and [.3983, .6017]


def level(p: float, pilot: int, budgets: BudgetMap, alpha: float, *, reuse: bool) -> float:
    """Return the exact probability of a bound above its class's probability, for two classes of p and 1 - p."""
    first = np.arange(pilot + 1)
    law = binom.pmf(first, pilot, p)
    draws = input_specific_budget(np.stack([first, pilot - first], axis=1), budgets, alpha=alpha)
    failed = 0.0
    for j, mass, n in zip(first.tolist(), law, draws.tolist(), strict=True):
        if not n:
            continue
        truth, seen = (p, j) if j >= pilot - j else (1 - p, pilot - j)
        fresh = max(n - pilot, 0) if reuse else n
        m = np.arange(fresh + 1)
        bound = clopper_pearson(m + seen, fresh + pilot, alpha) if reuse else clopper_pearson(m, n, alpha)
        failed += mass * binom.pmf(m, fresh, truth)[bound > truth].sum()
    return failed


@pytest.mark.parametrize("alpha", [0.01, 0.25])
def test_fresh_draws_keep_the_level_and_reused_ones_do_not(alpha: float) -> None:
    budgets = budget_map(n_max=400, batch=20, alpha=alpha, sigma=SIGMA, decline=0.05)
    grid = (0.5, 0.52, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    fresh = [level(p, 60, budgets, alpha, reuse=False) for p in grid]
    reused = [level(p, 60, budgets, alpha, reuse=True) for p in grid]
    assert max(fresh) <= alpha
    assert max(fresh) > alpha / 3
    assert max(reused) > alpha


def multinomial(n: int, p: tuple[float, ...]) -> list[tuple[tuple[int, ...], float]]:
    """Return every class count of n draws of three classes with its probability."""
    found = []
    for a in range(n + 1):
        for b in range(n - a + 1):
            mass = binom.pmf(a, n, p[0]) * binom.pmf(b, n - a, p[1] / (1 - p[0]))
            found.append(((a, b, n - a - b), float(mass)))
    return found


@pytest.mark.parametrize("p", [(0.5, 0.5 - 1e-9, 1e-9), (0.4, 0.35, 0.25), (0.62, 0.3, 0.08), (0.34, 0.33, 0.33)])
def test_the_fixed_budget_keeps_the_level_and_one_sample_for_both_does_not(p: tuple[float, float, float]) -> None:
    alpha, pilot, n = 0.05, 9, 24
    law = multinomial(n, p)
    bounds = clopper_pearson(np.arange(n + 1), n, alpha)

    def failing(chosen: int) -> float:
        return sum(mass for counts, mass in law if bounds[counts[chosen]] > p[chosen])

    separate = sum(mass * failing(int(np.argmax(counts))) for counts, mass in multinomial(pilot, p))
    together = sum(mass for counts, mass in law if bounds[max(counts)] > p[int(np.argmax(counts))])
    assert separate <= alpha
    if p[0] - p[1] < 1e-6:
        assert together > alpha  # where it matters: two classes alike, either of which may look certain
    single = cohen_certify([[5, 3, 1]], [[20, 4, 0]], alpha=alpha, sigma=SIGMA)
    assert single.p_lower[0] == bounds[20]


def test_certificates_count_what_was_spent() -> None:
    pilot = np.array([[50, 50], [95, 5], [2, 98]])
    fresh = np.array([[0, 0], [390, 10], [3, 197]])
    found = input_specific_certify(pilot, fresh, alpha=0.01, sigma=SIGMA)
    assert found.label.tolist() == [ABSTAIN, 0, 1]
    assert found.evaluations.tolist() == [100, 500, 300]
    assert found.p_lower.tolist() == [0.0, *clopper_pearson([390, 197], [400, 200], 0.01)]
    assert found.q.tolist() == [0.0, 0.975, 0.985]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 30}, "batch: expected a divisor of n_max=400, got 30"),
        ({"alpha": 0.0}, "alpha: expected"),
        ({"sigma": -1.0}, "sigma: expected"),
        ({"decline": 1.0}, "decline: expected a share of the radius"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        budget_map(**({"n_max": 400, "batch": 100, "alpha": 0.05, "sigma": SIGMA} | change))


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="estimation counts: expected shape"):
        input_specific_certify([[9, 1]], [[90, 10, 0]], alpha=0.05, sigma=SIGMA)
