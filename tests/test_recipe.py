"""The whole road on a small scale: what is done is kept, what changed is redone or refused, nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
from shared_run import small_recipe as small

from rrise.recipe import load_recipe, run
from rrise.targets.store import CountStore


@pytest.fixture
def copy(finished: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "digits"))


def heads(said: list[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in said)


def test_every_artifact_is_there(finished: tuple[Path, list[str]]) -> None:
    out, said = finished
    assert [line.split(":")[0] for line in said] == [
        "data", "train", "sample-train", "sample-calibration", "fit", "export", "calibrate",
        "rival-fit", "rival-export", "rival-calibrate", "sample-selection",
        "sample-estimation", "sample-reference", "evaluate",
    ]  # fmt: skip
    for name in ("classifier", "surrogate", "engine", "bundles/offset", "bundles/scaled", "rival/bundles/scaled"):
        assert (out / name).is_dir()
    for name in ("report.html", "table.md", "metrics.json"):
        assert (out / "evaluation" / name).stat().st_size > 500
    assert not (out / "superseded").exists()


def test_a_second_run_keeps_everything(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    said: list[str] = []
    run(small(copy), say=said.append, progress=False)
    assert all(line.endswith("done before, kept") for line in said[1:])
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_two_runs_give_the_same_table(finished: tuple[Path, list[str]], copy: Path) -> None:
    run(small(copy), redo="fit", say=lambda _: None, progress=False)
    assert (copy / "superseded").is_dir()
    assert (copy / "evaluation" / "metrics.json").read_text() == (
        finished[0] / "evaluation" / "metrics.json"
    ).read_text()


@pytest.mark.slow
def test_a_changed_level_is_calibrated_again_and_the_old_bundles_kept(copy: Path) -> None:
    said: list[str] = []
    run(small(copy, "calibrate.gamma=0.3"), say=said.append, progress=False)
    lines = [line for line in said if line.startswith("calibrate")]
    assert "calibrate.gamma was 0.2, now 0.3" in lines[0]
    assert (copy / "superseded" / "calibrate-1" / "scaled" / "bundle.json").is_file()
    assert heads(said)["fit"] == "done before, kept"


def test_costly_work_is_refused_with_both_values_named(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"sample\.sigma was 0\.25, now 0\.5.*--redo sample"):
        run(small(copy, "sample.sigma=0.5"), say=lambda _: None, progress=False)
    assert CountStore.open(copy / "counts" / "train").manifest.sigma == 0.25


@pytest.mark.slow
def test_more_reference_draws_leave_the_other_counts_alone(copy: Path) -> None:
    said: list[str] = []
    run(small(copy, "evaluate.n_reference=400"), say=said.append, progress=False)
    now = heads(said)
    assert all(now[f"sample-{name}"] == "done before, kept" for name in ("train", "calibration", "estimation"))
    assert CountStore.open(copy / "counts/reference").manifest.n == 400
    assert CountStore.open(copy / "superseded/sample-reference-1").manifest.n == 300


def test_fewer_draws_of_monte_carlo_alone_cost_one_evaluation(copy: Path) -> None:
    """Targets and calibration images keep draws of their own, and the larger budget holds the smaller one."""
    said: list[str] = []
    run(small(copy, "sample.n=60", "targets.n=100"), say=said.append, progress=False)
    made = [line.split(":")[0] for line in said[1:] if not line.endswith("done before, kept")]
    assert set(made) == {"evaluate"}
    assert any("sample.n was 100, now 60" in line for line in said)
    assert "| Monte Carlo  " in (table := (copy / "evaluation/table.md").read_text())
    assert "60 others bound it" in table


def test_a_damaged_artifact_is_noticed(copy: Path) -> None:
    weights = copy / "classifier" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"sha256 of .*classifier"):
        run(small(copy), say=lambda _: None, progress=False)


def test_missing_shards_are_sampled_again_and_only_those(copy: Path) -> None:
    shards = sorted((copy / "counts" / "train").glob("*.parquet"))
    assert len(shards) >= 2
    kept = {path: path.stat().st_mtime_ns for path in shards[1:]}
    content = shards[0].read_bytes()
    shards[0].unlink()
    (copy / "ledger" / "sample-train.json").unlink()
    said: list[str] = []
    run(small(copy), say=said.append, progress=False)
    assert f"(1 of {len(shards)} shards sampled now)" in heads(said)["sample-train"]
    assert shards[0].read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in shards[1:]} == kept


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sample.sigmaa=1"], "unknown key sample.sigmaa. Known: sigma, n,"),
        (["colour=1"], "unknown key colour. Known: out, data,"),
        (["sample.sigma=-1"], "sigma"),
        (["sample.n=many"], "sample.n: .*got 'many'"),
        (["sample"], "--set: expected key=value"),
        (["out.deep=1"], "expected out to be a table"),
    ],
    ids=["unknown key", "unknown table", "value out of range", "wrong type", "no equals sign", "not a table"],
)
def test_bad_overrides(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("digits", overrides)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"one of .*digits"):
        load_recipe("nothing")
    broken = tmp_path / "broken.toml"
    broken.write_text("out = ")
    with pytest.raises(ValueError, match="syntax error"):
        load_recipe(str(broken))
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    with pytest.raises(ValueError, match="key out is missing"):
        load_recipe(str(empty))


def test_an_unknown_stage_to_redo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="redo: expected one of train, sample"):
        run(small(tmp_path), redo="fitt")


@pytest.mark.slow
def test_a_run_fits_to_views_and_keeps_what_is_done(tmp_path: Path) -> None:
    views = ("targets.views=4", "targets.n=20", "targets.shift=1", "fit.epochs=[]")
    said: list[str] = []
    run(small(tmp_path / "digits", *views), say=said.append, progress=False)
    assert any(line.startswith("sample-train: 300 images × 4 views × 20 draws in ") for line in said)
    assert any(line.startswith("fit: strategy full, ") and "4 epochs over 4 of 4 views" in line for line in said)
    costs = json.loads((tmp_path / "digits/evaluation/metrics.json").read_text())["costs"]
    assert costs["targets"] == {"images": 300, "evaluations": 300 * 4 * 20}
    again: list[str] = []
    run(small(tmp_path / "digits", *views), say=again.append, progress=False)
    assert all(line.endswith("done before, kept") for line in again[1:])
    with pytest.raises(ValueError, match=r"sample-train: .* does not fit this recipe \(targets\.shift was 1, now 2\)"):
        run(small(tmp_path / "digits", *views, "targets.shift=2"), say=again.append, progress=False)
