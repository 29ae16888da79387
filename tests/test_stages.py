"""The stages refuse what would make a certificate mean something else: seen images, foreign counts, other networks."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_run import small_recipe

from rrise import stages
from rrise.calibration import levels
from rrise.calibration.conformal import CalibrateConfig
from rrise.images import ImageSet, Splits
from rrise.ledger import Ledger
from rrise.promise import promise
from rrise.recipe import Recipe
from rrise.runtime.bundle import BundleError, load_bundle
from rrise.runtime.certifier import Certifier
from rrise.stages.contenders import few_of
from rrise.targets.settings import ExecutionConfig, TargetsConfig
from rrise.targets.shards import encode_shard, shard_name
from rrise.targets.store import CountStore, CountTable
from rrise.training import checkpoint
from rrise.training.networks import load_network
from rrise.training.surrogate import FitConfig

Finished = tuple[Path, list[str]]
LOCAL = ExecutionConfig(threads=1)


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "digits"))


@pytest.fixture(scope="module")
def recipe(finished: Finished) -> Recipe:
    return small_recipe(finished[0])


@pytest.fixture(scope="module")
def splits(recipe: Recipe) -> Splits:
    return stages.load_splits(recipe.data)


def other_classifier(recipe: Recipe, splits: Splits, out: Path) -> Path:
    stages.train(splits.train, replace(recipe.train, epochs=1, seed=1), out, progress=False)
    return out


def calibrate(recipe: Recipe, splits: Splits, run: Path, **changes: Path) -> Path:
    parts = {"engine": run / "engine", "counts": run / "counts/calibration", "profile": run / "counts/train"} | changes
    config = replace(recipe.calibrate, n=0)  # as many draws as the counts have
    stages.calibrate(splits, config, parts["engine"], parts["counts"], parts["profile"], run / "again")
    return run / "again"


def test_equal_inputs_give_equal_bundles(recipe: Recipe, splits: Splits, copy: Path) -> None:
    again = calibrate(recipe, splits, copy)
    for name in ("offset", "scaled"):
        assert (again / name / "bundle.json").read_bytes() == (copy / "bundles" / name / "bundle.json").read_bytes()


def test_every_promise_becomes_a_bundle_that_loads(recipe: Recipe, splits: Splits, copy: Path) -> None:
    places = copy / "engine", copy / "counts/calibration", copy / "counts/train"
    classes = len(splits.calibration.classes)
    configs = {
        "bins": CalibrateConfig(curves=("binned",), gamma=0.249, guarantee="marginal"),
        "tested": CalibrateConfig(curves=("scaled",), gamma=0.249, guarantee="certified"),
        "shifted": CalibrateConfig(
            curves=("scaled",),
            gamma=0.399,
            guarantee="marginal",
            priors=(0.19, *(0.81 / (classes - 1),) * (classes - 1)),
        ),
        "split": CalibrateConfig(curves=("offset", "scaled"), alpha=0.25, guarantee="marginal"),
    }
    for name, config in configs.items():
        said = stages.calibrate(splits, config, *places, copy / name)
        for curve in config.curves:
            bundle = load_bundle(copy / name / curve)
            record = bundle.calibration
            assert record.guarantee == config.guarantee
            assert f"{record.guarantee} guarantee with beta" in bundle.statement
            assert record.certified is not None
            assert bool(record.bins) == (curve == "binned")
            assert record.priors == config.priors
            if config.alpha:
                assert promise(record.beta, record.gamma) == Fraction("0.25")
                assert record.error == 0.25
                assert f"beta = {record.beta:g}, gamma = {record.gamma:g}" in said
            else:
                assert (record.beta, record.gamma) == (config.beta, config.gamma)


def test_alpha_is_split_for_the_priors(splits: Splits, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    choose = levels.choose_levels

    def noted(*points: Any, **settings: Any) -> tuple[float, float]:
        asked.append(settings)
        return choose(*points, **settings)

    monkeypatch.setattr(levels, "choose_levels", noted)
    priors = (0.19, *(0.81 / 9,) * 9)
    config = CalibrateConfig(curves=("scaled",), alpha=0.45, guarantee="marginal", priors=priors)
    stages.calibrate(
        splits, config, copy / "engine", copy / "counts/calibration", copy / "counts/train", copy / "split"
    )
    (settings,) = asked
    assert settings["priors"] == priors
    assert settings["labels"].tolist() == splits.profile.labels.tolist()
    assert settings["classes"] == [int(np.sum(splits.calibration.labels == y)) for y in range(10)]
    record = load_bundle(copy / "split/scaled").calibration
    assert promise(record.beta, record.gamma) == Fraction("0.45")
    assert record.priors == priors


def test_what_alpha_and_priors_need_is_said(recipe: Recipe, splits: Splits, copy: Path) -> None:
    places = copy / "engine", copy / "counts/calibration"
    with pytest.raises(ValueError, match="profile: expected the training images' counts to choose beta by, got none"):
        stages.calibrate(splits, CalibrateConfig(curves=("offset",), alpha=0.25), *places, None, copy / "again")
    config = CalibrateConfig(guarantee="marginal", priors=(0.5, 0.5))
    with pytest.raises(ValueError, match="priors: expected one number for each of 10 classes, got 2"):
        stages.calibrate(splits, config, *places, copy / "counts/train", copy / "again")


def test_a_single_seen_calibration_image_is_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    seen = splits.calibration.images.copy()
    seen[7] = splits.train.images[3]  # the same picture under another name is the same picture
    mixed = replace(splits, calibration=ImageSet.from_arrays(seen, splits.calibration.labels, splits.train.classes))
    with pytest.raises(ValueError, match="got 1 of 150 that had"):
        calibrate(recipe, mixed, copy)
    assert not (copy / "again").exists()


def test_counts_of_another_classifier_are_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    other = other_classifier(recipe, splits, copy / "other")
    few = replace(recipe.sample, n=20)
    stages.sample(splits, "calibration", few, LOCAL, other, copy / "foreign", stream=0, progress=False)
    with pytest.raises(ValueError, match="expected counts of the classifier with sha256"):
        calibrate(recipe, splits, copy, counts=copy / "foreign")
    with pytest.raises(ValueError, match="expected counts of the classifier with sha256"):
        stages.fit(splits.train, recipe.fit, other, copy / "counts/train", copy / "new", progress=False)


def test_counts_of_another_sigma_are_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    louder = replace(recipe.sample, sigma=0.5, n=20)
    stages.sample(splits, "calibration", louder, LOCAL, copy / "classifier", copy / "loud", stream=0, progress=False)
    with pytest.raises(ValueError, match=r"counts: expected sigma=0\.25 .* got 0\.5"):
        calibrate(recipe, splits, copy, counts=copy / "loud")


def test_floating_point_noise_is_said_in_the_statement(recipe: Recipe, splits: Splits, copy: Path) -> None:
    loose = replace(recipe.sample, sampler="gaussian")
    stages.sample(splits, "calibration", loose, LOCAL, copy / "classifier", copy / "loose", stream=0, progress=False)
    again = calibrate(recipe, splits, copy, counts=copy / "loose")
    assert Certifier.load(again / "offset").statement.endswith("not of the computation.")
    assert "floating point" not in Certifier.load(copy / "bundles/offset").statement


def test_too_few_draws_name_the_number_needed(recipe: Recipe, splits: Splits, copy: Path) -> None:
    few = replace(recipe.sample, n=3)
    stages.sample(splits, "calibration", few, LOCAL, copy / "classifier", copy / "few", stream=0, progress=False)
    with pytest.raises(ValueError, match=r"n: expected at least 7 draws at beta 0\.01 .*largest radius"):
        calibrate(recipe, splits, copy, counts=copy / "few")


def test_an_engine_changed_after_export_is_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    engine = copy / "engine" / "engine.onnx"
    engine.write_bytes(engine.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="sha256"):
        calibrate(recipe, splits, copy)


def test_a_bundle_refuses_another_engine(recipe: Recipe, splits: Splits, copy: Path) -> None:
    stages.fit(
        splits.train,
        replace(recipe.fit, seed=9),
        copy / "classifier",
        copy / "counts/train",
        copy / "s2",
        progress=False,
    )
    stages.export(splits.train, recipe.export, recipe.plan, copy / "s2", copy / "e2")
    with pytest.raises(BundleError, match="re-run rrise calibrate"):
        Certifier.load(copy / "bundles/scaled", engine=copy / "e2")
    shutil.copy(copy / "e2/engine.onnx", copy / "bundles/scaled/engine.onnx")
    with pytest.raises(BundleError, match="re-run rrise calibrate"):
        Certifier.load(copy / "bundles/scaled")


def test_evaluation_refuses_another_classifier(recipe: Recipe, splits: Splits, copy: Path) -> None:
    other = other_classifier(recipe, splits, copy / "other")
    with pytest.raises(ValueError, match="the one that rrise offset was made from"):
        stages.evaluate(
            splits,
            recipe.evaluate,
            recipe.sample,
            LOCAL,
            copy / "bundles",
            other,
            copy / "counts",
            copy / "new",
            progress=False,
        )


def test_evaluation_refuses_test_images_that_were_used(recipe: Recipe, splits: Splits, copy: Path) -> None:
    for used in (splits.train, splits.calibration):
        reused = replace(splits, test=used.take(np.arange(5)))
        with pytest.raises(ValueError, match=r"test: expected images .* got 5 of 5"):
            stages.evaluate(
                reused,
                recipe.evaluate,
                recipe.sample,
                LOCAL,
                copy / "bundles",
                copy / "classifier",
                copy / "counts",
                copy / "new",
                progress=False,
            )


def test_a_precision_other_than_that_of_the_calibration_is_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    for change, field in (({"precision": "bfloat16"}, "precision"), ({"compile": True}, "compile")):
        with pytest.raises(ValueError, match=rf"sample\.{field}: expected .* as in the calibration counts"):
            stages.evaluate(
                splits,
                recipe.evaluate,
                replace(recipe.sample, **change),
                LOCAL,
                copy / "bundles",
                copy / "classifier",
                copy / "counts",
                copy / "new",
                progress=False,
            )
    assert not (copy / "new").exists()


def test_images_of_other_classes_are_refused(recipe: Recipe, splits: Splits, copy: Path) -> None:
    fewer = ImageSet.from_arrays(splits.test.images, splits.test.labels % 4, ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="expected 4 classes as in the images, got 10"):
        stages.sample(
            replace(splits, test=fewer), "test", recipe.sample, LOCAL, copy / "classifier", copy / "new", stream=0
        )
    assert not (copy / "new").exists()


def test_a_certificate_of_the_run_is_the_certifier_s(copy: Path, splits: Splits) -> None:
    """What the report counted is what a device would answer."""
    certificates = Certifier.load(copy / "bundles/scaled")(splits.test.images)
    right = (certificates.label == splits.test.labels) & (certificates.radius >= 0)
    assert f"{100 * right.mean():.1f}%" in (copy / "evaluation" / "table.md").read_text()


def test_nothing_is_left_when_one_of_two_curves_fails(recipe: Recipe, splits: Splits, copy: Path) -> None:
    before = sorted(copy.iterdir())
    counts = copy / "counts/calibration"
    with pytest.raises(ValueError, match="profile: expected"):
        stages.calibrate(splits, recipe.calibrate, copy / "engine", counts, None, copy / "again")
    assert sorted(copy.iterdir()) == before


def test_only_a_surrogate_is_exported(recipe: Recipe, splits: Splits, copy: Path) -> None:
    with pytest.raises(ValueError, match="written by `rrise fit`, got a classifier"):
        stages.export(splits.train, recipe.export, recipe.plan, copy / "classifier", copy / "new")


@pytest.mark.slow
def test_evaluation_takes_counts_by_uri(recipe: Recipe, splits: Splits, copy: Path) -> None:
    counts = f"file://{copy}/counts"
    stages.evaluate(
        splits,
        recipe.evaluate,
        recipe.sample,
        LOCAL,
        copy / "bundles",
        copy / "classifier",
        counts,
        copy / "new",
        rivals={"JS surrogate": copy / "rival/bundles/scaled"},
        progress=False,
    )
    assert (copy / "new/table.md").read_text() == (copy / "evaluation/table.md").read_text()


def test_every_contender_is_told_apart_and_timed(finished: Finished) -> None:
    run = finished[0]
    body = json.loads((run / "evaluation/metrics.json").read_text())
    names = [row["name"] for row in body["certifiers"]]
    monte_carlo, larger = ["Monte Carlo", "input-specific MC", "adaptive MC"], "Monte Carlo, n = 250"
    cascades = [f"cascade, {name}" for name in (monte_carlo[0], monte_carlo[2])]
    assert names == ["rrise offset", "rrise scaled", "JS surrogate", *monte_carlo, larger, *cascades]
    assert body["deployed"] == "rrise scaled"
    assert body["provenance"]["bundles"]["JS surrogate"] != body["provenance"]["bundles"]["rrise scaled"]
    passes = {row["name"]: row["forward_passes"] for row in body["certifiers"]}
    assert passes["input-specific MC"] <= passes["Monte Carlo"] == 120 < passes[larger] == 270
    timing = json.loads((run / "evaluation/timing.json").read_text())
    assert list(timing["others_ms"]) == monte_carlo[1:]
    assert [entry["name"] for entry in timing["break_even"]] == [*monte_carlo, larger]
    each = timing["monte_carlo_ms"][1] / 1000 / 120
    fitted = Ledger(run / "ledger").seconds("fit", "export", "calibrate")
    assert timing["offline_seconds"] == pytest.approx((300 * 100 + 150 * 300) * each + fitted)
    assert body["costs"]["targets"] == {"images": 300, "evaluations": 300 * 100}
    assert body["costs"]["calibration"] == {"images": 150, "evaluations": 150 * 300}
    assert body["costs"]["profile"] == {"images": 0, "evaluations": 0}
    report = (run / "evaluation/report.html").read_text()
    assert report.count("Calibration curve: ") >= 3


def test_targets_calibration_and_monte_carlo_have_draws_of_their_own(
    recipe: Recipe, splits: Splits, copy: Path
) -> None:
    """Bundles of 300 calibration draws meet Monte Carlo of 40, out of 80 of its stream."""
    run = copy / "evaluation"
    assert CountStore.open(copy / "counts/estimation").manifest.n == 250
    assert load_bundle(copy / "bundles/scaled").calibration.n == 300
    shutil.rmtree(copy / "counts/estimation")
    places = (copy / "bundles", copy / "classifier", copy / "counts", copy / "new")
    config, sampling = replace(recipe.evaluate, n_larger=80), replace(recipe.sample, n=40)
    stages.evaluate(splits, config, sampling, LOCAL, *places, progress=False)
    assert CountStore.open(copy / "counts/estimation").manifest.n == 80
    rows = {row["name"]: row for row in json.loads((copy / "new/metrics.json").read_text())["certifiers"]}
    before = {row["name"]: row for row in json.loads((run / "metrics.json").read_text())["certifiers"]}
    assert (rows["Monte Carlo"]["forward_passes"], rows["Monte Carlo, n = 80"]["forward_passes"]) == (60, 100)
    assert rows["Monte Carlo"]["average_certified_radius"] < rows["Monte Carlo, n = 80"]["average_certified_radius"]
    assert "40 others bound it" in rows["Monte Carlo"]["statement"]
    for name in ("rrise offset", "rrise scaled"):  # whatever Monte Carlo draws
        assert rows[name]["average_certified_radius"] == before[name]["average_certified_radius"]
    shutil.rmtree(copy / "counts/estimation")
    stages.evaluate(splits, replace(config, n_larger=0), sampling, LOCAL, *places[:3], copy / "one", progress=False)
    body = json.loads((copy / "one/metrics.json").read_text())
    assert not [row["name"] for row in body["certifiers"] if row["name"].startswith("Monte Carlo, n")]
    assert body["larger_baseline"] is None


def test_counts_of_another_number_of_draws_are_refused_where_one_is_asked_for(
    recipe: Recipe, splits: Splits, copy: Path
) -> None:
    places = copy / "engine", copy / "counts/calibration", copy / "counts/train"
    for change, got in (({"n": 100}, 300), ({"profile_n": 300}, 100)):
        (name, wanted), *_ = change.items()
        with pytest.raises(
            ValueError, match=rf"{name}: expected counts of {wanted} draws an image, got counts of {got}"
        ):
            stages.calibrate(splits, replace(recipe.calibrate, **change), *places, copy / "again")
    with pytest.raises(ValueError, match=r"profile: expected counts of the 300 images .* got none of 300 in .*--split"):
        stages.calibrate(splits, recipe.calibrate, *places[:2], copy / "counts/calibration", copy / "again")
    assert not (copy / "again").exists()
    stages.calibrate(splits, replace(recipe.calibrate, n=300, profile_n=100), *places, copy / "again")
    assert (copy / "again/scaled/bundle.json").read_bytes() == (copy / "bundles/scaled/bundle.json").read_bytes()


def test_the_smaller_budget_is_a_part_of_the_larger_one() -> None:
    many = np.random.default_rng(0).multinomial(1000, [0.7, 0.2, 0.1], 4000)
    few = few_of(many, 100, seed=3)
    assert np.all(few.sum(axis=1) == 100)
    assert np.all(few <= many)
    np.testing.assert_array_equal(few, few_of(many, 100, seed=3))
    assert np.any(few != few_of(many, 100, seed=4))
    assert few_of(many, 1000, seed=3) is many
    # In law n draws: mean and variance of a binomial's, within 6 standard errors.
    assert abs(few[:, 0].mean() - 70) < 6 * np.sqrt(21 / 4000)
    assert abs(few[:, 0].var() / 21 - 1) < 6 * np.sqrt(2 / 4000)


@pytest.mark.slow
def test_a_rival_is_judged_by_its_own_engine(recipe: Recipe, splits: Splits, copy: Path) -> None:
    """A rival's calibration points are what its own engine says of the calibration images."""
    from rrise.evaluation import report

    views = {}
    plain = report.write_report

    def keep(*arguments: Any, calibrations: Any, **more: Any) -> Path:
        views.update({view.name: view for view in calibrations})
        return plain(*arguments, calibrations=calibrations, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", keep)
        places = (copy / "bundles", copy / "classifier", copy / "counts", copy / "new")
        rivals = {"other": copy / "rival/bundles/scaled"}
        stages.evaluate(splits, recipe.evaluate, recipe.sample, LOCAL, *places, rivals=rivals, progress=False)
    for name, bundle in (("rrise scaled", "bundles/scaled"), ("other", "rival/bundles/scaled")):
        certifier = Certifier.load(copy / bundle)
        q = [float(certifier(image).q[0]) for image in splits.calibration.images]
        np.testing.assert_array_equal(views[name].q, q)
        assert np.mean(views[name].p_lower < np.interp(q, views[name].knots_q, views[name].knots_p)) < 0.25
    assert not np.allclose(views["other"].q, views["rrise scaled"].q)
    assert views["rrise offset"].q is views["rrise scaled"].q  # one engine is asked once
    assert "paid back in time" not in (copy / "new/report.html").read_text()  # nobody said what the fit took


def test_a_rival_may_not_take_a_name_that_is_taken(recipe: Recipe, splits: Splits, copy: Path) -> None:
    places = (copy / "bundles", copy / "classifier", copy / "counts", copy / "new")
    for name in ("rrise scaled", "Monte Carlo"):
        rivals = {name: copy / "rival/bundles/scaled"}
        with pytest.raises(ValueError, match=f"rival: expected other names than {name}"):
            stages.evaluate(splits, recipe.evaluate, recipe.sample, LOCAL, *places, rivals=rivals, progress=False)


def test_counts_of_another_number_of_draws_never_calibrate(recipe: Recipe, splits: Splits, copy: Path) -> None:
    store = CountStore.open(copy / "counts/calibration")
    table = store.table()
    fewer = table.counts.copy()
    fewer[3, fewer[3].argmax()] -= 1  # an image whose draws stopped early, in a shard that says otherwise
    uneven = CountTable(table.ids, table.labels, fewer.sum(axis=1, dtype=np.int64), fewer)
    first = uneven.rows(table.ids[: store.manifest.size(0)])
    with pytest.raises(ValueError, match="expected n=300 draws of each image in shard 0, got 299"):
        store.write(0, first)
    store.folder.publish(shard_name(0), encode_shard(first, 0, store.manifest))
    with pytest.raises(ValueError, match="expected n=300 draws of every image, as the manifest says, got 299 of 1 im"):
        calibrate(recipe, splits, copy)
    assert not (copy / "again").exists()
    every = replace(table, n=table.n - 1, counts=table.counts - (np.arange(10) == table.counts.argmax(1)[:, None]))
    for shard in range(store.shards):
        part = every.rows(table.ids[100 * shard : 100 * (shard + 1)])
        store.folder.publish(shard_name(shard), encode_shard(part, shard, store.manifest))
    with pytest.raises(ValueError, match="got 299 of 150 images"):  # all alike, and not what was asked for
        calibrate(recipe, splits, copy)


def test_counts_of_views_are_fitted_and_never_calibrate(
    recipe: Recipe, splits: Splits, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = TargetsConfig(views=3, n=4, shift=1)
    where = copy / "classifier", copy / "views"
    for split, stream in (("calibration", 0), ("test", 3), ("targets", 3)):
        with pytest.raises(ValueError, match=f"targets: expected no settings of targets for counts of the {split}"):
            stages.sample(splits, split, recipe.sample, LOCAL, *where, stream=stream, targets=targets)
    said = stages.sample(splits, "targets", recipe.sample, LOCAL, *where, stream=0, targets=targets, progress=False)
    assert said.startswith("300 images × 3 views × 4 draws in ")
    parts = (splits.targets, FitConfig(), copy / "classifier", copy / "views")
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    whole = stages.fit(*parts, copy / "whole", progress=False)
    for fact in ("strategy full", "3 epochs over 3 of 3 views", "on the 15 images held out, agreement"):
        assert fact in whole
    # A fit that ends in the middle leaves no artifact, and the next one goes on where it was.
    asked: list[int] = []
    real = CountStore.table

    def table(store: CountStore, view: int = 0) -> CountTable:
        asked.append(view)
        if len(asked) == 6:  # three views for the digest, and two of the passes
            raise KeyboardInterrupt
        return real(store, view)

    monkeypatch.setattr(CountStore, "table", table)
    with pytest.raises(KeyboardInterrupt):
        stages.fit(*parts, copy / "resumed", progress=False)
    assert asked == [0, 1, 2, 0, 1, 2]
    assert not (copy / "resumed").exists()
    assert (copy / ".resumed.partial").is_dir()
    stages.fit(*parts, copy / "resumed", progress=False)
    assert asked[6:] == [0, 1, 2, 0, 2, 0, 1, 2]  # the digest, the last pass, and the judgement
    assert not (copy / ".resumed.partial").exists()
    one, other = (load_network(copy / name) for name in ("whole", "resumed"))
    assert one.sha256 == other.sha256
    assert one.facts == other.facts
    with pytest.raises(ValueError, match="expected counts of the images themselves, in passes of their own, got 3 vi"):
        calibrate(recipe, splits, copy, counts=copy / "views")
