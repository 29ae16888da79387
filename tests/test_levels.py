from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from test_conformal import PROFILE, outputs

from rrise import _C
from rrise.calibration import levels
from rrise.calibration.conformal import CalibrateConfig, calibrate
from rrise.calibration.levels import BETAS, choose_levels, spent
from rrise.promise import promise

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
def test_beta_and_gamma_promise_alpha_exactly(alpha: float, curve: str) -> None:
    beta, gamma = choose_levels(*PROFILE, **(USUAL | {"alpha": alpha, "curve": curve, "images": 2_000}))
    assert promise(beta, gamma) == Fraction(str(alpha))
    assert beta in BETAS
    settings = USUAL | {"alpha": alpha, "curve": "offset", "images": 2_000, "shared_draws": True}
    beta, gamma = choose_levels(*PROFILE, **settings)
    assert promise(beta, gamma, shared_draws=True) == Fraction(str(alpha))
    assert Fraction(str(beta)) / Fraction(str(alpha)) in {Fraction(str(share)) for share in BETAS}


@given(st.floats(1e-6, 0.999), st.sampled_from(BETAS))
def test_alpha_is_spent_as_far_as_decimals_go_and_no_further(alpha: float, share: float) -> None:
    for shared_draws in (False, True):
        beta, gamma = spent(alpha, share, shared_draws=shared_draws)
        found = promise(beta, gamma, shared_draws=shared_draws)
        assert Fraction(str(alpha)) * (1 - Fraction(1, 10**13)) <= found <= Fraction(str(alpha))


@pytest.mark.parametrize("guarantee", [pytest.param("training-conditional", marks=pytest.mark.slow), "certified"])
def test_the_choice_does_not_depend_on_the_order_of_the_profile(guarantee: str) -> None:
    q, k, n = PROFILE
    q = np.where(np.arange(q.size) % 50 == 0, np.nan, np.round(q, 2))  # ties, and inputs without an answer
    order = np.random.default_rng(0).permutation(q.size)
    one = choose_levels(q, k, n, **(USUAL | {"guarantee": guarantee}))
    assert choose_levels(q[order], k[order], np.full(q.size, n), **(USUAL | {"guarantee": guarantee})) == one


def test_of_nearly_equal_radii_the_smallest_beta_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    radius_of = {0.1: 0.980, 0.2: 0.991, 0.3: 0.995, 0.5: 1.0, 0.7: 0.999}
    gammas = {spent(0.05, beta)[1]: radius for beta, radius in radius_of.items()}
    monkeypatch.setattr(levels._Plan, "radius", lambda plan, *halves: gammas.get(plan.gamma, 0.5))
    assert choose_levels(*PROFILE, **USUAL) == (0.2, 0.04)


def test_the_choice_certifies_more_than_the_smallest_and_a_huge_beta() -> None:
    profile = outputs(100, 2_000)
    chosen = choose_levels(*profile, **USUAL)
    gains = []
    for seed in range(2):
        q, k, n = outputs(seed, 1_000)
        radii = []
        for beta, gamma in (chosen, (0.001, 0.04995), (0.9, 0.005)):
            found = calibrate(q, k, n, beta=beta, gamma=gamma, profile=profile)
            radii.append(_C.radius(np.interp(q, found.knots_q, found.knots_p), 1.0).mean())
        gains.append([radii[0] / radii[1], radii[0] / radii[2]])
    assert np.all(np.mean(gains, axis=0) > 1.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, "alpha: expected a number strictly between 0 and 1, got 1.0"),
        ({"images": 80}, r"alpha: expected at least 90 images and \d+ draws of each for 0\.05, got 80 and 1000"),
        (
            {"draws": 2, "shared_draws": True},
            r"alpha: expected at least \d+ images and 5 draws of each for 0\.05, got 1000 and 2",
        ),
        (
            {"alpha": 0.01, "images": 500, "guarantee": "certified"},
            r"alpha: expected a beta for 0\.01 that certifies some",
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


# --- Other class frequencies in service ------------------------------------------------------------------------------

SHIFTED: dict[str, Any] = USUAL | {"alpha": 0.2, "images": 2_000, "guarantee": "marginal"}
CALIBRATED, IN_SERVICE = (0.9, 0.1), (0.1, 0.9)


def two_classes(seed: int, size: int, second: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, k, class and p: class 0, capped by its draws, wants a large beta; class 1, misjudged, a large gamma."""
    rng = np.random.default_rng(seed)
    label = (rng.random(size) < second).astype(int)
    z = np.where(label == 0, 4.0, 1.2) + np.where(label == 0, 0.3, 0.5) * rng.normal(size=size)
    says = z + np.where(label == 0, 0.02, 0.4) * rng.normal(size=size)
    p = ndtr(z * np.sign(says))
    return ndtr(np.abs(says)), rng.binomial(1_000, p), label, p


def shifted(label: np.ndarray, priors: tuple[float, float] = IN_SERVICE, **changes: Any) -> dict[str, Any]:
    return SHIFTED | {"labels": label, "priors": priors, "classes": [1_800, 200]} | changes


@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_a_choice_for_the_priors_certifies_more_of_what_is_served(curve: str) -> None:
    q, k, label, _ = two_classes(1, 2_000)
    blind = choose_levels(q, k, 1_000, **SHIFTED | {"curve": curve})
    chosen = choose_levels(q, k, 1_000, **shifted(label, curve=curve))
    assert chosen[1] > blind[1]
    served, _, _, truth = two_classes(99, 20_000, second=IN_SERVICE[1])
    radii, misses = [], []
    for beta, gamma in (chosen, blind):
        curves = []
        for seed in range(11, 15):
            other, agreeing, classes, _ = two_classes(seed, 2_000)
            usual: dict[str, Any] = {"beta": beta, "gamma": gamma, "curve": curve, "guarantee": "marginal"}
            found = calibrate(other, agreeing, 1_000, **usual, profile=(q, k, 1_000), labels=classes, priors=IN_SERVICE)
            curves.append(np.interp(served, found.knots_q, found.knots_p))
        radii.append(np.mean([_C.radius(bound, 1.0) for bound in curves]))
        misses.append(np.mean([truth < bound for bound in curves]))
    assert radii[0] > 1.04 * radii[1]
    assert max(misses) <= 0.2  # either split is as valid as the other


@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_priors_that_change_nothing_leave_the_choice_as_it_is(curve: str) -> None:
    q, k, label, _ = two_classes(1, 2_000)
    assert choose_levels(q, k, 1_000, **shifted(label, CALIBRATED, curve=curve)) == choose_levels(
        q, k, 1_000, **SHIFTED | {"curve": curve}
    )


def test_the_choice_for_priors_does_not_depend_on_the_order_of_the_profile() -> None:
    q, k, label, _ = two_classes(3, 300)
    q = np.where(np.arange(q.size) % 50 == 0, np.nan, np.round(q, 2))
    one = choose_levels(q, k, 1_000, **shifted(label))
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(q.size)
        assert choose_levels(q[order], k[order], 1_000, **shifted(label[order])) == one


def test_priors_that_the_profile_or_the_calibration_cannot_speak_of_are_refused() -> None:
    q, k, label, _ = two_classes(0, 400)
    rare = np.where(np.arange(q.size) == 7, 1, 0)
    for labels, changes, message in (
        (None, {}, "labels: expected the true class of each of 400 profile inputs, 0 to 1, for priors, got"),
        (label + 1, {}, "labels: expected the true class of each of 400 profile inputs, 0 to 1, for priors, got"),
        (rare, {}, r"profile: expected at least 2 inputs of class 1, whose prior is 0\.9, to choose beta by, got 1"),
        (label, {"classes": [2_000, 0]}, r"calibration: expected images of class 1, whose prior is 0\.9, got none"),
        (label, {"classes": [1_998, 2]}, r"calibration: expected images worth at least \d+ for gamma 0\.1998 under"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_levels(q, k, 1_000, **shifted(labels, **changes))
    choose_levels(q, k, 1_000, **shifted(rare, (1.0, 0.0)))  # a class that is not in service need not be there
