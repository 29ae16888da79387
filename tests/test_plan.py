"""What a plan says agrees with what sampling then does."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from shared_run import small_recipe

from rrise import stages
from rrise.stages import build
from rrise.stages.plan import Probe
from rrise.stages.workers import local_network
from rrise.targets.settings import DrawsConfig, ExecutionConfig, TargetsConfig

module = importlib.import_module("rrise.stages.plan")  # the package has a function of that name
LOCAL = ExecutionConfig(threads=1)


def test_a_plan_measures_and_writes_nothing(finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.2)
    run = finished[0]
    recipe = small_recipe(run)
    splits = stages.load_splits(recipe.data)
    where = (run / "classifier", tmp_path / "new")
    said = stages.plan(splits, "train", recipe.sample, LOCAL, *where, stream=0)
    assert said.startswith("evaluations   30,000 (300 images, n = 100), 30,000 of them still to do")
    assert int(re.search(r": ([\d,]+) a second", said)[1].replace(",", "")) > 100
    # 300 x 100 draws and, of Monte Carlo's usual 1,000, 150 x 10,000, against 1,000 + 100 less a surrogate's one pass
    assert "break-even    after 1,393 certificates: 300 targets × 100 draws, 150 calibration images × 10,000" in said
    draws = DrawsConfig(targets=7, calibration=500, monte_carlo=200)
    said = stages.plan(splits, "train", recipe.sample, LOCAL, *where, stream=0, draws=draws)
    # (300 x 7 + 150 x 500) / 299
    assert (
        "after 258 certificates: 300 targets × 7 draws, 150 calibration images × 500 draws, paid once, against" in said
    )
    draws = DrawsConfig(targets=7, monte_carlo=200)
    said = stages.plan(splits, "calibration", recipe.sample, LOCAL, *where, stream=0, draws=draws)
    assert (
        "after 58 certificates: 300 targets × 7 draws, 150 calibration images × 100 draws, paid once, against" in said
    )
    assert list(tmp_path.iterdir()) == []
    settings = {"stream": 0, "targets": recipe.targets}
    done = stages.plan(splits, "train", recipe.sample, LOCAL, run / "classifier", run / "counts/train", **settings)
    assert "30,000 (300 images, n = 100), 0 of them still to do" in done
    views = TargetsConfig(views=5, n=4, shift=1)
    said = stages.plan(splits, "targets", recipe.sample, LOCAL, *where, stream=0, targets=views)
    assert said.startswith("evaluations   6,000 (300 images, 5 views each, n = 4), 6,000 of them still to do")
    assert "in 5 shards" in said
    assert "--shard-size" not in said  # a view is no longer than that
    assert "after 1,371 certificates: 300 targets × 20 draws, 150 calibration images × 10,000 draws" in said
    for split, stream in (("calibration", 0), ("test", 3), ("train", 3)):
        with pytest.raises(ValueError, match=f"targets: expected no settings of targets for counts of the {split}"):
            stages.plan(splits, split, recipe.sample, LOCAL, *where, stream=stream, targets=views)
    other = {"stream": 0, "targets": replace(recipe.targets, n=50)}
    with pytest.raises(ValueError, match="was sampled with n=100, not n=50"):
        stages.plan(splits, "train", recipe.sample, LOCAL, run / "classifier", run / "counts/train", **other)


def test_a_plan_for_ray_scales_from_one_worker(
    finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(finished[0], "sample.shard_size=100")
    splits = stages.load_splits(recipe.data)
    images = splits.train
    manifest = build.manifest_of(images, recipe.sample, local_network(finished[0] / "classifier"), stream=0)
    found = Probe(images=10, evaluations=1000, seconds=10.0, bytes=2_000)
    lines = module._lines(recipe.sample, ExecutionConfig("ray"), manifest, found, manifest.shards)
    times = [line for line in lines if line.startswith("time")]
    assert [line.split(": ")[1].split(" (")[0] for line in times] == [
        "5 min, 0.0833 worker-hours",
        "38 s, 0.0833 worker-hours",
        "5 s, 0.0833 worker-hours",
        "1 s, 0.0833 worker-hours",
    ]
    assert "a shard       100.0 s; 5 to 60 s is good: --shard-size 20 would take 20 s" in lines
    assert any(line.startswith("counts        about 59 kB in 3 shards") for line in lines)
