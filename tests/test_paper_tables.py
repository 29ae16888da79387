"""The script of the paper's tables, on the digits with so little of everything that it takes a minute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    limits = first["limits"]
    for alpha in ("0.25", "0.05", "0.01"):
        whole, at_beta = (limits[f"alpha = {alpha}: {name}"][0] for name in ("B1", "B1 at beta = 0.001"))
        assert whole["share of B1"] == 100 >= at_beta["share of B1"]
    assert "alpha = 0.05: scaled, beta = 0.01, marginal" in limits
    page = (tmp_path / "paper" / "tables.md").read_text()
    assert page.count("\n## ") == 11
    assert len(first["claims"]) == 6
