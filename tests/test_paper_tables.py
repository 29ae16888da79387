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
from rrise.ledger import tree_sha256

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "paper_tables.py"
SMALL = [
    "train.epochs=2",
    "data.train=300",
    "data.calibration=300",
    "data.test=60",
    "sample.n=100",
    "sample.batch_size=100",
    "targets.views=3",
    "targets.n=20",
    "targets.shift=1",
    "fit.held_out=0",
    "calibrate.guarantee=marginal",
    "calibrate.cascade=0",
    "evaluate.n_reference=200",
    "evaluate.latency_images=2",
    "evaluate.latency_repeats=1",
]


def tables(folder: Path, *more: str) -> tuple[str, dict[str, Any]]:
    places = ["--out", folder / "runs", "--results", folder / "results", "--name", "some"]
    command = [sys.executable, SCRIPT, "--recipe", "digits", "--seeds", "100", *places, *more, "--set", *SMALL]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "results" / "some" / "seed-100.json").read_text())


@pytest.mark.slow
def test_tables_are_made_and_made_again_without_work(tmp_path: Path) -> None:
    said, first = tables(tmp_path)
    assert said.count("surrogate JS: ") == 1
    page = tmp_path / "results" / "some.md"
    before = tree_sha256(tmp_path / "runs" / "seed-100" / "surrogates"), page.read_text()
    again, second = tables(tmp_path)
    assert "surrogate JS" not in again
    assert "done before, kept" in again
    assert first == second
    page.unlink()
    only, _ = tables(tmp_path, "--only-tables")
    assert only.strip() == str(page)
    assert before == (tree_sha256(tmp_path / "runs" / "seed-100" / "surrogates"), page.read_text())
    assert list(first["alphas"]) == ["0.25", "0.05", "0.01"]
    for alpha, parts in first["alphas"].items():
        every = {name: entry for part in parts.values() for name, entry in part.items() if not entry["refused"]}
        few, many = parts["certifiers"]["B1"], parts["certifiers"]["B1, n = 1,000"]
        assert (few["share of B1"], few["points behind B1"], few["evaluations"]) == (pytest.approx(100), 0, 200)
        assert (many["share of larger B1"], many["evaluations"]) == (pytest.approx(100), 1100)
        assert all(entry["promised"] <= 100 * float(alpha) + 1e-9 for entry in every.values())
        assert all(
            name.startswith(("B", "rrise, cascade", "cascade")) or e["evaluations"] == 0 for name, e in every.items()
        )
        for name, entry in every.items():
            own = [each["break-even"] for each in (entry,) if entry["offline"]]
            assert own == [] or own[0] > 0, name
        one = parts["certifiers"]["rrise"]
        assert parts["ladder"]["all, 10 n draws"] == one
        assert one["offline"] == 3 * 20 * 300 + 300 * 1000
    strict = first["alphas"]["0.01"]["ladder"]["all, 10 n draws, training-conditional"]
    assert "expected at least" in strict["refused"]
    assert "share of B1" not in strict
    assert "- all, 10 n draws, training-conditional, seed 100: refused: " in page.read_text()
    assert before[1].count("\n## ") == 6


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    """The module of a seed's rows, which lies beside the script, and that of the tables."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        importlib.import_module("paper.tables")
        return importlib.import_module("paper.ladder")
    finally:
        sys.path.remove(str(SCRIPT.parent))


def counted(paper: ModuleType, images: int = 600, n: int = 1000, times: int = 1) -> Any:
    """Return a run of two classes whose probabilities are known, with nothing but counts."""
    rng = np.random.default_rng(7)
    p = {"test": rng.beta(6, 1, images), "calibration": rng.beta(6, 1, images)}

    def draws(split: str, n: int) -> np.ndarray:
        k = rng.binomial(n, p[split])
        return np.stack([k, n - k], axis=1)

    counts = {name: draws("test", times * n) for name in ("estimation", "reference")}
    counts |= {"selection": draws("test", 100), "calibration": draws("calibration", times * n)}
    counts["profile"] = counts["calibration"]
    recipe = SimpleNamespace(sample=SimpleNamespace(n=n, sigma=0.25))
    splits = SimpleNamespace(
        test=SimpleNamespace(labels=np.zeros(images, np.int64)), calibration=SimpleNamespace(__len__=lambda: images)
    )
    return paper.SeedRun(1, recipe, splits, counts)


def test_more_draws_in_the_stores_are_thinned_to_what_a_row_has(paper: ModuleType) -> None:
    """Runs keep ten times n of calibration and estimation draws; a certifier has those that it is said to have."""
    certifiers = importlib.import_module("paper.certifiers")
    run = counted(paper, times=10)
    assert (run.n, run.larger, run.draws) == (1000, 10_000, 10_000)
    fixed, adaptive = certifiers.fixed_budget(run, 0.05, 1000), certifiers.adaptive(run, 0.05, 0.01)
    specific = certifiers.input_specific(run, 0.05, 0.01)
    assert set(fixed.evaluations.tolist()) == {1100}
    assert max(adaptive.evaluations.max(), specific.evaluations.max()) <= 1100
    assert adaptive.p_lower.max() <= fixed.p_lower.max() < certifiers.fixed_budget(run, 0.05, 10_000).p_lower.max()
    label, q = np.zeros(600, np.int64), run.counts["reference"][:, 0] / 10_000
    answers = SimpleNamespace(calibration=(np.where(q > 0.5, 0, -1), q), profile=(label, q))
    few, many = (run.points(answers, "calibration", n) for n in (1000, 10_000))
    assert (set(few.n), set(many.n)) == ({1000}, {10_000})
    assert not few.k[q <= 0.5].any()  # no class, no agreeing draw
    assert np.abs(few.k - many.k / 10)[q > 0.5].max() < 100
    shape = run.points(answers, "profile", 3000)
    assert set(shape.n) == {3000}
    assert np.array_equal(shape.k, np.rint(0.3 * run.counts["profile"][:, 0]))


def test_what_p_itself_certifies_lies_below_all_but_gamma_of_the_bounds(paper: ModuleType) -> None:
    run = counted(paper)
    found, predicted = paper.known(run, 0.01, 0.04, 1)
    p = run.counts["estimation"][np.arange(600), predicted] / 1000
    rng = np.random.default_rng(3)
    broken = np.mean([paper.clopper_pearson(rng.binomial(1000, p), 1000, 0.01) < found.p_lower for _ in range(200)])
    assert 0.02 < broken <= 0.04
    at_beta = paper.fixed_budget(run, 0.01, run.n)
    assert np.array_equal(predicted, cohen_select(run.counts["selection"]))
    assert 0.8 * at_beta.radius.mean() < found.radius.mean() < at_beta.radius.mean()
    (best, _), beta, promised = paper.ceiling(run, 0.05, 1)
    assert promised == 0.05
    assert best.radius.mean() >= found.radius.mean()
    assert np.array_equal(best.radius, paper.known(run, *paper.spent(0.05, beta), 1)[0].radius)


def test_a_row_that_is_refused_says_why_and_its_seeds_are_named(paper: ModuleType) -> None:
    def given() -> dict[str, Any]:
        return {"average certified radius": 0.3, "certified accuracy": [80.0], "offline": 4000, "evaluations": 0.0}

    def refused() -> dict[str, Any]:
        raise ValueError("expected at least 124 images")

    whole = {"average certified radius": 0.4, "certified accuracy": [90.0], "evaluations": 1100.0}
    rows = [paper._or_why(make) for make in (given, refused)]
    for row in rows:
        paper._beside(row, whole, None)
    assert rows[0]["share of B1"] == pytest.approx(75)
    assert rows[0]["points behind B1"] == 10
    assert rows[0]["break-even"] == 4  # whole certificates, of 4,000 / 1,099
    table = sys.modules["paper.tables"].rows({"some": rows}, [100, 200])
    assert "- some, seed 200: refused: expected at least 124 images" in table
    assert "seed 100" not in table


def test_a_method_that_adds_promises_the_sum(paper: ModuleType) -> None:
    """The paper's way spends alpha as beta + gamma, and the rows say so."""
    method = replace(paper.LEVERS[paper.PAPER])
    assert (method.surrogate, method.curve, method.times, method.added) == ("head", "offset", 1, True)
    assert method.levels(counted(paper), SimpleNamespace(), 0.25) == (0.001, 0.249)
