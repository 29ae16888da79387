"""Monte Carlo certifiers: published numbers, and their level by exact enumeration rather than by sampling."""

import dataclasses
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from rrise.evaluation.baselines import check_streams, cohen_certify, cohen_predict, cohen_select
from rrise.targets.manifest import Manifest


def two_classes(k, n):
    k = np.atleast_1d(k)
    return np.stack([k, n - k], axis=1)


def compositions(n, classes):
    return [c for c in product(range(n + 1), repeat=classes) if sum(c) == n]


def probability(counts, weights, total):
    """Multinomial probability of the counts when class j has probability weights[j] / total, exactly."""
    ways = math.factorial(sum(counts))
    for count in counts:
        ways //= math.factorial(count)
    return Fraction(ways * math.prod(w**c for w, c in zip(weights, counts, strict=True)), total ** sum(counts))


@pytest.mark.parametrize(
    ("alpha", "n", "smallest"),
    [
        (0.001, 100, 66),
        (0.001, 1_000, 550),
        (0.001, 10_000, 5_156),
        (0.001, 100_000, 50_490),
        (0.25, 100, 54),
        (0.25, 1_000, 512),
        (0.25, 10_000, 5_035),
        (0.25, 100_000, 50_108),
        (0.05, 100, 59),
        (0.05, 1_000, 527),
        (0.05, 10_000, 5_083),
        (0.05, 100_000, 50_261),
    ],
)
def test_certifies_from_the_smallest_count_on(alpha, n, smallest):
    k = np.arange(smallest - 3, smallest + 3)
    certificates = cohen_certify(two_classes(np.full(6, 10), 10), two_classes(k, n), alpha=alpha, sigma=0.25)
    assert certificates.label.tolist() == [-1, -1, -1, 0, 0, 0]
    assert np.array_equal(certificates.radius > 0, k >= smallest)


@pytest.mark.parametrize(
    ("alpha", "n", "smallest"),
    [
        (0.001, 100, 67),
        (0.001, 1_000, 553),
        (0.001, 10_000, 5_166),
        (0.05, 100, 61),
        (0.05, 1_000, 532),
        (0.05, 10_000, 5_099),
    ],
)
def test_predicts_from_the_smallest_winning_count_on(alpha, n, smallest):
    k = np.arange(n // 2, n + 1)
    assert np.array_equal(cohen_predict(two_classes(k, n), alpha=alpha) == 0, k >= smallest)


def test_prediction_agrees_with_the_exact_binomial_test():
    for first, second in product(range(1, 16), range(16)):
        if second > first:
            continue
        m = first + second
        tail = Fraction(sum(math.comb(m, j) for j in range(first, m + 1)), 2**m)
        p_value = min(Fraction(1), 2 * tail)
        for alpha in (0.01, 0.05, 0.3, 0.999):
            expected = 1 if p_value <= alpha else -1
            assert cohen_predict([[second, first, 0]], alpha=alpha).tolist() == [expected], (first, second, alpha)


def test_prediction_abstains_on_a_tie():
    assert cohen_predict([[50, 50], [7, 0]], alpha=0.999).tolist() == [-1, 0]


@pytest.mark.parametrize(("classes", "n0", "n", "total"), [(2, 5, 13, 32), (3, 4, 10, 12)])
def test_level_of_certify_by_enumeration(classes, n0, n, total):
    alpha = 0.05
    selections, estimations = compositions(n0, classes), compositions(n, classes)
    pairs = list(product(selections, estimations))
    certificates = cohen_certify([pair[0] for pair in pairs], [pair[1] for pair in pairs], alpha=alpha, sigma=1.0)
    worst = Fraction(0)
    for weights in compositions(total, classes):
        first = {c: probability(c, weights, total) for c in selections}
        second = {c: probability(c, weights, total) for c in estimations}
        wrong = sum(
            first[pair[0]] * second[pair[1]]
            for pair, label, p_lower in zip(pairs, certificates.label, certificates.p_lower, strict=True)
            if label >= 0 and p_lower > weights[label] / total
        )
        worst = max(worst, wrong)
    assert worst <= Fraction(alpha)
    assert worst > Fraction(alpha) / 3  # the bound is met nearly with equality somewhere: the test has teeth


def test_picking_the_class_on_the_certifying_draws_breaks_the_level():
    alpha, n = 0.05, 13
    counts = compositions(n, 2)
    certificates = cohen_certify(counts, counts, alpha=alpha, sigma=1.0)
    wrong = sum(
        probability(c, (1, 1), 2) for c, p_lower in zip(counts, certificates.p_lower, strict=True) if p_lower > 0.5
    )
    assert wrong > alpha


@pytest.mark.parametrize(("classes", "n", "total"), [(2, 14, 16), (3, 10, 9)])
def test_level_of_predict_by_enumeration(classes, n, total):
    alpha = 0.2
    counts = compositions(n, classes)
    answers = cohen_predict(counts, alpha=alpha)
    for weights in compositions(total, classes):
        wrong = sum(
            probability(c, weights, total)
            for c, answer in zip(counts, answers, strict=True)
            if answer >= 0 and weights[answer] < max(weights)
        )
        assert wrong <= Fraction(alpha), weights


def test_linear_classifier_has_a_radius_known_without_monte_carlo():
    """f(x) = 1[w·x + b > 0]: the true radius is the distance to the plane, the probability Phi(distance / sigma)."""
    sigma, alpha, n, images = 0.25, 0.01, 20_000, 2_000
    rng = np.random.default_rng(0)
    distance = rng.uniform(0.0, 0.6, images)
    p = ndtr(distance / sigma)
    selection, estimation = (two_classes(rng.binomial(draws, p), draws) for draws in (100, n))
    certificates = cohen_certify(selection, estimation, alpha=alpha, sigma=sigma)
    wrong = ((certificates.radius > distance) | (certificates.label == 1)).sum()
    assert wrong <= 44  # 20 of 2,000 are allowed at level 0.01; more than 44 has probability below 1e-6
    inside = (distance > 0.1) & (distance < 0.5)
    assert np.all(certificates.radius[inside] > 0.85 * distance[inside])


def test_certificate_says_what_was_spent_and_keeps_the_bound_of_an_abstention():
    certificates = cohen_certify([[9, 1], [3, 7], [5, 5]], [[90, 10], [55, 45], [99, 1]], alpha=0.001, sigma=0.5)
    assert certificates.label.tolist() == [0, -1, 0]  # ties go to the first class
    assert certificates.evaluations.tolist() == [110, 110, 110]
    assert certificates.q.tolist() == [0.9, 0.45, 0.99]
    assert 0.2 < certificates.p_lower[1] < 0.45
    assert certificates.radius[1] == 0
    assert cohen_select([[9, 1], [3, 7], [5, 5]]).tolist() == [0, 1, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(0, 60)] * 3).filter(sum), min_size=1, max_size=8),
    st.sampled_from([0.05, 0.25]),
    st.floats(0.01, 2.0),
)
def test_radius_is_positive_exactly_where_a_label_is_given(rows, alpha, sigma):
    estimation = np.array(rows) + 5
    certificates = cohen_certify(rows, estimation, alpha=alpha, sigma=sigma)
    assert np.array_equal(certificates.radius > 0, certificates.label >= 0)
    assert np.array_equal(certificates.p_lower > 0.5, certificates.label >= 0)
    assert np.all(certificates.p_lower <= certificates.q)


def test_too_few_draws_name_what_is_needed():
    with pytest.raises(ValueError, match=r"at least 10 draws at alpha=0.001, got 9, .* radius is 0"):
        cohen_certify([[1, 0]], [[9, 0]], alpha=0.001, sigma=0.5)
    assert cohen_certify([[1, 0]], [[10, 0]], alpha=0.001, sigma=0.5).label.tolist() == [0]
    with pytest.raises(ValueError, match=r"at least 2 draws at alpha=0\.5"):
        cohen_certify([[1, 0]], [[1, 0]], alpha=0.5, sigma=0.5)


@pytest.mark.parametrize(
    ("selection", "estimation", "alpha", "sigma", "error", "message"),
    [
        ([[1, 2]], [[20, 2, 3]], 0.05, 1.0, ValueError, r"estimation counts: expected shape \(1, 2\)"),
        ([[1, 2]], [[20, 2], [20, 2]], 0.05, 1.0, ValueError, r"estimation counts: expected shape \(1, 2\)"),
        ([[0.5, 0.5]], [[20, 2]], 0.05, 1.0, TypeError, "selection counts: expected integers, got float64"),
        ([[1, -1]], [[20, 2]], 0.05, 1.0, ValueError, "selection counts: expected counts >= 0, got -1"),
        ([[0, 0]], [[20, 2]], 0.05, 1.0, ValueError, "selection counts: expected at least one draw"),
        ([[1]], [[20]], 0.05, 1.0, ValueError, r"selection counts: expected shape \(inputs, classes >= 2\)"),
        ([[1, 2]], [[20, 2]], 0.0, 1.0, ValueError, "alpha: expected"),
        ([[1, 2]], [[20, 2]], math.nan, 1.0, ValueError, "alpha: expected"),
        ([[1, 2]], [[20, 2]], 0.05, 0.0, ValueError, "sigma: expected"),
    ],
)
def test_bad_input_is_refused_by_name(selection, estimation, alpha, sigma, error, message):
    with pytest.raises(error, match=message):
        cohen_certify(selection, estimation, alpha=alpha, sigma=sigma)


@dataclasses.dataclass(frozen=True)
class Origin:
    sigma: float = 0.25
    sampler: str = "grid"
    num_classes: int = 10
    classifier_sha256: str = "ab"
    seed: int = 0
    stream: int = 1


def test_counts_of_the_same_noise_are_refused():
    check_streams(Origin(), Origin(stream=2), Origin(stream=3))
    check_streams(Origin(), Origin(seed=7))
    with pytest.raises(ValueError, match=r"estimation counts: .* seed=0 stream=1 as in the selection counts"):
        check_streams(Origin(), Origin())
    with pytest.raises(ValueError, match=r"reference counts: .* seed=0 stream=2 as in the estimation counts"):
        check_streams(Origin(), Origin(stream=2), Origin(stream=2))


@pytest.mark.parametrize(
    "change", [{"sigma": 0.5}, {"sampler": "gaussian"}, {"num_classes": 9}, {"classifier_sha256": "cd"}]
)
def test_counts_of_another_smoothed_classifier_are_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"estimation counts: expected {name}=.* got {value}"):
        check_streams(Origin(), Origin(stream=2, **change))


def test_a_manifest_of_the_store_is_an_origin():
    assert {field.name for field in dataclasses.fields(Manifest)} >= {
        field.name for field in dataclasses.fields(Origin)
    }
