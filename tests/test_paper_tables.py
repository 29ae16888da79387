"""The script of the paper's tables, on the digits with so little of everything that it takes a minute."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rrise.evaluation.baselines import cohen_select

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "paper_tables.py"
SMALL = [
    "train.epochs=2",
    "data.train=300",
    "data.calibration=300",
    "data.test=60",
    "sample.n=200",
    "sample.batch_size=100",
    "fit.epochs=[2]",
    "fit.lr=[0.01]",
    "fit.weight_decay=[0.0]",
    "fit.folds=0",
    "calibrate.guarantee=marginal",
    "evaluate.n_reference=200",
    "evaluate.latency_images=2",
    "evaluate.latency_repeats=1",
]


def tables(out: Path) -> tuple[str, dict]:
    command = [sys.executable, SCRIPT, "--recipe", "digits", "--seeds", "100", "--out", out, "--set", *SMALL]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "tables.json").read_text())


@pytest.mark.slow
def test_tables_are_made_and_made_again_without_work(tmp_path: Path) -> None:
    said, first = tables(tmp_path / "paper")
    assert said.count("surrogate scratch-js: lr") == 1
    again, second = tables(tmp_path / "paper")
    assert "surrogate scratch-js" not in again
    assert "done before, kept" in again
    assert first == second
    levels = first["levels"]
    assert list(levels) == ["alpha=0.25", "alpha=0.101", "alpha=0.051", "alpha=0.011"]
    for results in levels.values():
        assert [name.partition(",")[0] for name in results] == [
            "rrise",
            "rrise",
            "B4 JS surrogate",
            "B1 fixed budget",
            "B2 input-specific budget",
            "B3 adaptive stopping",
        ]
        assert all(len(entries) == 1 for entries in results.values())
        fixed = results["B1 fixed budget"]
        assert [entry["evaluations"] for entry in fixed] == [300]
        assert all(entry["evaluations"] <= 300 for entry in results["B3 adaptive stopping"])
        assert all(entry["evaluations"] == 0 for entry in results["rrise, offset (paper)"])
    assert list(first["ablations"]["draws"]) == ["rrise, offset, n = 100", "B1, n = 100"]
    assert set(first["ablations"]["training"]) == {
        f"{s}, {loss}" for s in ("head", "full", "scratch") for loss in ("ce", "js")
    }
    assert list(first["shares"]) == ["0.25", "0.05", "0.01"]
    for alpha, rows in first["shares"].items():
        whole, at_beta, known = (rows[name][0] for name in ("B1", "B1 at β of scaled", "p known"))
        assert whole["share of B1"] == 100
        assert at_beta["share of B1"] >= known["share of B1"]
        assert (whole["points behind B1"], whole["beta"]) == (0, float(alpha))
        assert rows["p known, β best for it"][0]["share of B1"] >= known["share of B1"] - 0.5  # ranked by radius alone
        assert {rows[name][0]["beta"] for name in ("scaled", "B1 at β of scaled", "p known")} == {known["beta"]}
    assert "expected at least" in first["shares"]["0.01"]["scaled, training-conditional"][0]["refused"]
    assert first["shares"]["0.01"]["scaled, training-conditional"][0]["share of B1"] is None
    assert not first["shares"]["0.25"]["scaled, training-conditional"][0]["refused"]
    page = (tmp_path / "paper" / "tables.md").read_text()
    assert page.count("\n## ") == 11
    assert len(first["claims"]) == 6
    assert "- scaled, training-conditional, seed 100: refused: " in page


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    """The module of the shares, which lies beside the script, and that of the tables."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        importlib.import_module("paper.tables")
        return importlib.import_module("paper.shares")
    finally:
        sys.path.remove(str(SCRIPT.parent))


def counted(paper: ModuleType, images: int = 600, n: int = 1000) -> Any:
    """Return a run of two classes whose probabilities are known, with nothing but counts."""
    rng = np.random.default_rng(7)
    p = {"test": rng.beta(6, 1, images), "calibration": rng.beta(6, 1, images)}

    def draws(split: str, n: int) -> np.ndarray:
        k = rng.binomial(n, p[split])
        return np.stack([k, n - k], axis=1)

    counts = {name: draws("test", n) for name in ("estimation", "reference")}
    counts |= {"selection": draws("test", 100), "calibration": draws("calibration", n)}
    recipe = SimpleNamespace(sample=SimpleNamespace(n=n, sigma=0.25))
    return paper.SeedRun(1, recipe, SimpleNamespace(test=SimpleNamespace(labels=np.zeros(images, np.int64))), counts), p


LEVELS = {"beta": 0.01, "gamma": 0.04}


def test_a_surrogate_without_error_is_never_judged_by_what_it_was_calibrated_on(paper: ModuleType) -> None:
    run, p = counted(paper)
    before, predicted = paper.oracle(run, **LEVELS)
    truth = np.where(predicted == 0, p["test"], 1 - p["test"])
    assert np.mean(before.p_lower <= truth) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(truth))
    assert np.mean(before.label == 0) > 0.8
    worst = run.counts["reference"][:60, ::-1].copy()  # a tenth of the images: the other class in nearly all draws
    run.counts["reference"][:60] = worst
    after, _ = paper.oracle(run, **LEVELS)
    assert after.radius[60:].mean() < 0.5 * before.radius[60:].mean()
    run.counts["reference"][:] = counted(paper)[0].counts["reference"]
    run.counts["reference"][0] = run.counts["reference"][0, ::-1]
    one, _ = paper.oracle(run, **LEVELS)
    assert one.p_lower[0] == before.p_lower[0]  # its own reference has no part in its own bound


def test_more_draws_in_the_stores_are_thinned_to_the_tables_n(paper: ModuleType) -> None:
    """Runs keep ten times n of calibration and estimation draws; the tables' certifiers have n."""
    certifiers = importlib.import_module("paper.certifiers")
    many, _ = counted(paper, n=10_000)
    run = replace(many, recipe=SimpleNamespace(sample=SimpleNamespace(n=1000, sigma=0.25)))
    fixed, adaptive = certifiers.fixed_budget(run, 0.05, 1000), certifiers.adaptive(run, 0.05, 0.01)
    specific = certifiers.input_specific(run, 0.05, 0.01)
    assert set(fixed.evaluations.tolist()) == {1100}
    assert max(adaptive.evaluations.max(), specific.evaluations.max()) <= 1100
    assert adaptive.p_lower.max() <= fixed.p_lower.max() < certifiers.fixed_budget(many, 0.05, 10_000).p_lower.max()
    before, _ = paper.oracle(run, **LEVELS)
    assert before.p_lower.max() <= 0.01 ** (1 / 1000) * (1 + 1e-12)  # the cap of n draws, not of all there are


def test_what_p_itself_certifies_lies_below_all_but_gamma_of_the_bounds(paper: ModuleType) -> None:
    run, _ = counted(paper)
    found, predicted = paper.known(run, **LEVELS)
    p = run.counts["estimation"][np.arange(600), predicted] / 1000
    rng = np.random.default_rng(3)
    broken = np.mean([paper.clopper_pearson(rng.binomial(1000, p), 1000, 0.01) < found.p_lower for _ in range(200)])
    assert 0.02 < broken <= 0.04
    at_beta = paper.fixed_budget(run, 0.01, run.n)
    assert np.array_equal(predicted, cohen_select(run.counts["selection"]))
    assert 0.8 * at_beta.radius.mean() < found.radius.mean() < at_beta.radius.mean()
    (best, _), beta = paper.ceiling(run, 0.05)
    assert best.radius.mean() >= found.radius.mean()
    assert np.array_equal(best.radius, paper.known(run, beta=beta, gamma=round(0.05 * (1 - beta), 12))[0].radius)


def test_a_row_that_is_refused_says_why_and_its_seeds_are_named(paper: ModuleType) -> None:
    whole = {**dict.fromkeys(paper.KEPT, 1.0), "certified accuracy": [90.0, 80.0], "average certified radius": 0.4}
    given = paper._beside({**whole, "average certified radius": 0.3}, whole, 0.01)
    refused = paper._refused("expected at least 124 images")
    assert given["share of B1"] == pytest.approx(75)
    table = sys.modules["paper.tables"].shares({"some": [given, refused]}, [100, 200])
    assert "- some, seed 200: refused: expected at least 124 images" in table
    assert "seed 100" not in table
