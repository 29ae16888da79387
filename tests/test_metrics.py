"""Metrics on cases small enough to count by hand."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from rrise.calibration.bounds import clopper_pearson
from rrise.evaluation import metrics
from rrise.evaluation.coverage_bins import coverage_by_bin
from rrise.evaluation.metrics import Share
from rrise.evaluation.seeds import over_seeds
from rrise.runtime.certificates import Certificates


def certificates(label, radius, p_lower):
    rows = len(label)
    return Certificates(
        label=np.array(label, dtype=np.int64),
        radius=np.array(radius, dtype=np.float64),
        p_lower=np.array(p_lower, dtype=np.float64),
        q=np.full(rows, 0.9),
        evaluations=np.zeros(rows, dtype=np.int64),
    )


# right, right, wrong, abstained (though its guess would have been right)
FOUR = certificates([0, 1, 2, -1], [0.3, 0.1, 0.2, 0.0], [0.9, 0.6, 0.74, 0.5])
LABELS = np.array([0, 1, 0, 3])


def test_certified_accuracy_counts_right_labels_at_least_as_far_as_the_radius():
    share = metrics.certified_accuracy(FOUR, LABELS, [0.0, 0.1, 0.100001, 0.3, 0.300001])
    assert share.tolist() == [0.5, 0.5, 0.25, 0.25, 0.0]


def test_average_certified_radius_counts_wrong_and_withheld_as_zero():
    assert metrics.average_certified_radius(FOUR, LABELS) == pytest.approx((0.3 + 0.1) / 4)


def test_average_certified_radius_is_the_area_under_certified_accuracy():
    rng = np.random.default_rng(0)
    radius = rng.uniform(0.01, 1, 50)
    many = certificates(np.zeros(50), radius, np.full(50, 0.9))
    labels = rng.integers(0, 2, 50)
    grid = np.linspace(0, 1.1, 200_001)
    area = np.trapezoid(metrics.certified_accuracy(many, labels, grid), grid)
    assert metrics.average_certified_radius(many, labels) == pytest.approx(area, abs=1e-4)


def test_abstention_rate():
    assert metrics.abstention_rate(FOUR) == 0.25


def test_boundary_set_is_open_at_both_ends():
    edge = certificates([-1, 0, 0, 0], [0, 0.1, 0.2, 0.3], [0.5, np.nextafter(0.5, 1), np.nextafter(0.75, 0), 0.75])
    assert metrics.in_boundary(edge).tolist() == [False, True, True, False]


def test_boundary_mass_accuracy_and_radius():
    result = metrics.boundary(FOUR, LABELS)
    assert (result.mass, result.accuracy) == (Share(2, 4), Share(1, 2))
    assert result.mean_radius == pytest.approx(0.15)
    empty = metrics.boundary(FOUR[[0, 3]], LABELS[[0, 3]])
    assert empty.mass == Share(0, 2)
    assert math.isnan(empty.mean_radius)
    assert math.isnan(empty.accuracy.value)


def test_certified_radius_distribution_counts_all_inputs_beyond_the_radius():
    assert metrics.crd(FOUR, [0.0, 0.1, 0.25, 0.3]).tolist() == [0.75, 0.5, 0.25, 0.0]
    assert metrics.boundary_crd(FOUR, [0.0, 0.1, 0.2]).tolist() == [0.5, 0.25, 0.0]


def test_coverage_by_hand():
    # Reference shares of the guess: 0.95 (holds), 0.55 (refuted), 0.735 (below, within noise), 0.50 (holds, abstained).
    reference = np.array([[950, 50, 0, 0], [450, 550, 0, 0], [265, 0, 735, 0], [0, 500, 0, 500]])
    result = metrics.coverage(FOUR, np.array([0, 1, 2, 3]), reference)
    assert result.overall == Share(2, 4)
    assert result.certified == Share(1, 3)
    assert result.boundary == Share(0, 2)
    assert result.refuted == Share(1, 4)
    assert result.refuted_certified == Share(1, 3)


def test_an_abstained_bound_is_checked_for_the_class_it_speaks_of():
    one = certificates([-1], [0.0], [0.4])
    reference = np.array([[900, 100]])
    assert metrics.coverage(one, np.array([0]), reference).overall == Share(1, 1)
    assert metrics.coverage(one, np.array([1]), reference).overall == Share(0, 1)
    assert metrics.coverage(one, np.array([1]), reference).certified == Share(0, 0)


def test_an_input_without_an_answer_claims_nothing():
    none = certificates([-1], [0.0], [0.0])
    assert metrics.coverage(none, np.array([-1]), np.array([[900, 100]])).overall == Share(1, 1)


def test_refuted_means_that_the_reference_would_be_a_one_in_a_thousand_accident():
    n = 10_000
    bounds = np.linspace(0.51, 0.99, 49)
    for k in (5_200, 7_777, 9_500):
        many = certificates(np.zeros(49), np.full(49, 0.1), bounds)
        reference = np.tile([k, n - k], (49, 1))
        result = metrics.coverage(many, np.zeros(49, dtype=int), reference)
        assert result.refuted.count == (binom.cdf(k, n, bounds) < metrics.REFUTATION_LEVEL).sum()
        assert result.overall.count == (k / n >= bounds).sum()


def test_coverage_by_the_size_of_the_bound_by_hand():
    bounds = [0.0, 0.3, 0.5, 0.6, 0.75, 0.76, 0.97]
    many = certificates([-1, -1, -1, 0, 0, 0, 0], [0, 0, 0, 0.1, 0.2, 0.3, 0.4], bounds)
    # Shares of class 0: the first claims nothing; the second and the last fail, the last beyond noise.
    hits = [0, 298, 500, 700, 750, 900, 500]
    reference = np.array([[k, 1000 - k] for k in hits])
    found = coverage_by_bin(many, np.zeros(7, dtype=int), reference, edges=(0.0, 0.5, 0.75, 0.9, 1.0))
    assert [(b.low, b.high) for b in found] == [(0.0, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 1.0)]
    assert [b.holds for b in found] == [Share(1, 2), Share(2, 2), Share(1, 1), Share(0, 1)]
    assert [b.refuted.count for b in found] == [0, 0, 0, 1]
    # Exact intervals: of 2 of 2 the lower end is 0.025^(1/2), of 0 of 1 the upper one 1 - 0.025.
    assert found[1].interval == pytest.approx((0.025**0.5, 1.0), abs=1e-9)
    assert found[3].interval == pytest.approx((0.0, 0.975), abs=1e-9)


def test_coverage_bins_add_up_to_the_coverage():
    rng = np.random.default_rng(3)
    bounds = rng.uniform(0.501, 0.999, 300)
    many = certificates(np.zeros(300), np.full(300, 0.1), bounds)
    k = rng.binomial(500, np.clip(bounds + rng.normal(0.01, 0.03, 300), 0, 1))
    reference = np.stack([k, 500 - k], axis=1)
    whole = metrics.coverage(many, np.zeros(300, dtype=int), reference)
    found = coverage_by_bin(many, np.zeros(300, dtype=int), reference)
    assert sum(b.holds.count for b in found) == whole.overall.count
    assert sum(b.holds.total for b in found) == 300
    assert sum(b.refuted.count for b in found) == whole.refuted.count > 0
    assert found[1].holds == whole.boundary
    assert math.isnan(found[0].interval[0])


def test_conditional_error_bound():
    share = float(clopper_pearson(800, 1000, 0.01))
    assert 0.76 < share < 0.8
    assert metrics.conditional_error_bound(0.05, 800, 1000) == pytest.approx(0.05 / share)
    assert metrics.conditional_error_bound(0.25, 200, 1000) == 1.0
    assert metrics.conditional_error_bound(0.05, 0, 1000) == 1.0


def test_a_promise_among_certified_inputs_is_seldom_too_small():
    """An estimate of the share certified is above the truth about half the time; its lower bound seldom is."""
    counts = np.random.default_rng(0).binomial(400, 0.6, 2_000)
    exact = 0.05 / 0.6
    found = {k: metrics.conditional_error_bound(0.05, int(k), 400) for k in np.unique(counts)}
    assert np.sum([found[k] < exact for k in counts]) <= binom.isf(1e-6, counts.size, 0.01)
    assert np.mean(0.05 / (counts / 400) < exact) > 0.4


LOG = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.412\t1\t0:00:10
20\t8\t8\t0.093\t1\t0:00:10
40\t8\t-1\t0.0\t0\t0:00:10
60\t0\t6\t0.731\t0\t0:00:10
80\t5\t5\t0.258\t1\t0:00:10
"""
"""In the format of the logs that smoothing papers publish (locuslab/smoothing, code/certify.py)."""


def test_a_published_logs_numbers_come_out():
    rows = [line.split("\t") for line in LOG.splitlines()[1:]]
    labels = np.array([int(row[1]) for row in rows])
    radius = np.array([float(row[3]) for row in rows])
    found = certificates([int(row[2]) for row in rows], radius, np.where(radius > 0, 0.9, 0.4))
    # The published analysis: accuracy at r is the mean of correct & (radius >= r).
    correct = np.array([int(row[4]) for row in rows])
    for r, share in ((0.0, 3 / 5), (0.093, 3 / 5), (0.25, 2 / 5), (0.5, 0.0)):
        assert metrics.certified_accuracy(found, labels, r)[0] == share == np.mean(correct * (radius >= r))
    assert metrics.average_certified_radius(found, labels) == pytest.approx((0.412 + 0.093 + 0.258) / 5)
    assert metrics.abstention_rate(found) == 1 / 5


def test_a_lower_bound_on_true_certified_accuracy_by_hand():
    found = certificates([1] * 100, [0.3] * 60 + [0.1] * 40, [0.9] * 100)
    labels = np.array([1] * 90 + [0] * 10)
    lower = metrics.certified_accuracy_lower(found, labels, [0.0, 0.2, 0.4], error=0.05, confidence=0.95)
    exact = [float(beta.ppf(0.05, k, 100 - k + 1)) - 0.05 for k in (90, 60)]
    np.testing.assert_allclose(lower, [*exact, 0.0], atol=1e-9)
    with pytest.raises(ValueError, match="error: expected a probability"):
        metrics.certified_accuracy_lower(found, labels, 0.0, error=0.0)


def test_the_lower_bound_is_too_high_no_more_often_than_it_says():
    """A share m is certified and right, of which a share as large as promised is so by a wrong certificate."""
    size, error, confidence = 30, 0.1, 0.9
    bounds = []
    for k in range(size + 1):
        found = certificates(
            [1] * k + [-1] * (size - k), [0.2] * k + [0.0] * (size - k), [0.8] * k + [0.1] * (size - k)
        )
        lower = metrics.certified_accuracy_lower(found, np.ones(size, int), 0.1, error=error, confidence=confidence)
        bounds.append(lower[0])
    levels = []
    for m in np.linspace(0.12, 0.99, 30):
        levels.append(binom.pmf(np.arange(size + 1), size, m)[np.array(bounds) > m - error].sum())
    assert max(levels) <= 1 - confidence
    assert max(levels) > (1 - confidence) / 3


def test_numbers_over_seeds():
    found = over_seeds([77.5, 77.9, 77.4])
    assert (found.mean, found.seeds) == (pytest.approx(77.6), 3)
    assert found.std == pytest.approx(math.sqrt((0.1**2 + 0.3**2 + 0.2**2) / 2))
    assert (found.text(), found.text(2)) == ("77.6 ± 0.3", "77.60 ± 0.26")
    assert over_seeds([12_345.0]).text(0) == "12,345"
    assert over_seeds([math.nan, 1.0, 3.0]).text() == "2.0 ± 1.4"
    assert over_seeds([None, None]).text() == "–"
    with pytest.raises(ValueError, match="values: expected one number a seed"):
        over_seeds([[1.0, 2.0]])


def test_break_even():
    assert metrics.break_even(3.0, 0.6, 0.1) == 6  # seconds
    assert metrics.break_even(1_400_000, 1_100) == math.ceil(1_400_000 / 1_099) == 1_274
    assert metrics.break_even(1_099, 1_100) == 1
    assert metrics.break_even(1_100, 1_100) == 2
    assert metrics.break_even(10, 1.0) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.average_certified_radius(FOUR, [0, 1]), "labels: expected 4 classes"),
        (lambda: metrics.average_certified_radius(FOUR, [0, 1, 2, -1]), "labels: expected classes >= 0, got -1"),
        (lambda: metrics.certified_accuracy(FOUR, LABELS, [-0.1]), "radii: expected values >= 0"),
        (lambda: metrics.certified_accuracy(FOUR, LABELS, [math.nan]), "radii: expected values >= 0"),
        (lambda: metrics.average_certified_radius(FOUR[:0], []), "labels: expected|certificates: expected"),
        (lambda: metrics.coverage(FOUR, [0, 1, 2, 3], np.ones((3, 4), int)), "reference counts: expected integers"),
        (
            lambda: metrics.coverage(FOUR, [0, 1, 2, 3], np.zeros((4, 4), int)),
            "reference counts: expected at least one",
        ),
        (lambda: metrics.coverage(FOUR, [0, 1, 2, 3], np.ones((4, 3), int)), "predicted: expected classes in -1..2"),
        (
            lambda: metrics.coverage(FOUR, [0, 1, 1, 3], np.ones((4, 4), int)),
            "predicted: expected the certified labels",
        ),
        (lambda: metrics.coverage(FOUR, [0, 1, 2], np.ones((4, 4), int)), "predicted: expected 4 classes"),
        (lambda: coverage_by_bin(FOUR, [0, 1, 2], np.ones((4, 4), int)), "predicted: expected 4 classes"),
        (lambda: coverage_by_bin(FOUR, [0, 1, 2, 3], np.ones((4, 4), int), (0.5, 0.5)), "edges: expected two or more"),
        (lambda: coverage_by_bin(FOUR, [0, 1, 2, 3], np.ones((4, 4), int), (0.5, 1.1)), "edges: expected two or more"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
