"""What is deployed is what was calibrated: each engine and precision has its own curve, and a table says its price."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shared_run import small_recipe

from rrise import stages
from rrise.evaluation.engines import EnginesConfig
from rrise.images import Splits
from rrise.recipe import Recipe
from rrise.runtime import BundleError, Certifier, load_bundle
from rrise.training.export import ExportConfig

Finished = tuple[Path, list[str]]
CONFIG = EnginesConfig(timed_images=5, repeats=2)


@pytest.fixture(scope="module")
def recipe(finished: Finished) -> Recipe:
    return small_recipe(finished[0])


@pytest.fixture(scope="module")
def splits(recipe: Recipe) -> Splits:
    return stages.load_splits(recipe.data)


@pytest.fixture(scope="module")
def other(finished: Finished, recipe: Recipe, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same surrogate in int8 (by OpenVINO where it is installed), calibrated from the counts that are there."""
    try:
        import openvino  # noqa: F401

        kind = "openvino"
    except ImportError:
        kind = "onnxruntime"
    run, out = finished[0], tmp_path_factory.mktemp("other")
    stages.export(splits.train, ExportConfig(kind, "int8"), recipe.plan, run / "surrogate", out / "engine")
    before = {path: path.stat().st_mtime_ns for path in (run / "counts").rglob("*")}
    stages.calibrate(
        splits,
        recipe.calibrate,
        out / "engine",
        run / "counts" / "calibration",
        run / "counts" / "train",
        out / "bundles-int8",
    )
    assert {path: path.stat().st_mtime_ns for path in (run / "counts").rglob("*")} == before  # nothing was sampled
    return out


@pytest.mark.slow
def test_another_precision_has_its_own_curve(finished: Finished, other: Path) -> None:
    ours, theirs = (load_bundle(folder / "scaled") for folder in (finished[0] / "bundles", other / "bundles-int8"))
    assert (ours.engine.precision, theirs.engine.precision) == ("float32", "int8")
    assert ours.engine.sha256 != theirs.engine.sha256
    assert ours.calibration.t != theirs.calibration.t
    assert ours.reference.logits.shape == theirs.reference.logits.shape == (4, 10)
    assert abs(ours.reference.logits - theirs.reference.logits).max() > ours.reference.tolerance
    assert theirs.reference.runtime.split()[0] == theirs.engine.kind


@pytest.mark.slow
def test_a_swapped_engine_is_refused_until_it_is_calibrated(finished: Finished, other: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(finished[0] / "bundles" / "scaled", tmp_path / "b")
    shutil.copyfile(other / "engine" / "engine.onnx", bundle / "engine.onnx")
    with pytest.raises(BundleError, match=r"only for the calibrated engine; re-run rrise calibrate"):
        Certifier.load(bundle)
    assert Certifier.load(other / "bundles-int8" / "scaled").engine.precision == "int8"


@pytest.mark.slow
def test_the_table_says_what_each_precision_costs(
    finished: Finished, other: Path, splits: Splits, tmp_path: Path
) -> None:
    places = [finished[0] / "bundles", other / "bundles-int8"]
    said = stages.engines(splits, CONFIG, places, tmp_path / "engines")
    assert said.startswith("4 bundles compared")
    table = json.loads((tmp_path / "engines" / "engines.json").read_text())
    rows = {row["bundle"]: row for row in table["bundles"]}
    assert list(rows) == ["bundles/offset", "bundles/scaled", "bundles-int8/offset", "bundles-int8/scaled"]
    assert [row["precision"] for row in rows.values()] == ["float32", "float32", "int8", "int8"]
    assert rows["bundles/scaled"]["label_changes"] == 0
    truth = json.loads((finished[0] / "evaluation" / "metrics.json").read_text())
    known = next(row for row in truth["certifiers"] if row["name"] == "rrise scaled")
    assert rows["bundles/scaled"]["average_certified_radius"] == pytest.approx(known["average_certified_radius"])
    assert rows["bundles/scaled"]["abstention"] == known["abstention"]
    sizes = [row["engine_bytes"] for row in rows.values()]
    assert sizes[0] == (finished[0] / "engine" / "engine.onnx").stat().st_size > sizes[2]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows.values())
    markdown = (tmp_path / "engines" / "engines.md").read_text().splitlines()
    assert len(markdown) == 8
    assert len({line.count("|") for line in markdown[2:]}) == 1
    with pytest.raises(FileExistsError):
        stages.engines(splits, CONFIG, places, tmp_path / "engines")


def test_what_cannot_be_compared_is_refused(finished: Finished, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected folders written by `rrise calibrate` in .*empty, got none"):
        stages.engines(splits, CONFIG, [tmp_path / "empty"], tmp_path / "out")
    twice = [finished[0] / "bundles", shutil.copytree(finished[0] / "bundles", tmp_path / "copy" / "bundles")]
    with pytest.raises(ValueError, match="different names, got 6 bundles"):
        stages.engines(splits, CONFIG, twice, tmp_path / "out")
    golden = Path(__file__).parent / "golden" / "bundle-1"
    with pytest.raises(ValueError, match="one sigma, one set of classes and one classifier, got 2 different ones"):
        stages.engines(splits, CONFIG, [finished[0] / "bundles" / "scaled", golden], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="repeats: expected at least 1, got 0"):
        replace(CONFIG, repeats=0)
