"""The fallback: who answered what, what it spent, and how often the answers are wrong together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_certifier import FakeCertifier, evaluate, stream
from scipy.stats import binom

from rrise import Auditor, Certificates, Certifier, Fallback
from rrise.audit.budget import Budget
from rrise.calibration.bounds import clopper_pearson
from rrise.evaluation.baselines import cohen_certify
from rrise.images import DataConfig, load_splits
from rrise.stages.service import MonteCarloCertifier, noisy_source


class FakeMonteCarlo:
    """Certifies by binomial draws: class 1 has the fourth pixel / 255 as its probability."""

    alpha, most, sigma = 0.05, 110, 0.5

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.images = np.random.default_rng(seed), 0

    def __call__(self, images: np.ndarray) -> Certificates:
        self.images += len(images)
        p = images.reshape(-1, 4, 4)[:, 0, 3] / 255
        counts = [np.stack([n - k, k], axis=1) for n in (10, 100) for k in (self.rng.binomial(n, p),)]
        return cohen_certify(*counts, alpha=self.alpha, sigma=self.sigma)


def test_abstentions_and_only_they_go_to_monte_carlo() -> None:
    images, certifier, monte_carlo = stream(200, abstain=0.4), FakeCertifier(), FakeMonteCarlo()
    fallback = Fallback(certifier, monte_carlo, Budget(10**6))
    found, plain = fallback(images), certifier(images)
    kept = ~plain.abstained
    assert monte_carlo.images == plain.abstained.sum()
    assert set(found.evidence[kept]) == {"surrogate"}
    for name in ("label", "radius", "p_lower", "q", "evaluations"):
        np.testing.assert_array_equal(getattr(found.certificates, name)[kept], getattr(plain, name)[kept])
    assert set(found.evidence[~kept]) == {"monte carlo", "none"}
    np.testing.assert_array_equal(found.evidence == "none", found.certificates.abstained)
    np.testing.assert_array_equal(found.certificates.evaluations, np.where(kept, 0, 110))
    asked = int(plain.abstained.sum())
    counts = {"inputs": 200, "chosen": asked, "answered": asked, "refused": 0, "evaluations": 110 * asked}
    assert fallback.counts == counts
    assert len(found) == 200


def test_a_spent_budget_leaves_abstentions() -> None:
    images, now = stream(10, abstain=1.0), [0.0]
    fallback = Fallback(FakeCertifier(), FakeMonteCarlo(), Budget(330, 60, lambda: now[0]))
    found = fallback(images)
    np.testing.assert_array_equal(found.certificates.evaluations, [110] * 3 + [0] * 7)
    assert set(found.evidence[3:]) == {"none"}
    assert fallback.counts["refused"] == 7
    now[0] = 20.0  # a third of the allowance is back
    assert fallback(images).certificates.evaluations.sum() == 110


def test_what_monte_carlo_does_not_spend_goes_back() -> None:
    class Thrifty(FakeMonteCarlo):
        def __call__(self, images: np.ndarray) -> Certificates:
            found = super().__call__(images)
            return replace(found, evaluations=found.evaluations - 100)

    class Broken(FakeMonteCarlo):
        def __call__(self, images: np.ndarray) -> Certificates:
            raise RuntimeError("no device")

    images, budget = stream(10, abstain=1.0), Budget(1100)
    assert Fallback(FakeCertifier(), Thrifty(), budget)(images).certificates.evaluations.sum() == 100
    assert not budget.take(1001)
    broken = Fallback(FakeCertifier(), Broken(), budget)
    with pytest.raises(RuntimeError):
        broken(images)
    assert broken.counts["chosen"] == 0
    assert budget.take(1000)
    assert not budget.take(1)


def test_any_inputs_may_be_chosen_and_the_better_certificate_is_kept() -> None:
    images = stream(4)
    images[:, 0, 3] = [255, 200, 0, 128]  # certified with more, with less, with another label, not at all
    fallback = Fallback(FakeCertifier(), FakeMonteCarlo(), Budget(10**6), choose=lambda found: found.radius < 1)
    found = fallback(images)
    assert found.evidence.tolist() == ["monte carlo", "surrogate", "monte carlo", "surrogate"]
    assert found.certificates.label.tolist() == [1, 1, 0, 1]
    assert found.certificates.radius[0] > 0.5
    assert found.certificates.radius[1] == 0.5
    assert (found.certificates.evaluations == 110).all()
    with pytest.raises(ValueError, match=r"choose: expected bool\[4\]"):
        Fallback(FakeCertifier(), FakeMonteCarlo(), Budget(1), choose=lambda found: found.radius[:2] > 0)(images)


def test_wrong_certificates_are_as_rare_as_stated() -> None:
    """Surrogate wrong on 5% of all inputs; of the others 40% are abstained on, just above no certificate at all."""
    rng, count = np.random.default_rng(1), 40_000
    images = stream(count, abstain=0.4)
    images[:, 0, 3] = 127  # p = 0.498: whatever Monte Carlo certifies for class 1 is wrong
    surrogate_wrong = (rng.random(count) < 0.05) & (images[:, 0, 0] > 0)
    fallback = Fallback(FakeCertifier(), FakeMonteCarlo(), Budget(10**9))
    found = fallback(images)
    p = np.where(found.certificates.label == 1, 127 / 255, 128 / 255)
    mistaken = (found.evidence == "monte carlo") & (found.certificates.p_lower > p)
    total = int((mistaken | (surrogate_wrong & (found.evidence == "surrogate"))).sum())
    chosen = fallback.counts["chosen"] / count
    assert mistaken.sum() > 100
    assert total <= binom.isf(1e-6, count, 0.05 + 0.05 * chosen)
    issued = (found.evidence == "monte carlo").sum()
    assert mistaken.sum() > 0.05 * issued  # why the statement is not about the certificates that were issued
    assert clopper_pearson(100, 100, 0.05) > 0.5


def test_the_statement_has_the_numbers() -> None:
    fallback = Fallback(FakeCertifier("training-conditional"), FakeMonteCarlo(), Budget(10**6))
    assert "none yet" in fallback.statement
    fallback(stream(200, abstain=0.5))
    share = f"{100 * fallback.counts['chosen'] / 200:.3g}% of 200"
    for part in ("at most 10%: 5% from the surrogate", "training-conditional", "confidence 0.99", share):
        assert part in fallback.statement
    assert "confidence" not in Fallback(FakeCertifier(), FakeMonteCarlo(), Budget(1)).statement


def test_the_statement_repeats_on_what_conditions_the_bundle_promises() -> None:
    """A marginal promise is one on average, and one for priors holds for those; neither may be dropped."""
    plain = FakeCertifier()
    said = Fallback(plain, FakeMonteCarlo(), Budget(1)).statement
    assert said.startswith("On average over calibration sets, a new input exchangeable with the 500 calibration inputs")
    plain.bundle.calibration = replace(plain.bundle.calibration, priors=(0.3, 0.7), effective=320.0)
    said = Fallback(plain, FakeMonteCarlo(), Budget(1)).statement
    assert "if class frequencies in service are exactly the given priors" in said
    assert "a marginal guarantee over inputs, inputs weighted for priors 0.3, 0.7 (worth 320.0 inputs" in said
    for guarantee in ("training-conditional", "certified"):
        said = Fallback(FakeCertifier(guarantee), FakeMonteCarlo(), Budget(1)).statement
        assert "over the draw of the 500 calibration inputs, a new input drawn independently from their source" in said


def test_shares_that_no_short_decimal_says_are_rounded_up() -> None:
    certifier = FakeCertifier()
    certifier.bundle.calibration = replace(certifier.bundle.calibration, beta=0.01)
    assert "at most 9.041%: 4.041% from the surrogate" in Fallback(certifier, FakeMonteCarlo(), Budget(1)).statement


def test_an_auditor_may_stand_in_for_its_certifier() -> None:
    images = stream(50, abstain=0.5)
    with Auditor(FakeCertifier(), evaluate, rate=1.0, n=200, seed=0) as auditor:
        found = Fallback(auditor, FakeMonteCarlo(), Budget(10**6))(images)
    assert {"surrogate", "monte carlo", "none"} == set(found.evidence)
    status = auditor.status
    assert (status.audited, status.abstained) == (50, (found.evidence != "surrogate").sum())


def test_another_sigma_is_refused() -> None:
    other = FakeMonteCarlo()
    other.sigma = 0.25
    with pytest.raises(ValueError, match=r"fallback: expected sigma 0\.5 as of the bundle, got 0\.25"):
        Fallback(FakeCertifier(), other, Budget(1))


@pytest.mark.parametrize(("evaluations", "seconds"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_budget_must_be_one(evaluations: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="budget: expected"):
        Budget(evaluations, seconds)


def test_a_budget_in_a_span_of_time_is_kept() -> None:
    now = [0.0]
    budget, spent = Budget(1000, 10.0, lambda: now[0]), 0
    for _ in range(500):
        spent += 70 * budget.take(70)
        now[0] += 0.1
    assert 5000 <= spent <= 1000 * (1 + 50 / 10)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_real_bundle_falls_back_to_its_base_classifier(finished: tuple[Path, list[str]], adaptive: bool) -> None:
    run = finished[0]
    certifier = Certifier.load(run / "bundles/scaled")
    images = load_splits(DataConfig()).test.images[:80]
    source = noisy_source(certifier.bundle, run / "classifier", seed=2)
    monte_carlo = MonteCarloCertifier(source, n=400, n_selection=50, adaptive=adaptive, tolerance=0.05)
    fallback = Fallback(certifier, monte_carlo, Budget(10 * monte_carlo.most))
    found = fallback(images)
    assert fallback.counts["answered"] >= 10
    assert fallback.counts["refused"] > 0
    assert {"surrogate", "monte carlo", "none"} == set(found.evidence)
    assert fallback.counts["evaluations"] == found.certificates.evaluations.sum() <= 10 * monte_carlo.most
