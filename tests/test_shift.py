"""Weights for known class frequencies: the theorem in closed form, then repeated calibrations under a planted shift."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference_population import FALSE_ALARM, Population, linear_population
from scipy.stats import binom
from test_conformal import LEVELS, PROFILE, outputs

from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.conformal import CalibrateConfig, calibrate
from rrise.calibration.curves import offset_family
from rrise.calibration.guarantees import marginal_rank
from rrise.calibration.shift import exact_priors, shift_rank
from rrise.promise import promise

# --- Closed forms ----------------------------------------------------------------------------------------------------


def separated_miss(counts: tuple[int, ...], priors: tuple[float, ...], rank: int) -> Fraction:
    """P[a new score lies above the rank-th] where each class scores above all classes before it; exact."""
    miss = Fraction(0)
    for share, count in zip(exact_priors(priors), counts, strict=True):
        below = min(max(rank, 0), count)  # how many of the class's scores are at most the one taken
        # If that one is of this class, the new score is equally likely in each of count + 1 gaps.
        miss += share * (Fraction(count + 1 - below, count + 1) if rank <= count else 0)
        rank -= count
    return miss


def rank_of(counts: tuple[int, ...], priors: tuple[float, ...], gamma: float) -> int:
    return shift_rank(np.arange(sum(counts)), np.repeat(np.arange(len(counts)), counts), priors, gamma).rank


def largest_weight_alone(counts: tuple[int, ...], priors: tuple[float, ...], gamma: float) -> int:
    """The rank if the largest weight stood for the new input, as where calibration's frequencies are known exactly."""
    weights = [share / (count + 1) for share, count in zip(exact_priors(priors), counts, strict=True)]
    left, rank = Fraction(str(gamma)) - max(weights), sum(counts)
    for weight in np.repeat(weights, counts)[::-1].tolist():
        left -= weight
        if left < 0 or rank == 1:
            break
        rank -= 1
    return rank


def mixed_miss(first: int, second: int, priors: tuple[float, float], gamma: float) -> Fraction:
    """The same where both classes have one law of scores: a mean over all orders of the labels; exact."""
    M = first + second
    misses = []
    for ones in itertools.combinations(range(M), second):
        labels = np.isin(np.arange(M), ones).astype(int)
        k = shift_rank(np.arange(M), labels, priors, gamma).rank
        misses.append(Fraction(M + 1 - k, M + 1))
    return sum(misses, Fraction(0)) / len(misses)


def settings() -> list[tuple[tuple[int, ...], tuple[float, ...], float]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        classes = int(rng.choice([2, 3, 4, 6]))
        counts = tuple(rng.choice([5, 10, 20, 40, 80, 150], classes).tolist())
        tenths = rng.multinomial(10, np.full(classes, 1 / classes))
        setting = counts, tuple((tenths / 10).tolist()), float(rng.choice([0.05, 0.1, 0.2, 0.3]))
        try:
            rank_of(*setting)
        except ValueError:
            continue
        found.append(setting)
    return found


def test_no_separated_classes_break_the_promise() -> None:
    usable = settings()
    assert len(usable) > 300

    def broken(rank: Callable[..., int]) -> int:
        return sum(separated_miss(c, p, rank(c, p, gamma)) > Fraction(str(gamma)) for c, p, gamma in usable)

    assert broken(rank_of) == 0
    # A rank one lower breaks it, and so does less caution about frequencies that are those of the sample.
    assert broken(lambda *setting: rank_of(*setting) - 1) > 0
    assert broken(largest_weight_alone) > 0


def test_no_mixed_classes_break_the_promise() -> None:
    for setting in [(4, 5, (0.5, 0.5), 0.4), (6, 4, (0.3, 0.7), 0.5), (3, 8, (0.4, 0.6), 0.4), (8, 4, (0.9, 0.1), 0.4)]:
        assert mixed_miss(*setting) <= Fraction(str(setting[-1]))


def test_frequencies_that_did_not_change_cost_little() -> None:
    for M in (400, 1_000, 5_000):
        labels = np.arange(M) % 4
        found = shift_rank(np.arange(M), labels, (0.25,) * 4, 0.1)
        assert found.effective == pytest.approx(M)
        plain = marginal_rank(M, 0.1)
        assert plain <= found.rank <= plain + 6


def test_a_class_that_is_not_in_service_does_not_count() -> None:
    scores = np.concatenate([np.arange(200), 1_000 + np.arange(50)])
    labels = np.repeat([0, 1], [200, 50])
    assert shift_rank(scores, labels, (1.0, 0.0), 0.1).rank == marginal_rank(200, 0.1) == 181
    assert shift_rank(scores, labels, (1.0, 0.0), 0.1).effective == pytest.approx(200)


def test_the_effective_size_is_kish_s() -> None:
    labels, priors = np.repeat([0, 1, 2], [100, 50, 30]), (0.2, 0.3, 0.5)
    w = np.repeat([0.2 / 101, 0.3 / 51, 0.5 / 31], [100, 50, 30])
    assert shift_rank(np.arange(180), labels, priors, 0.2).effective == pytest.approx(w.sum() ** 2 / (w**2).sum())


@pytest.mark.parametrize("priors", [(1.0,), (0.5, -0.5, 1.0), (0.5, math.nan), (0.5, 0.4), (0.6, 0.6)])
def test_priors_that_are_none_are_refused(priors: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^priors: expected"):
        exact_priors(priors)
    with pytest.raises(ValueError, match=r"^priors: expected"):
        CalibrateConfig(guarantee="marginal", priors=priors)


def test_rounded_priors_are_taken_as_shares_of_their_sum() -> None:
    assert exact_priors((0.333333, 0.333333, 0.333333)) == (Fraction(1, 3),) * 3


@pytest.mark.parametrize(
    ("labels", "priors", "message"),
    [
        (np.zeros(99, int), (0.5, 0.5), r"labels: expected integers of shape \(100,\) like the scores, got int64"),
        (np.zeros(100), (0.5, 0.5), "labels: expected integers .* got float64"),
        (np.full(100, 2), (0.5, 0.5), "labels: expected classes 0 to 1 as priors has"),
        (np.zeros(100, int), (0.5, 0.5), r"calibration: expected images of class 1, whose prior is 0\.5, got none"),
        (
            np.repeat([0, 1], [97, 3]),
            (0.1, 0.9),
            r"calibration: expected images worth at least 19 for gamma 0\.05 .* got",
        ),
    ],
)
def test_calibration_inputs_that_cannot_carry_the_weights_are_refused(
    labels: np.ndarray, priors: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        shift_rank(np.arange(100), labels, priors, 0.05)


def test_a_calibration_says_what_it_was_weighted_for() -> None:
    q, k, n = outputs(1, 600)
    labels = np.arange(600) % 3
    usual: dict[str, Any] = {**LEVELS, "guarantee": "marginal", "profile": PROFILE, "labels": labels}
    found = calibrate(q, k, n, **usual, priors=(0.2, 0.2, 0.6))
    assert (found.priors, found.images) == ((0.2, 0.2, 0.6), 600)
    assert found.as_dict()["effective"] == found.effective
    statement = found.statement()
    for part in (
        "class frequencies in service are exactly the given priors and images within a class are unchanged",
        "weighted for priors 0.2, 0.2, 0.6",
        f"worth {found.effective:.1f} inputs",
        "a chance of at most 4.905%",
    ):
        assert part in statement, part
    with pytest.raises(
        ValueError, match="labels: expected the true class of each calibration input for priors, got none"
    ):
        calibrate(q, k, n, **(usual | {"labels": None}), priors=(0.2, 0.2, 0.6))
    for change in ({"guarantee": "training-conditional"}, {"guarantee": "certified"}, {"curve": "binned"}):
        with pytest.raises(ValueError, match="priors: expected a marginal guarantee of the offset or scaled curve"):
            calibrate(q, k, n, **(usual | change), priors=(0.2, 0.2, 0.6))


# --- Repeated calibrations -------------------------------------------------------------------------------------------

CALIBRATED, IN_SERVICE = (0.6, 0.3, 0.1), (0.1, 0.2, 0.7)
Rank = Callable[[np.ndarray, np.ndarray], int]


def classes_of(population: Population, seed: int = 0) -> np.ndarray:
    """A label for each input: the more the surrogate overstates, the likelier the class that is rare in calibration."""
    over = population.q - population.p
    rng = np.random.default_rng(seed)
    return np.digitize(over + 0.03 * rng.normal(size=over.size), np.quantile(over, [1 / 3, 2 / 3]))


def misses_under_shift(rank: Rank, repetitions: int = 1_500, M: int = 300) -> int:
    """Of one new input in service for each calibration, how many lie below the curve."""
    population = linear_population(41)
    labels = classes_of(population)
    rng = np.random.default_rng(2)
    family, cap, n = offset_family(), largest_p(1_000, 0.001), 1_000
    table = clopper_pearson(np.arange(n + 1), n, 0.001)
    stars = population.stars(family, cap)
    members = [np.flatnonzero(labels == y) for y in range(3)]
    # One row a new input, drawn class first; the last column is in service, the others calibrate.
    drawn = rng.choice(3, size=(repetitions, M), p=CALIBRATED)
    rows = np.empty(drawn.shape, dtype=int)
    for y in range(3):
        rows[drawn == y] = rng.choice(members[y], size=int(np.sum(drawn == y)))
    scores = family.scores(population.q[rows], table[rng.binomial(n, population.p[rows])], cap)
    served = rng.choice(3, size=repetitions, p=IN_SERVICE)
    misses = 0
    for one, classes, y in zip(scores, drawn, served.tolist(), strict=True):
        t = np.sort(one)[rank(one, classes) - 1]
        misses += int(stars[rng.choice(members[y])] > t)
    return misses


def weighted(scores: np.ndarray, labels: np.ndarray) -> int:
    return shift_rank(scores, labels, IN_SERVICE, 0.199).rank


def test_the_promise_holds_under_the_shift_it_was_made_for() -> None:
    misses = misses_under_shift(weighted)
    assert misses <= binom.isf(FALSE_ALARM, 1_500, 0.2)
    assert misses > 1_500 * 0.1  # the weights are not mere caution


@pytest.mark.parametrize(
    "rank",
    [
        lambda scores, labels: marginal_rank(scores.size, 0.199),
        lambda scores, labels: shift_rank(scores, labels, CALIBRATED, 0.199).rank,
        lambda scores, labels: shift_rank(scores, np.random.default_rng(0).permutation(labels), IN_SERVICE, 0.199).rank,
    ],
    ids=["weights ignored", "frequencies of calibration", "labels mixed up"],
)
def test_weights_that_are_not_those_of_service_are_detected(rank: Rank) -> None:
    assert misses_under_shift(rank) > binom.isf(FALSE_ALARM, 1_500, 0.2)


@pytest.mark.parametrize("beta", [0.5, 0.8])
def test_gamma_alone_is_too_small_a_promise_under_priors(beta: float) -> None:
    """Class 1 holds all hard inputs, just fewer of those in service than the promise allows, missed all or none."""
    priors, gamma, n, size, M = (0.3, 0.7), round(0.1 * (1 - beta), 12), 10**5, 20_000, 4_000
    labels = (np.arange(size) % 5 < 2).astype(int)  # 40% of the calibration inputs, 70% of those in service
    rng = np.random.default_rng(0)
    hard = (labels == 1) & (rng.random(size) < 0.085 / 0.7)
    p, q = np.where(hard, 0.9, 0.999), np.where(hard, 0.95, 0.6)
    weight = np.where(labels == 1, 0.7 / 0.4, 0.3 / 0.6)
    cap, missed = largest_p(n, beta), []
    stars = offset_family().scores(q, p, cap)
    for _ in range(40):
        rows = rng.integers(size, size=M)
        k, place = np.unique(rng.binomial(n, p[rows]), return_inverse=True)
        scores = offset_family().scores(q[rows], clopper_pearson(k, n, beta)[place], cap)
        t = np.sort(scores)[shift_rank(scores, labels[rows], priors, gamma).rank - 1]
        missed.append(np.mean(weight * (stars > t)))
    slack = 5 * np.std(missed, ddof=1) / math.sqrt(len(missed))
    assert np.mean(missed) <= float(promise(beta, gamma)) + slack
    assert np.mean(missed) > gamma + slack
