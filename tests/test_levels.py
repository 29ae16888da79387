from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_conformal import PROFILE, outputs

from rrise import _C
from rrise.calibration.conformal import CalibrateConfig, calibrate
from rrise.calibration.levels import SHARES, choose_levels

USUAL: dict[str, Any] = {
    "alpha": 0.05,
    "images": 1_000,
    "draws": 1_000,
    "curve": "scaled",
    "guarantee": "training-conditional",
    "eta": 0.01,
}


@pytest.mark.parametrize("alpha", [0.25, 0.05, 0.03])
@pytest.mark.parametrize("curve", ["offset", "scaled", "binned"])
def test_beta_and_gamma_sum_to_alpha_exactly(alpha: float, curve: str) -> None:
    beta, gamma = choose_levels(*PROFILE, **(USUAL | {"alpha": alpha, "curve": curve, "images": 2_000}))
    assert Fraction(str(beta)) + Fraction(str(gamma)) == Fraction(str(alpha))
    assert Fraction(str(beta)) / Fraction(str(alpha)) in {Fraction(share) for share in SHARES}


@pytest.mark.parametrize("guarantee", [pytest.param("training-conditional", marks=pytest.mark.slow), "certified"])
def test_the_choice_does_not_depend_on_the_order_of_the_profile(guarantee: str) -> None:
    q, k, n = PROFILE
    q = np.where(np.arange(q.size) % 50 == 0, np.nan, np.round(q, 2))  # ties, and inputs without an answer
    order = np.random.default_rng(0).permutation(q.size)
    one = choose_levels(q, k, n, **(USUAL | {"guarantee": guarantee}))
    assert choose_levels(q[order], k[order], np.full(q.size, n), **(USUAL | {"guarantee": guarantee})) == one


def test_the_choice_certifies_more_than_the_splits_at_the_ends() -> None:
    profile = outputs(100, 2_000)
    chosen = choose_levels(*profile, **USUAL)
    gains = []
    for seed in range(2):
        q, k, n = outputs(seed, 1_000)
        radii = []
        for beta, gamma in (chosen, (0.0001, 0.0499), (0.045, 0.005)):
            found = calibrate(q, k, n, beta=beta, gamma=gamma, profile=profile)
            radii.append(_C.radius(np.interp(q, found.knots_q, found.knots_p), 1.0).mean())
        gains.append([radii[0] / radii[1], radii[0] / radii[2]])
    assert np.all(np.mean(gains, axis=0) > 1.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, "alpha: expected a number strictly between 0 and 1, got 1.0"),
        ({"images": 80}, r"alpha: expected at least 90 images and \d+ draws of each for 0\.05, got 80 and 1000"),
        ({"draws": 2}, r"alpha: expected at least \d+ images and 5 draws of each for 0\.05, got 1000 and 2"),
        (
            {"alpha": 0.01, "images": 500, "guarantee": "certified"},
            r"alpha: expected a split of 0\.01 that certifies some",
        ),
    ],
)
def test_an_alpha_that_cannot_be_split_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_levels(*PROFILE, **(USUAL | change))
    with pytest.raises(ValueError, match="profile: expected at least 40 inputs to choose beta by, got 30"):
        choose_levels(PROFILE[0][:30], PROFILE[1][:30], PROFILE[2], **USUAL)


def test_the_configuration_takes_alpha_in_place_of_both() -> None:
    assert CalibrateConfig().alpha == 0
    assert CalibrateConfig(alpha=0.05).alpha == 0.05
    with pytest.raises(ValueError, match="alpha: expected a number strictly between 0 and 1, got 1"):
        CalibrateConfig(alpha=1.5)
