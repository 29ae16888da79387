"""Break-even against several Monte Carlo certifiers, by hand."""

import math
from dataclasses import replace

import pytest

from rrise.evaluation.costs import BreakEven, Costs, Sampled, break_evens


def test_every_monte_carlo_certifier_has_its_own_break_even():
    found = break_evens(
        {"B1": 1_100.0, "B2": 300.0, "B3": 1.0},
        offline=1_000_000,
        seconds_each={"B1": 2.2, "B2": 0.6},
        offline_seconds=2_999.0,
        single_pass_seconds=0.2,
    )
    assert found == (
        BreakEven("B1", 1_100.0, math.ceil(1_000_000 / 1_099), 2.2, 1_500),
        BreakEven("B2", 300.0, math.ceil(1_000_000 / 299), 0.6, 7_498),
        BreakEven("B3", 1.0, math.inf, None, None),
    )


@pytest.mark.parametrize("missing", ["seconds_each", "offline_seconds", "single_pass_seconds"])
def test_nothing_is_said_of_seconds_that_were_not_measured(missing):
    times = {"seconds_each": {"B1": 2.2}, "offline_seconds": 3_000.0, "single_pass_seconds": 0.2}
    (found,) = break_evens({"B1": 1_100.0}, offline=10, **(times | {missing: None}))
    assert found.seconds is None
    assert found.evaluations == 1


def test_offline_is_targets_profile_and_calibration():
    costs = Costs(targets=Sampled(8, 80), calibration=Sampled(2, 20), monte_carlo=10.0, break_even=12.0)
    assert costs.offline == 100
    assert replace(costs, profile=Sampled.of([3, 4])).offline == 107
    assert "profile" not in costs.words
    assert Sampled.of([3, 4]).words("pictures") == "2 pictures × 4 draws"
    free = replace(costs, targets=Sampled(), calibration=Sampled())
    assert free.words == "Paid once: nothing. Monte Carlo pays 10 evaluations for each image."
