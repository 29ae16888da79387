"""The cascade: the surrogate first, Monte Carlo for the rest, and what both promise together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_certifier import FakeCertifier
from hypothesis import given
from hypothesis import strategies as st
from reference_population import Population, cascade_population, linear_population
from shared_run import small_recipe

from rrise import _C, Certificates, Certifier, Fallback
from rrise.audit.budget import Budget
from rrise.calibration.cascade import describe_cascade, describe_first_stage, left_over, part
from rrise.calibration.conformal import CalibrateConfig, calibrate
from rrise.calibration.levels import BETAS, spent
from rrise.evaluation.adaptive_stopping import adaptive_certify
from rrise.evaluation.baselines import cohen_certify
from rrise.evaluation.cascade import cascade_adaptive, cascade_fixed
from rrise.evaluation.settings import EvaluateConfig
from rrise.promise import decimal, promise, rounded_up
from rrise.recipe import run
from rrise.runtime.bundle import load_bundle
from rrise.runtime.calibration_record import CalibrationRecord
from rrise.runtime.cascade import merged, undecided
from rrise.stages.first_stage import cascade_alpha, first_stage, monte_carlo_alpha

SIGMA = 0.5

# --- Which inputs go on, and which certificate is returned ------------------------------------------------------------


def some_certificates(rng: np.random.Generator, inputs: int) -> Certificates:
    p_lower = rng.uniform(0.2, 1.0, inputs)
    radius = np.where(p_lower > 0.5, rng.uniform(0.0, 0.6, inputs), 0.0)
    label = np.where(p_lower > 0.5, rng.integers(0, 3, inputs), -1)
    return Certificates(label, radius, p_lower, rng.random(inputs), np.zeros(inputs, np.int64))


def some_counts(rng: np.random.Generator, inputs: int, n: int) -> np.ndarray:
    return np.stack([rng.multinomial(n, rng.dirichlet([4.0, 1.0, 0.2])) for _ in range(inputs)])


def loop(first: Certificates, second: Callable[[int], Certificates], wanted: float) -> list[dict[str, Any]]:
    """The rule in plain words, one input after the other."""
    rows = []
    for row, answer in enumerate(first.to_rows()):
        if answer["label"] == -1 or answer["radius"] < wanted:
            (other,) = second(row).to_rows()
            spent = other["evaluations"]
            if other["label"] != -1 and (other["label"] != answer["label"] or other["radius"] > answer["radius"]):
                answer = dict(other)
            answer["evaluations"] = spent
        rows.append(answer)
    return rows


@pytest.mark.parametrize("wanted", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_arrays_do_what_a_loop_over_the_inputs_does(seed: int, wanted: float) -> None:
    rng = np.random.default_rng(seed)
    first, same = some_certificates(rng, 60), {"alpha": 0.05, "sigma": SIGMA}
    selection, estimation = some_counts(rng, 60, 20), some_counts(rng, 60, 400)
    found, replaced = cascade_fixed(first, selection, estimation, wanted=wanted, **same)
    one = [slice(row, row + 1) for row in range(60)]
    expected = loop(first, lambda row: cohen_certify(selection[one[row]], estimation[one[row]], **same), wanted)
    assert found.to_rows() == expected
    changed = [new | {"evaluations": 0} != old for new, old in zip(expected, first.to_rows(), strict=True)]
    assert replaced.tolist() == changed
    looks = np.arange(50, 401, 50)
    k = np.cumsum(rng.binomial(50, rng.uniform(0.4, 1.0, (60, 1)), (60, 8)), axis=1)
    stopped, _ = cascade_adaptive(first, selection, k, looks, tolerance=0.15, wanted=wanted, **same)
    assert stopped.to_rows() == loop(
        first, lambda row: adaptive_certify(selection[one[row]], k[one[row]], looks, tolerance=0.15, **same), wanted
    )
    asked = undecided(first, wanted)
    assert 0 < replaced.sum() < asked.sum() <= 60
    assert (found.evaluations == np.where(asked, 420, 0)).all()
    assert (stopped.evaluations[asked] <= 420).all()
    assert stopped.evaluations[asked].min() < 420  # some stopped early, and only what was spent is counted
    assert not stopped.evaluations[~asked].any()


def test_only_abstentions_go_on_unless_a_radius_is_wanted() -> None:
    first = some_certificates(np.random.default_rng(0), 200)
    np.testing.assert_array_equal(undecided(first), first.abstained)
    np.testing.assert_array_equal(undecided(first, 0.3), first.abstained | (first.radius < 0.3))
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="wanted: expected a radius of at least 0"):
            undecided(first, wrong)


def test_nothing_goes_on_where_all_is_certified() -> None:
    certified = Certificates(np.array([1]), np.array([0.2]), np.array([0.8]), np.ones(1), np.zeros(1, np.int64))
    counts = np.array([[1, 99]])
    found, replaced = cascade_fixed(certified, counts, counts, alpha=0.01, sigma=SIGMA)
    assert (found.to_rows(), replaced.tolist()) == (certified.to_rows(), [False])
    with pytest.raises(ValueError, match=r"estimation: expected a row for each of 1 inputs, got shape \(2, 2\)"):
        cascade_fixed(certified, counts, np.ones((2, 2), int), alpha=0.01, sigma=SIGMA)


class CountedMonteCarlo:
    """Certifies by counts made beforehand, named by the first two pixels of an image; a fallback's second stage."""

    sigma = SIGMA

    def __init__(self, certify: Callable[[np.ndarray], Certificates], alpha: float, most: int) -> None:
        self.certify, self.alpha, self.most = certify, alpha, most

    def __call__(self, images: np.ndarray) -> Certificates:
        named = images.reshape(-1, 4, 4)[:, 3, :2].astype(int)
        return self.certify(256 * named[:, 0] + named[:, 1])


@pytest.mark.parametrize("wanted", [0.0, 0.7])
def test_a_fallback_in_service_and_the_comparison_give_equal_certificates_for_equal_counts(wanted: float) -> None:
    rng, inputs, alpha = np.random.default_rng(4), 300, 0.015
    images = rng.integers(0, 256, (inputs, 4, 4), dtype=np.uint8)
    images[:, 0, 0] = rng.random(inputs) < 0.6  # 0 abstains
    images[:, 3, 0], images[:, 3, 1] = np.divmod(np.arange(inputs), 256)
    selection, looks = some_counts(rng, inputs, 20)[:, ::-1][:, :2] + 1, np.arange(50, 401, 50)
    k = np.cumsum(rng.binomial(50, rng.uniform(0.4, 1.0, (inputs, 1)), (inputs, 8)), axis=1)
    estimation = np.stack([k[:, -1], 400 - k[:, -1]], axis=1)
    first, same = FakeCertifier()(images), {"alpha": alpha, "sigma": SIGMA}
    ways = {
        "fixed": (
            lambda rows: cohen_certify(selection[rows], estimation[rows], **same),
            cascade_fixed(first, selection, estimation, wanted=wanted, **same),
        ),
        "adaptive": (
            lambda rows: adaptive_certify(selection[rows], k[rows], looks, tolerance=0.15, **same),
            cascade_adaptive(first, selection, k, looks, tolerance=0.15, wanted=wanted, **same),
        ),
    }
    for certify, (compared, replaced) in ways.values():
        fallback = Fallback(
            FakeCertifier(),
            CountedMonteCarlo(certify, alpha, 500),
            Budget(10**9),
            choose=lambda found: undecided(found, wanted),
        )
        served = fallback(images)
        assert served.certificates.to_rows() == compared.to_rows()
        np.testing.assert_array_equal(served.evidence == "monte carlo", replaced)
        assert replaced.sum() > 20
        assert fallback.counts["chosen"] == np.count_nonzero(compared.evaluations) == undecided(first, wanted).sum()
        assert fallback.counts["evaluations"] == compared.evaluations.sum()


def test_a_certificate_of_the_second_stage_must_be_issued_to_replace_one() -> None:
    first = Certificates(np.array([1, -1]), np.array([0.2, 0.0]), np.array([0.7, 0.3]), np.ones(2), np.zeros(2, int))
    second = Certificates(np.array([-1, -1]), np.zeros(2), np.array([0.4, 0.45]), np.ones(2), np.array([9, 9]))
    found, replaced = merged(first, second, np.arange(2))
    assert found.label.tolist() == [1, -1]
    assert found.p_lower.tolist() == [0.7, 0.3]
    assert found.evaluations.tolist() == [9, 9]
    assert not replaced.any()


# --- The promise ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 999), st.integers(1, 999))
def test_the_two_parts_of_a_promise_are_the_whole_read_as_decimals(thousandths: int, share: int) -> None:
    alpha, f = thousandths / 1000, share / 1000
    spent = part("alpha", alpha, f)
    assert Fraction(str(spent)) == Fraction(thousandths, 1000) * Fraction(share, 1000)
    assert Fraction(str(spent)) + Fraction(str(left_over(alpha, spent))) == Fraction(str(alpha))


@given(st.floats(1e-6, 0.999), st.floats(1e-6, 0.999))
def test_no_part_is_rounded_up(alpha: float, share: float) -> None:
    spent = part("alpha", alpha, share)
    assert Fraction(str(spent)) <= Fraction(str(alpha)) * Fraction(str(share))
    whole = Fraction(str(spent)) + Fraction(str(left_over(alpha, spent)))
    assert Fraction(str(alpha)) * Fraction(10**13 - 1, 10**13) <= whole <= Fraction(str(alpha))


def test_a_share_that_is_none_is_refused_with_a_usual_one() -> None:
    with pytest.raises(
        ValueError, match=r"cascade: expected a number strictly between 0 and 1, got 2\. Typical: 0\.9\."
    ):
        CalibrateConfig(cascade=2)


def test_nothing_left_for_monte_carlo_is_refused() -> None:
    for used in (0.05, 0.06):
        with pytest.raises(ValueError, match=r"cascade: expected a first stage that promises less than 0\.05 in all"):
            left_over(0.05, used)


def wrong_shares(
    population: Population,
    *,
    gamma: float,
    alpha: float,
    wanted: float = 0.0,
    adaptive: bool = False,
    repetitions: int = 400,
) -> np.ndarray:
    """Share of 300 new inputs with a wrong certificate, after each of many calibrations at gamma, beta being nothing.

    Two classes; label 0 is the surrogate's. Monte Carlo, at alpha, picks its class by 1,000 draws and bounds by 2,000.
    """
    rng, shares = np.random.default_rng(11), []
    for _ in range(repetitions):
        rows = rng.integers(population.q.size, size=199)
        found = calibrate(
            population.q[rows], rng.binomial(10**6, population.p[rows]), 10**6, beta=1e-6, gamma=gamma,
            curve="offset", guarantee="marginal",
        )  # fmt: skip
        rows = rng.integers(population.q.size, size=300)
        q, p = population.q[rows], population.p[rows]
        logits = np.stack([np.log(q / (1 - q)), np.zeros_like(q)], axis=1)
        label, q, p_lower, radius = _C.certify(logits, found.knots_q, found.knots_p, SIGMA)
        first = Certificates(label, radius, p_lower, q, np.zeros(300, np.int64))
        picked = rng.binomial(1000, p)
        selection = np.stack([picked, 1000 - picked], axis=1)
        guess = selection.argmax(axis=1)
        k = np.cumsum(rng.binomial(200, np.where(guess == 0, p, 1 - p)[:, None], (300, 10)), axis=1)
        same = {"alpha": alpha, "sigma": SIGMA, "wanted": wanted}
        if adaptive:
            both, _ = cascade_adaptive(first, selection, k, np.arange(200, 2001, 200), **same)
        else:
            of_guess = k[:, -1:]
            estimation = np.where(np.arange(2) == guess[:, None], of_guess, 2000 - of_guess)
            both, _ = cascade_fixed(first, selection, estimation, **same)
        truth = np.where(both.label == 0, p, 1 - p)
        shares.append(np.mean(~both.abstained & (truth < both.p_lower)))
    return np.array(shares)


def check_promise(shares: np.ndarray, total: float) -> None:
    """On average at most ``total`` are wrong, within five standard errors."""
    assert shares.mean() <= total + 5 * shares.std() / math.sqrt(shares.size)


TOTAL, SHARE = 0.05, 0.7
FIRST = part("gamma", TOTAL, SHARE)
SECOND = left_over(TOTAL, FIRST)


def test_both_together_keep_the_promise_where_it_is_tight() -> None:
    shares = wrong_shares(cascade_population(), gamma=FIRST, alpha=SECOND)
    check_promise(shares, TOTAL + 1e-6)
    assert shares.mean() > 0.9 * TOTAL  # tight indeed


@pytest.mark.parametrize(
    ("gamma", "alpha"), [(FIRST, TOTAL), (TOTAL, SECOND), (TOTAL, TOTAL)], ids=["second", "first", "both"]
)
def test_a_stage_that_spends_all_of_the_promise_is_detected(gamma: float, alpha: float) -> None:
    with pytest.raises(AssertionError):
        check_promise(wrong_shares(cascade_population(), gamma=gamma, alpha=alpha), TOTAL + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("wanted", [0.0, 0.6, 5.0])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_both_together_keep_the_promise(share: float, wanted: float, adaptive: bool) -> None:
    first = part("gamma", TOTAL, share)
    settings = {"gamma": first, "alpha": left_over(TOTAL, first), "wanted": wanted, "adaptive": adaptive}
    repetitions = 150 if adaptive else 800  # the mixture bound takes 30 times as long
    for population in (cascade_population(), linear_population(5)):
        check_promise(wrong_shares(population, **settings, repetitions=repetitions), TOTAL + 1e-6)


# --- What is said of it -----------------------------------------------------------------------------------------------


def record(guarantee: str = "training-conditional", **more: Any) -> CalibrationRecord:
    return CalibrationRecord(guarantee, 0.5, 0.0175, 0.01, n=1000, images=500, rank=490, t=0.1, **more)


def test_the_statement_has_the_conditions_of_the_calibration() -> None:
    parts = ("at most 5%: 3.5% from the surrogate", "1.5% from Monte Carlo", "25% of 400", "bundle's own statement")
    for said, words in (
        (record(), ("With confidence 0.99 over the draw of the 500", "drawn independently from their source")),
        (record("marginal"), ("On average over calibration sets", "exchangeable with the 500 calibration inputs")),
        (
            record("marginal", priors=(0.3, 0.7), effective=9.0),
            ("if class frequencies in service are exactly the given priors",),
        ),
        (record("certified"), ("a new input drawn independently", "a certified guarantee")),
    ):
        statement = describe_cascade(said, 0.015, 100, 400)
        for words_of in (*parts, *words):
            assert words_of in statement
    assert "certificates issued" not in describe_cascade(record("certified"), 0.015, 0, 0)
    assert "go to it (none yet)" in describe_cascade(record(), 0.015, 0, 0)
    assert "4.041% in all" in describe_first_stage(4 / 99, 0.01)  # rounded up


def test_a_fallback_says_the_same() -> None:
    certifier = FakeCertifier("marginal")
    certifier.bundle.calibration = record("marginal", priors=(0.3, 0.7), effective=9.0)
    second = CountedMonteCarlo(lambda rows: some_certificates(np.random.default_rng(0), len(rows)), 0.015, 10)
    fallback = Fallback(certifier, second, Budget(10**6))
    assert fallback.statement == describe_cascade(certifier.bundle.calibration, 0.015, 0, 0)
    images = np.zeros((8, 4, 4), np.uint8)
    images[:6, 0, 0] = 1
    fallback(images)
    assert fallback.statement == describe_cascade(certifier.bundle.calibration, 0.015, 2, 8)


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_a_first_stage_gets_its_share_of_alpha_or_of_gamma() -> None:
    assert first_stage(CalibrateConfig(cascade=0.7, beta=0.01, gamma=0.04)).gamma == 0.028
    assert first_stage(CalibrateConfig(cascade=0.7, beta=0.01, gamma=0.04)).beta == 0.01
    assert first_stage(CalibrateConfig(cascade=0.7, alpha=0.05)).alpha == 0.035


@pytest.mark.parametrize("share", [0.7, 0.3, 1 / 3])
@pytest.mark.parametrize("beta", BETAS)
def test_both_stages_spend_the_promise_and_no_more(beta: float, share: float) -> None:
    """Whether gamma is divided beside the same beta, or alpha before beta is chosen."""
    gamma = 0.04 * (1 - beta)
    for total, levels in (
        (
            rounded_up(promise(beta, gamma)),
            (beta, first_stage(CalibrateConfig(cascade=share, beta=beta, gamma=gamma)).gamma),
        ),
        (0.05, spent(first_stage(CalibrateConfig(cascade=share, alpha=0.05)).alpha, beta)),
    ):
        own = promise(*levels)
        assert decimal(share) * decimal(total) * (1 - Fraction(1, 10**13)) < own <= decimal(share) * decimal(total)
        both = decimal(rounded_up(own)) + decimal(left_over(total, rounded_up(own)))
        assert decimal(total) * (1 - Fraction(1, 10**13)) < both <= decimal(total)


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, math.nan])
def test_a_share_outside_of_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="cascade: expected a number strictly between 0 and 1"):
        CalibrateConfig(cascade=share)


def test_a_cascade_of_issued_certificates_is_refused() -> None:
    with pytest.raises(ValueError, match="cascade: expected a guarantee of all inputs"):
        CalibrateConfig(cascade=0.7, guarantee="certified")


@pytest.mark.parametrize("wanted", [-0.1, math.inf, math.nan])
def test_a_wanted_radius_must_be_one(wanted: float) -> None:
    with pytest.raises(ValueError, match="wanted: expected a radius of at least 0"):
        EvaluateConfig(wanted=wanted)


def test_a_bundle_says_what_its_cascade_promises() -> None:
    def bundle(guarantee: str = "marginal", **provenance: Any) -> Any:
        return SimpleNamespace(calibration=record(guarantee), provenance=provenance)

    assert cascade_alpha(bundle()) is None
    assert cascade_alpha(bundle(cascade_alpha=0.05)) == 0.05
    assert monte_carlo_alpha(bundle(cascade_alpha=0.05)) == 0.015
    with pytest.raises(ValueError, match="bundle: expected the first stage of a cascade"):
        monte_carlo_alpha(bundle())
    for wrong in ("0.05", 0.035, 1.0, None, True):
        with pytest.raises(ValueError, match=r"bundle: expected provenance\.cascade_alpha between its own promise of"):
            cascade_alpha(bundle(cascade_alpha=wrong))
    with pytest.raises(ValueError, match="bundle: expected a guarantee of all inputs in a cascade"):
        cascade_alpha(bundle("certified", cascade_alpha=0.05))


def test_several_noise_levels_have_no_cascade(tmp_path: Path) -> None:
    from rrise import stages

    with pytest.raises(ValueError, match=r"cascade: expected none with several sigma, got 0\.7"):
        stages.calibrate_levels(
            SimpleNamespace(), CalibrateConfig(cascade=0.7), tmp_path / "engine", [], [], tmp_path / "out"
        )


# --- A run ------------------------------------------------------------------------------------------------------------


CASCADED = ("calibrate.cascade=0.7", "evaluate.wanted=0.1", "evaluate.n_larger=0")
"""Without a larger budget, of whose draws Monte Carlo's would be a random part, it takes the first of its stream."""


@pytest.fixture(scope="module")
def cascaded(finished: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("cascade") / "digits"
    shutil.copytree(finished[0], out)
    said: list[str] = []
    run(small_recipe(out, *CASCADED), say=said.append, progress=False)
    return out, said


def test_a_run_with_a_cascade_makes_a_bundle_and_rows(cascaded: tuple[Path, list[str]]) -> None:
    out, said = cascaded
    kept = {line.split(":")[0] for line in said if "kept" in line}
    assert {"train", "sample-calibration", "export", "rival-calibrate", "sample-reference"} <= kept
    assert sorted(path.name for path in (out / "bundles").iterdir()) == ["offset", "scaled", "scaled-cascade"]
    first, plain = load_bundle(out / "bundles/scaled-cascade"), load_bundle(out / "bundles/scaled")
    total, second = plain.calibration.error, monte_carlo_alpha(first)
    assert cascade_alpha(first) == total
    both = Fraction(str(first.calibration.error)) + Fraction(str(second))
    assert Fraction(str(total)) - Fraction(1, 10**16) < both <= Fraction(str(total))
    assert first.calibration.gamma == 0.14
    assert f"undecided go to Monte Carlo at alpha = {second!r}, what is returned is wrong" in first.statement
    assert "cascade" not in plain.statement

    body = json.loads((out / "evaluation/metrics.json").read_text())
    rows = {row["name"]: row for row in body["certifiers"]}
    assert body["provenance"]["bundles"]["first stage of the cascade"] == first.sha256
    lines = {line["name"]: line for line in body["cascades"]}
    assert list(lines) == ["rrise scaled", "cascade, Monte Carlo", "cascade, adaptive MC"]
    whole = rows["Monte Carlo"]["forward_passes"]
    for name in list(lines)[1:]:
        row, line = rows[name], lines[name]
        assert row["error"] == line["error"] == total
        assert row["forward_passes"] == pytest.approx(1 + line["evaluations"])
        assert 0 < line["evaluations"] < whole
        assert line["of_baseline"] == pytest.approx(line["evaluations"] / whole)
        assert line["behind"] == pytest.approx(
            rows["Monte Carlo"]["certified_accuracy"][0] - line["certified_accuracy"]
        )
        assert (
            line["certified_accuracy"] == row["certified_accuracy"][0] >= rows["rrise scaled"]["certified_accuracy"][0]
        )
        assert f"({100 * line['asked']['count'] / 40:.3g}% of 40)" in row["statement"]
        assert "and where the radius is below 0.1" in row["statement"]
    assert lines["cascade, Monte Carlo"]["evaluations"] == lines["cascade, Monte Carlo"]["asked"]["count"] / 40 * 120
    assert {entry["name"] for entry in body["costs"]["against"]} == {
        "Monte Carlo", "input-specific MC", "adaptive MC",
    }  # fmt: skip
    for file in ("table.md", "report.html"):
        text = (out / "evaluation" / file).read_text()
        assert "The surrogate first, Monte Carlo for the rest" in text
        assert text.count("cascade, adaptive MC") >= 4


def test_a_fallback_with_its_draws_serves_what_was_evaluated(cascaded: tuple[Path, list[str]]) -> None:
    from rrise.images.image_set import image_ids
    from rrise.stages import load_splits
    from rrise.stages.cascade_contenders import cascade_contenders
    from rrise.stages.monte_carlo import certify_fixed
    from rrise.stages.service import noisy_source
    from rrise.targets.store import CountStore

    out, _ = cascaded
    recipe = small_recipe(out, *CASCADED)
    images = load_splits(recipe.data).test
    certifier = Certifier.load(out / "bundles/scaled-cascade")
    counts = [CountStore.open(out / "counts" / name) for name in ("selection", "estimation")]
    tables = [store.table().rows(images.ids).counts.astype(np.int64) for store in counts]
    base = replace(recipe.sample, sigma=certifier.sigma)
    fixed, _ = cascade_contenders(certifier, images, *tables, recipe.evaluate, base)

    class Named:
        """Monte Carlo whose draws are named by the picture, as those of the stores are."""

        alpha, sigma, most = monte_carlo_alpha(certifier.bundle), certifier.sigma, 120
        source = noisy_source(certifier.bundle, out / "classifier", seed=recipe.sample.seed)

        def __call__(self, batch: np.ndarray) -> Certificates:
            noisy = replace(self.source, images=batch, ids=image_ids(batch))
            return certify_fixed(noisy, n=100, alpha=self.alpha, n_selection=20)

    fallback = Fallback(certifier, Named(), Budget(10**9), choose=lambda found: undecided(found, 0.1))
    served = fallback(images.images)
    assert served.certificates.to_rows() == fixed.certificates.to_rows()
    assert {"surrogate", "monte carlo"} <= set(served.evidence)
    assert fixed.statement.startswith(fallback.statement)
    body = json.loads((out / "evaluation/metrics.json").read_text())
    row = next(row for row in body["certifiers"] if row["name"] == "cascade, Monte Carlo")
    assert row["forward_passes"] == pytest.approx(1 + served.certificates.evaluations.mean())
    assert row["statement"] == fixed.statement


def test_what_does_not_fit_a_cascade_is_refused(cascaded: tuple[Path, list[str]], tmp_path: Path) -> None:
    from rrise.runtime.engines.protocol import EngineOptions
    from rrise.stages.contenders import open_certifiers
    from rrise.stages.engines import _certifiers

    bundles = tmp_path / "bundles"
    shutil.copytree(cascaded[0] / "bundles", bundles)
    assert open_certifiers(bundles, {}).first_stage is not None
    folders = {path.name: path for path in bundles.iterdir()}
    assert sorted(_certifiers(folders, EngineOptions())) == ["offset", "scaled"]
    shutil.copytree(bundles / "scaled-cascade", bundles / "other")
    with pytest.raises(ValueError, match="bundles: expected one for a cascade in"):
        open_certifiers(bundles, {})
    shutil.rmtree(bundles / "other")
    shutil.rmtree(bundles / "scaled-cascade")
    assert open_certifiers(bundles, {}).first_stage is None
    recipe = small_recipe(tmp_path, "evaluate.wanted=0.1")
    from rrise import stages

    with pytest.raises(ValueError, match="wanted: expected a bundle for a cascade in"):
        stages.evaluate(
            stages.load_splits(recipe.data),
            recipe.evaluate,
            recipe.sample,
            recipe.execution,
            bundles,
            cascaded[0] / "classifier",
            cascaded[0] / "counts",
            tmp_path / "evaluation",
            progress=False,
        )
