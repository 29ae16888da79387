"""The promise as a number: exact, the same for all who speak of it, and never printed smaller than it is."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_conformal import outputs

from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.conformal import calibrate
from rrise.calibration.guarantees import smallest_share
from rrise.calibration.statements import among_certified
from rrise.promise import complement, decimal, percent, promise, rounded_down, rounded_up
from rrise.runtime.calibration_record import CalibrationRecord

SHARES = st.one_of(
    st.fractions(Fraction(1, 10**7), Fraction(999_999, 1_000_000)),
    st.floats(1e-7, 0.9999).map(decimal),
    st.integers(1, 9_999).map(lambda tenth: Fraction(tenth, 10_000)),
)


def test_the_promise_in_numbers() -> None:
    assert promise(0.01, 0.04) == Fraction(4, 99)
    assert promise(0.2, 0.1) == Fraction(1, 8)
    assert promise(0.5, 0.05) == Fraction(1, 10)
    assert promise(0.5, 0.05, shared_draws=True) == Fraction(55, 100)
    assert promise(0.1, 0.2) == Fraction(2, 9)  # as decimals: no float division comes near


@given(st.floats(1e-6, 0.99), st.floats(1e-6, 0.99))
def test_it_is_sharper_than_the_sum_wherever_it_is_a_probability(beta: float, gamma: float) -> None:
    total = promise(beta, gamma, shared_draws=True)
    assert (promise(beta, gamma) < 1) == (total < 1)
    if total < 1:
        assert promise(beta, gamma) < total


@given(SHARES)
def test_every_rounding_is_to_the_safe_side_and_small(share: Fraction) -> None:
    number = rounded_up(share)
    assert share <= decimal(number) <= share * (1 + Fraction(1, 10**15))
    assert share * (1 - Fraction(1, 10**14)) <= decimal(rounded_down(share)) <= share
    for said in (share, number):
        shown = Fraction(percent(said).removesuffix("%")) / 100
        assert share <= shown <= share * (1 + Fraction(1, 999))
        assert Fraction(complement(said).removesuffix("%")) / 100 == 1 - shown


@pytest.mark.parametrize(
    ("share", "shown", "left"),
    [
        (0.05, "5%", "95%"),
        (Fraction(4, 99), "4.041%", "95.959%"),
        (0.1, "10%", "90%"),
        (Fraction(1, 3), "33.34%", "66.66%"),
        (0.0500000001, "5.001%", "94.999%"),
        (1e-5, "0.001%", "99.999%"),
        (0.99999, "100%", "0%"),
        (1.0, "100%", "0%"),
    ],
)
def test_percentages(share: float | Fraction, shown: str, left: str) -> None:
    assert (percent(share), complement(share)) == (shown, left)


@given(st.sampled_from([0.001, 0.01, 0.3, 0.5, 0.8]), st.integers(20, 150), st.booleans())
def test_calibration_bundle_and_statement_say_the_same(beta: float, thousandths: int, shared: bool) -> None:
    gamma = thousandths / 1000
    found = calibrate(
        *outputs(0, 400), beta=beta, gamma=gamma, curve="offset", guarantee="marginal", shared_draws=shared
    )
    record = CalibrationRecord("marginal", beta, gamma, 0.01, 1000, 400, found.rank, found.t, shared_draws=shared)
    exact = promise(beta, gamma, shared_draws=shared)
    assert found.error == record.error == rounded_up(exact)
    assert f"a chance of at most {percent(exact)} that" in found.statement()
    assert f"the promise {'beta + gamma' if shared else 'gamma / (1 - beta)'}, from" in found.statement()


def test_shared_draws_promise_nothing_inside_groups_that_draws_decide() -> None:
    q, k, n = outputs(0, 400)
    profile = outputs(1, 400)
    for change in ({"curve": "binned"}, {"guarantee": "certified"}):
        with pytest.raises(ValueError, match="passes: expected a marginal or training-conditional guarantee"):
            calibrate(q, k, n, beta=0.01, gamma=0.09, profile=profile, shared_draws=True, **change)


# --- Among certified inputs ------------------------------------------------------------------------------------------


@given(st.integers(1, 3_000), st.floats(0, 1), st.sampled_from([0.01, 1e-4, 0.5]))
def test_a_share_s_lower_bound_is_clopper_and_pearson_s_to_a_hundredth_of_a_percent(
    trials: int, part: float, doubt: float
) -> None:
    successes = round(part * trials)
    found = smallest_share(successes, trials, doubt)
    bound = float(clopper_pearson(successes, trials, doubt))
    assert bound - 1.0001e-4 < float(found) <= bound + 1e-12


def test_the_share_certified_is_bounded_whichever_curve_was_chosen() -> None:
    """The lowest of many nested curves relative to its truth is the worst choice: its bound still holds."""
    import numpy as np

    rng, M, truth = np.random.default_rng(0), 200, []
    plain, uniform = 0, 0
    for _ in range(400):
        certified_from = np.sort(rng.random(M))  # curve t certifies an input whose number is at least t: a share 1 - t
        counts = M - np.arange(M)
        shares = 1 - certified_from
        own = [smallest_share_cached(int(c), M, False) for c in counts]
        all_at_once = [smallest_share_cached(int(c), M, True) for c in counts]
        plain += bool(np.any(np.array(own) > shares))
        uniform += bool(np.any(np.array(all_at_once) > shares))
        truth.append(shares.min())
    assert uniform <= 400 * 0.01 + 5 * 2
    assert plain > 400 * 0.03  # a bound for one curve alone does not survive the choice


_CACHE: dict[tuple[int, int, bool], float] = {}


def smallest_share_cached(successes: int, trials: int, choice: bool) -> float:
    key = successes, trials, choice
    if key not in _CACHE:
        _CACHE[key] = float(smallest_share(successes, trials, Fraction(1, 100) / (trials if choice else 1)))
    return _CACHE[key]


def test_among_certified_inputs_in_words() -> None:
    said = among_certified(0.05, 400, 500)
    share = smallest_share(400, 500, Fraction(1, 100) / 500)
    assert (
        f"at most {percent(Fraction(5, 100) / share)} can be wrong, 5% divided by the 71.9% of inputs or more" in said
    )
    assert "with confidence 0.99 (400 of the 500 calibration inputs)" in said
    assert "promises nothing: 5% may be wrong" in among_certified(0.05, 20, 500)
    assert "promises nothing" in among_certified(0.05, 0, 500)
