"""Adaptive stopping: its level at every rule, computed exactly over the law of the counts, not sampled."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from rrise.calibration.bounds import clopper_pearson
from rrise.evaluation.adaptive_stopping import BOUNDS, adaptive_certify, known_enough, raised_bounds
from rrise.runtime.certificates import ABSTAIN

SIGMA = 0.25
RULES = {
    "tolerance 0.01": {"tolerance": 0.01},
    "tolerance 0.05": {"tolerance": 0.05},
    "any radius": {"tolerance": -math.inf, "target": 0.0},
    "radius 0.1": {"tolerance": -math.inf, "target": 0.1},
    "tolerance or radius": {"tolerance": 0.03, "target": 0.05},
}


def carried_on(law: np.ndarray, draws: int, p: float) -> np.ndarray:
    """Return the law of the number of draws that agree, after so many more."""
    return np.convolve(law, binom.pmf(np.arange(draws + 1), draws, p))


@cache
def bounds_at(look: int, alpha: float, bound: str) -> np.ndarray:
    """Return the bound of each number of draws that may agree, were this the only look."""
    return raised_bounds(np.zeros(look + 1), np.arange(look + 1), look, alpha, bound)


def lower_bounds(k: np.ndarray, looks: np.ndarray, alpha: float, bound: str = "mixture") -> np.ndarray:
    """Return the bounds of all looks, one look after the other."""
    best, columns = np.zeros(len(k)), []
    for column, look in enumerate(looks.tolist()):
        best = raised_bounds(best, k[:, column], look, alpha, bound)
        columns.append(best)
    return np.stack(columns, axis=1)


def ever_above(p: float, looks: np.ndarray, alpha: float, bound: str) -> float:
    """Return the exact probability that the bound lies above p at any look: no rule, however mean, fails more often."""
    law, failed, drawn = np.ones(1), 0.0, 0
    for look in looks.tolist():
        law, drawn = carried_on(law, look - drawn, p), look
        above = bounds_at(look, alpha, bound) > p
        failed += law[above].sum()
        law[above] = 0
    return float(failed)


def above_at_the_stop(p: float, looks: np.ndarray, alpha: float, bound: str, **rule: float) -> float:
    """Return the exact probability that the bound of the look at which an input stops lies above p."""
    law, failed, drawn = np.ones(1), 0.0, 0
    for look in looks.tolist():
        law, drawn = carried_on(law, look - drawn, p), look
        bounds = bounds_at(look, alpha, bound)
        stops = known_enough(bounds, np.arange(look + 1) / look, sigma=SIGMA, **rule) | (look == looks[-1])
        failed += law[stops & (bounds > p)].sum()
        law[stops] = 0
    return float(failed)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.25])
def test_the_mixture_bound_holds_whatever_the_rule(alpha: float) -> None:
    looks = np.arange(20, 501, 20)
    failures = {p: ever_above(p, looks, alpha, "mixture") for p in (0.3, 0.5, 0.51, 0.6, 0.75, 0.9, 0.97, 0.995)}
    assert max(failures.values()) <= alpha
    assert max(failures.values()) > alpha / 100  # nor is it so loose that nothing could break it


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_each_rule_keeps_the_level_exactly(rule: dict[str, float]) -> None:
    looks = np.arange(20, 401, 20)
    for alpha in (0.001, 0.25):
        for p in (0.5, 0.55, 0.66, 0.8, 0.95):
            assert above_at_the_stop(p, looks, alpha, "mixture", **rule) <= alpha


@pytest.mark.slow
def test_clopper_pearson_at_the_stop_does_not_hold() -> None:
    """A stop as soon as the bound passes one half, at p = 1/2 and alpha = 0.001: twelve times as often as promised."""
    looks, alpha = np.arange(100, 10_001, 100), 0.001
    rule = {"tolerance": -math.inf, "target": 0.0}
    invalid = above_at_the_stop(0.5, looks, alpha, "clopper-pearson", **rule)
    assert 11 * alpha < invalid < 14 * alpha
    assert above_at_the_stop(0.5, looks[:20], alpha, "mixture", **rule) <= alpha
    # At one look chosen beforehand it holds, so it is the stopping that breaks it.
    assert above_at_the_stop(0.5, looks[-1:], alpha, "clopper-pearson", **rule) <= alpha


def test_it_stops_at_the_first_look_that_is_good_enough() -> None:
    looks = np.array([100, 200, 400])
    k = np.array([[100, 200, 400], [52, 104, 208], [90, 182, 366]])
    bounds = lower_bounds(k, looks, 0.05)
    loose = adaptive_certify([[30, 0]] * 3, k, looks, alpha=0.05, sigma=SIGMA, tolerance=math.inf)
    np.testing.assert_array_equal(loose.evaluations, 30 + looks[0])
    np.testing.assert_array_equal(loose.p_lower, bounds[:, 0])
    strict = adaptive_certify([[30, 0]] * 3, k, looks, alpha=0.05, sigma=SIGMA, tolerance=0.0)
    np.testing.assert_array_equal(strict.evaluations, 30 + looks[-1])
    assert strict.label.tolist() == [0, ABSTAIN, 0]
    target = adaptive_certify([[0, 30]] * 3, k, looks, alpha=0.05, sigma=SIGMA, tolerance=-math.inf, target=0.29)
    assert target.evaluations.tolist() == [130, 430, 430]
    assert target.label.tolist() == [1, ABSTAIN, 1]
    assert target.radius[0] > 0.29 > target.radius[2] > 0.25


def test_the_best_bound_so_far_is_kept() -> None:
    looks = np.array([100, 110, 120])
    bounds = lower_bounds(np.array([[100, 100, 100]]), looks, 0.05)[0]
    assert bounds[0] == bounds[1] == bounds[2] > 0.9
    assert lower_bounds(np.array([[100, 100, 100]]), looks, 0.05, "clopper-pearson")[0, 2] < 0.9


def test_the_invalid_bound_is_the_plain_one() -> None:
    k, looks = np.array([[60, 140]]), np.array([100, 200])
    np.testing.assert_array_equal(lower_bounds(k, looks, 0.1, BOUNDS[1]), clopper_pearson(k, looks, 0.1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 1.0}, "alpha: expected a failure probability"),
        ({"sigma": 0.0}, "sigma: expected a positive noise level"),
        ({"looks": [200, 100]}, "looks: expected rising numbers"),
        ({"k": [[1, 2, 3]]}, r"k: expected shape \(1, 2\), got \(1, 3\)"),
        ({"tolerance": -1.0}, "tolerance: expected a length of at least 0"),
        ({"bound": "wald"}, "bound: expected one of mixture, clopper-pearson, got 'wald'"),
        ({"tolerance": float("nan")}, "tolerance: expected"),
        ({"k": [[101, 150]]}, "k: expected running counts"),
        ({"k": [[90, 80]]}, "k: expected running counts"),
        ({"k": [[10, 120]]}, "k: expected running counts"),
        ({"k": [[0.9, 0.8]]}, "k: expected running counts"),
        ({"k": [[3, 5]], "looks": [3, 5]}, "looks: expected a last look at which a unanimous class is certified"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    given = {"selection": [[9, 1]], "k": [[90, 180]], "looks": [100, 200], "alpha": 0.05, "sigma": SIGMA} | change
    with pytest.raises(ValueError, match=said):
        adaptive_certify(**given)
