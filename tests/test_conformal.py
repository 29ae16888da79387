from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.conformal import (
    CalibrateConfig,
    Calibration,
    calibrate,
    marginal_rank,
    training_conditional_rank,
)
from rrise.calibration.curves import offset_family, scaled_family
from rrise.recipe import load_recipe

LEVELS = {"beta": 0.001, "gamma": 0.049}


def outputs(seed: int, size: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray, int]:
    """q and k of a surrogate that is a little overconfident."""
    rng = np.random.default_rng(seed)
    margin = np.abs(rng.normal(0, 4, size))
    p = 1 / (1 + np.exp(-0.9 * margin + rng.normal(0, 0.4, size)))
    return 1 / (1 + np.exp(-margin)), rng.binomial(n, p), n


PROFILE = outputs(100, 600)


def calibrated(curve: str = "scaled", size: int = 500, seed: int = 0, **levels: Any) -> Calibration:
    return calibrate(*outputs(seed, size), curve=curve, profile=PROFILE, **(LEVELS | levels))


# --- The curve -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarantee", ["marginal", "training-conditional"])
@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_the_curve_is_the_family_at_the_ranked_score(curve: str, guarantee: str) -> None:
    q, k, n = outputs(1, 700)
    found = calibrate(q, k, n, **LEVELS, curve=curve, guarantee=guarantee, eta=0.02, profile=PROFILE)
    profile_bounds = clopper_pearson(PROFILE[1], PROFILE[2], 0.001)
    family = offset_family() if curve == "offset" else scaled_family(PROFILE[0], profile_bounds)
    rank = marginal_rank(700, 0.049) if guarantee == "marginal" else training_conditional_rank(700, 0.049, 0.02)
    scores = family.scores(q, clopper_pearson(k, n, 0.001), largest_p(n, 0.001))
    assert (found.rank, found.t) == (rank, sorted(scores)[rank - 1])
    knots_q, knots_p = family.at(found.t, largest_p(n, 0.001))
    assert found.knots_q.tolist() == knots_q.tolist()
    assert found.knots_p.tolist() == knots_p.tolist()
    assert (found.curve, found.guarantee, found.images, found.n) == (curve, guarantee, 700, 1000)
    assert (found.beta, found.gamma, found.eta) == (0.001, 0.049, 0.02)


@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_at_least_rank_calibration_inputs_lie_on_the_right_side_as_served(curve: str) -> None:
    for seed in range(8):
        q, k, n = outputs(seed, 520)
        logits = np.stack([np.log(q / (1 - q)), np.zeros(q.size)], axis=1)
        q = _C.top(logits)[1]
        found = calibrate(q, k, n, **LEVELS, curve=curve, profile=PROFILE)
        _, _, p_lower, _ = _C.certify(logits, found.knots_q, found.knots_p, 0.25)
        assert np.sum(p_lower <= clopper_pearson(k, n, 0.001)) >= found.rank
        assert p_lower.max() <= largest_p(n, 0.001)


def test_n_draws_cannot_support_more_than_the_cap() -> None:
    q, n = np.full(500, 0.9999), 1000
    found = calibrate(q, np.full(500, n), n, **LEVELS, curve="offset")
    assert found.knots_p.max() == largest_p(n, 0.001)
    assert found.t == 0


def test_a_stricter_guarantee_lowers_the_curve() -> None:
    lax = calibrated(guarantee="marginal")
    strict = calibrated()
    stricter = calibrated(eta=0.0001)
    grid = np.linspace(0, 1, 999)
    for above, below in ((lax, strict), (strict, stricter)):
        assert below.rank > above.rank
        assert np.all(np.interp(grid, below.knots_q, below.knots_p) <= np.interp(grid, above.knots_q, above.knots_p))


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["offset", "scaled"]))
def test_the_order_of_the_inputs_does_not_matter(random: Any, curve: str) -> None:
    q, k, n = outputs(2, 500)
    order = list(range(500))
    random.shuffle(order)
    one = calibrate(q, k, n, **LEVELS, curve=curve, profile=PROFILE)
    other = calibrate(q[order], k[order], np.full(500, n), **LEVELS, curve=curve, profile=PROFILE)
    assert one.as_dict() == other.as_dict()


def test_abstentions_count_as_right_and_stay_among_the_inputs() -> None:
    q, k, n = outputs(3, 500)
    silent = np.arange(500) % 10 == 0
    found = calibrate(np.where(silent, np.nan, q), k, n, **LEVELS, curve="offset")
    scores = offset_family().scores(q, clopper_pearson(k, n, 0.001), largest_p(n, 0.001))
    assert found.images == 500
    assert found.t == sorted(scores[~silent])[found.rank - 1 - silent.sum()]
    assert found.t < calibrate(q, k, n, **LEVELS, curve="offset").t
    assert calibrate(np.full(500, np.nan), k, n, **LEVELS, curve="offset").t == 0


def test_a_hopeless_surrogate_gives_a_curve_that_certifies_nothing_and_says_so() -> None:
    for curve in ("offset", "scaled"):
        found = calibrate(np.ones(500), np.zeros(500, dtype=int), 1000, **LEVELS, curve=curve, profile=PROFILE)
        assert found.knots_p.max() <= 0.5
        assert "it certifies nothing" in found.statement()


# --- What it says ----------------------------------------------------------------------------------------------------


def test_a_training_conditional_statement_says_its_numbers() -> None:
    found = calibrated()
    statement = found.statement()
    assert "\n" not in statement
    for part in (
        "confidence 0.99 over the draw of the 500 calibration inputs",
        "at most 4.905% of new inputs",
        "beta = 0.001, gamma = 0.049, eta = 0.01",
        "training-conditional",
        "drawn independently",
        "smoothed classifier g",
        "n = 1000 noisy draws",
        f"rank {found.rank} of 500",
        f"t = {found.t:.6g}",
        f"largest bound is {found.knots_p.max():.6g}",
    ):
        assert part in statement, part


def test_a_marginal_statement_does_not_claim_more() -> None:
    statement = calibrated(guarantee="marginal").statement()
    assert "On average over calibration sets" in statement
    assert "a chance of at most 4.905%" in statement
    assert "eta" not in statement.replace("beta", "")
    assert "independently" not in statement


def test_a_calibration_is_plain_numbers_and_frozen() -> None:
    found = calibrated()
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain == found.as_dict()
    assert {type(value) for value in plain.values()} == {str, float, int, list}
    assert plain["knots_q"] == found.knots_q.tolist()
    assert Calibration(**plain | {"knots_q": found.knots_q, "knots_p": found.knots_p}).as_dict() == plain
    with pytest.raises(ValueError, match="read-only"):
        found.knots_p[0] = 1.0


# --- Refusals --------------------------------------------------------------------------------------------------------

Q, K, N = outputs(5, 500)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"q": Q[:, None]}, ValueError, r"calibration: expected q of shape \(M,\), M >= 1, got \(500, 1\)"),
        ({"q": Q[:0], "k": K[:0]}, ValueError, r"calibration: expected q of shape \(M,\), M >= 1, got \(0,\)"),
        ({"q": K}, TypeError, "calibration: expected q as floating-point probabilities, got int64"),
        ({"q": np.where(Q > 0.9, 7.5, Q)}, ValueError, r"calibration: expected q in \[0, 1\] or NaN, got 7.5"),
        ({"q": np.where(Q > 0.9, np.inf, Q)}, ValueError, r"calibration: expected q in \[0, 1\] or NaN, got inf"),
        ({"k": K[:-1]}, ValueError, r"calibration: expected k of shape \(500,\) like q"),
        ({"k": K + 1000}, ValueError, r"k: expected a count from 0 to n = 1000"),
        ({"k": K / 1000}, TypeError, r"k: expected integers, got float64"),
        ({"n": 1000.0}, TypeError, r"n: expected integers, got float64"),
        (
            {"n": np.full(499, 1000)},
            ValueError,
            r"calibration: expected k of shape \(500,\) like q and n of that shape",
        ),
        (
            {"n": np.where(np.arange(500) == 7, 2000, 1000)},
            ValueError,
            "n: expected one number of draws for all calibration inputs, got 1000 to 2000",
        ),
        (
            {"k": K // 200, "n": 5},
            ValueError,
            r"n: expected at least 10 draws at beta 0.001 .* got 5\. .*largest radius is 0\.\d+ sigma with 10 draws",
        ),
        ({"beta": 0.0}, ValueError, "beta: expected a number strictly between 0 and 1, got 0.0"),
        ({"gamma": 1.5}, ValueError, "gamma: expected a number strictly between 0 and 1, got 1.5"),
        ({"eta": -0.1}, ValueError, "eta: expected a number strictly between 0 and 1, got -0.1"),
        ({"beta": 0.5, "gamma": 0.5}, ValueError, r"gamma / \(1 - beta\): expected less than 1, got 0.5 / \(1 - 0.5\)"),
        ({"curve": "spline"}, ValueError, "curve: expected one of offset, scaled, binned, got 'spline'"),
        (
            {"guarantee": "pac"},
            ValueError,
            "guarantee: expected one of marginal, training-conditional, certified, got 'pac'",
        ),
        ({"profile": None}, ValueError, "profile: expected .* for the scaled curve, got none"),
        ({"profile": (Q[:10], K[:10], N)}, ValueError, "profile: expected at least 20 inputs"),
        ({"profile": (Q, K[:10], N)}, ValueError, r"profile: expected k of shape \(500,\) like q"),
        (
            {"q": Q[:90], "k": K[:90]},
            ValueError,
            "calibration: expected at least 92 images for gamma 0.049 at eta 0.01",
        ),
        (
            {"q": Q[:19], "k": K[:19], "guarantee": "marginal"},
            ValueError,
            r"calibration: expected at least 20 images for gamma 0.049, got 19\.",
        ),
    ],
)
def test_bad_input_is_refused_by_name(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    usable: dict[str, Any] = {"q": Q, "k": K, "n": N, "profile": PROFILE, **LEVELS}
    calibrate(**usable)
    with pytest.raises(error, match=message) as caught:
        calibrate(**(usable | arguments))
    assert "\n" not in str(caught.value)


def test_a_profile_may_mix_numbers_of_draws() -> None:
    q, k, n = PROFILE
    mixed = calibrate(*outputs(6, 500), **LEVELS, profile=(q, k, np.where(np.arange(q.size) % 2, n, 2 * n)))
    assert mixed.knots_p.max() <= largest_p(1000, 0.001)


# --- Config ----------------------------------------------------------------------------------------------------------


def test_the_config_defaults_are_those_of_a_deployed_bundle() -> None:
    config = CalibrateConfig()
    assert config.curves == ("offset", "scaled")
    assert config.guarantee == "training-conditional"
    assert (config.beta, config.gamma, config.eta) == (0.001, 0.049, 0.01)
    assert math.isclose(config.beta + config.gamma, 0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"curves": ()}, "curves: expected different curve families"),
        ({"curves": ("offset", "offset")}, "curves: expected different curve families"),
        ({"curves": ("offset", "spline")}, "curves: expected one of offset, scaled, binned, got 'spline'"),
        ({"guarantee": "conditional"}, "guarantee: expected one of marginal, training-conditional"),
        ({"beta": 1.0}, "beta: expected a number strictly between 0 and 1"),
        ({"gamma": 0.9995}, r"gamma / \(1 - beta\): expected less than 1"),
        ({"eta": 0.0}, "eta: expected a number strictly between 0 and 1"),
    ],
)
def test_a_bad_config_names_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrateConfig(**fields)


def test_the_configuration_needs_numpy_only() -> None:
    script = "import sys, rrise.calibration.conformal as c; c.CalibrateConfig(); print('scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    # And the check can fail: a bound does load scipy.
    script += "; from rrise.calibration.bounds import largest_p; largest_p(10, 0.1); print('scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["calibrate.guarantee=marginal", "calibrate.priors=[0.5, 0.4]"],
            "calibrate: priors: expected frequencies that sum",
        ),
        (["calibrate.priors=[0.5, 0.5]"], "calibrate: priors: expected a marginal guarantee"),
        (
            ["calibrate.curves=['binned']", "calibrate.guarantee=certified"],
            "calibrate: guarantee: expected marginal or",
        ),
        (["calibrate.alpha=2"], "calibrate: alpha: expected a number strictly between 0 and 1"),
    ],
)
def test_a_recipe_that_promises_too_much_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("digits", overrides)


def test_a_recipe_takes_the_new_promises() -> None:
    config = load_recipe(
        "digits", ["calibrate.alpha=0.05", "calibrate.guarantee=certified", "calibrate.cascade=0"]
    ).calibrate
    assert (config.alpha, config.guarantee) == (0.05, "certified")
    shifted = load_recipe("digits", ["calibrate.guarantee=marginal", "calibrate.priors=[0.25, 0.75]"]).calibrate
    assert shifted.priors == (0.25, 0.75)
