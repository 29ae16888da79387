"""What attacks are said to show, on answers made by hand: each count is right, and a broken promise is called one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from rrise.evaluation.attack_config import AttackConfig
from rrise.evaluation.attack_tables import AttackReport, as_json, as_markdown, said
from rrise.evaluation.attacks import Attacked, AttackRow, Rate, attack_row, refutations, smallest_of
from rrise.runtime.certificates import Certificates

LABELS = np.array([0, 0, 1, 1, 2, 2])
RADII = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
# Row by row: nothing happens; the surrogate alone leaves, abstaining; it leaves and certifies another label, falsely;
# the smoothed label changes too; the draws do not decide; only the smoothed label changes.
SURROGATE = np.array([0, 1, 2, 0, 1, 2])
CERTIFIED = np.array([0, -1, 2, 0, -1, 2])
SMOOTHED = np.array([0, 0, 1, 0, -1, 1])


def attacked(reach: float = 1.0, attack: str = "surrogate", smoothed: np.ndarray = SMOOTHED) -> Attacked:
    issued = CERTIFIED >= 0
    radius = np.where(issued, [0.1, 0, 0.05, 0.15, 0, 0.2], 0.0)
    none = np.zeros(6, np.int64)
    certificates = Certificates(CERTIFIED, radius, np.where(issued, 0.8, 0.4), np.full(6, 0.9), none)
    return Attacked(attack, reach, 0.99 * reach * RADII, SURROGATE, certificates, smoothed)


def row(**changes: object) -> AttackRow:
    return attack_row(replace(attacked(), **changes), LABELS, RADII)


def test_every_rate_counts_its_rows() -> None:
    found = row()
    counts = {name: rate.count for name, rate in vars(found).items() if isinstance(rate, Rate)}
    assert counts == {
        "surrogate_flips": 4,
        "uncovered": 2,
        "smoothed_flips": 2,
        "smoothed_undecided": 1,
        "other_certificates": 2,
        "false_certificates": 1,
    }
    assert {rate.total for rate in vars(found).values() if isinstance(rate, Rate)} == {6}
    assert found.other_radius == pytest.approx((0.1, 0.15))
    calm = row(
        surrogate=LABELS,
        smoothed=LABELS,
        certificates=replace(attacked().certificates, label=LABELS, p_lower=np.full(6, 0.8)),
    )
    assert calm.surrogate_flips.count == calm.smoothed_flips.count == calm.other_certificates.count == 0
    assert calm.other_radius is None


def test_a_logit_that_is_not_finite_is_a_label_that_left() -> None:
    assert row(surrogate=np.array([-1, 0, 1, 1, 2, 2])).surrogate_flips.count == 1


def test_a_point_outside_its_ball_is_refused() -> None:
    outside = 0.99 * RADII
    outside[3] = RADII[3] * (1 + 1e-9)
    with pytest.raises(ValueError, match=r"points: expected them within 1 times the certified radius 0\.4, .* row 3"):
        row(distance=outside)
    with pytest.raises(ValueError, match="row 2"):
        row(distance=np.where(np.arange(6) == 2, np.nan, outside))


def test_intervals_are_clopper_pearson() -> None:
    rate = Rate.counted(2, 6)
    assert (rate.lower, rate.upper) == pytest.approx((beta.ppf(0.025, 2, 5), beta.ppf(0.975, 3, 4)), abs=1e-9)
    assert (Rate.counted(0, 50).lower, Rate.counted(50, 50).upper) == (0, 1)
    assert Rate.counted(0, 0) == Rate.of(np.zeros(0, bool)) == Rate(0, 0, 0.0, 1.0)
    assert said(Rate.counted(0, 0)) == "0 of 0"


def test_refuted_certificates_are_counted_once_and_only_inside_the_radius() -> None:
    other = np.array([1, 0, 1, 0, -1, 1])  # row 0 by one attack, 3 and 5 by both
    both = [attacked(), attacked(attack="smoothed", smoothed=other), attacked(2.0, smoothed=np.full(6, 9))]
    found = refutations(both, LABELS, shown=10, promised=0.05, doubt=0.001)
    assert (found.found.count, found.found.total) == (3, 10)
    assert refutations(both[2:], LABELS, shown=10, promised=0.05, doubt=0.001).found.count == 0
    assert refutations([attacked(smoothed=np.full(6, -1))], LABELS, shown=10, promised=0.05, doubt=0).found.count == 0


@pytest.mark.parametrize(("wrong", "exceeded"), [(0, False), (20, False), (33, False), (45, True), (400, True)])
def test_a_broken_promise_is_called_one(wrong: int, exceeded: bool) -> None:
    """400 inputs, 5% promised: 20 are what a promise just kept gives, 33 are still chance at level 0.001, 45 not."""
    labels, none = np.zeros(400, np.int64), np.zeros(400)
    kept = Certificates(labels, none + 0.1, none + 0.9, none + 0.9, labels)
    smoothed = (np.arange(400) < wrong).astype(np.int64)
    found = refutations(
        [Attacked("smoothed", 1.0, none, labels, kept, smoothed)], labels, shown=400, promised=0.05, doubt=0.001
    )
    assert (found.found.count, found.exceeded) == (wrong, exceeded)


def test_quartiles_know_what_was_not_found() -> None:
    radii = np.full(8, 0.5)
    found = smallest_of([0.5, 0.6, 0.7, 0.8, 0.9, np.inf, np.inf, np.inf], radii)
    assert (found.found.count, found.found.total, found.least) == (5, 8, 1.0)
    assert found.quartiles == (1.4, 1.8, None)
    assert smallest_of([], np.zeros(0)).quartiles == (None, None, None)


def report() -> AttackReport:
    rows = tuple(
        attack_row(attacked(reach, attack), LABELS, RADII)
        for reach in (1.0, 2.0)
        for attack in ("surrogate", "smoothed")
    )
    found = refutations([attacked()], LABELS, shown=8, promised=0.05, doubt=0.001)
    nearest = smallest_of(1.5 * RADII, RADII)
    return AttackReport(AttackConfig(reach=(1.0, 2.0)), "What is promised.", rows, found, nearest, {"bundle": "ab"})


def test_the_report_says_it_in_words_and_in_json() -> None:
    text, body = as_markdown(report()), json.loads(as_json(report()))
    assert text.startswith("# Attacks on 6 certified images of 8\n")
    assert "changed its label for 4 (66.7%, " in text
    assert "For 2 (33.3%, " in text
    assert "2 (25.0%, 3.2% to 65.1%) of the images shown, certified or not; the guarantee allows 5%." in text
    assert "That promise stands." in text
    assert "median 1.50 R, quartiles 1.50 R and 1.50 R, least 1.50 R" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert len({line.count("|") for line in table}) == 1
    assert body["schema"] == "rrise-attack/1"
    assert body["rows"][0]["uncovered"] == {"count": 2, "total": 6, **_ends(Rate.counted(2, 6))}
    assert body["config"]["reach"] == [1.0, 2.0]
    broken = replace(report(), refuted=replace(report().refuted, exceeded=True))
    assert "the certificates do not hold" in as_markdown(broken)
    nothing = replace(report(), smallest=smallest_of(np.full(6, np.inf), RADII))
    assert "median not found" in as_markdown(nothing)
    assert json.loads(as_json(nothing))["smallest"]["quartiles"] == [None, None, None]


def _ends(rate: Rate) -> dict[str, float]:
    return {"lower": rate.lower, "upper": rate.upper}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"reach": (2.0,)}, r"reach: expected finite multiples above 0, 1\.0 among them, got \(2\.0,\)"),
        ({"reach": (-1.0, 1.0)}, "reach: expected finite multiples above 0"),
        ({"reach": (2.0, 1.0)}, "reach: expected rising multiples"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"halvings": -1}, "halvings: expected 0 or more, got -1"),
        ({"step": float("nan")}, "step: expected a share of the radius above 0, got nan"),
        ({"alpha": 1.0}, "alpha: expected a failure probability"),
        ({"n": 13}, "n: expected at least 14 draws to tell labels apart at this alpha, got 13"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AttackConfig(**change)


def test_the_fewest_draws_can_just_decide() -> None:
    from rrise.evaluation.baselines import cohen_predict

    config = AttackConfig(n=14)
    assert cohen_predict(np.array([[0, 14], [0, 13]]), alpha=config.level).tolist() == [1, -1]
