"""Stages refuse what their guarantee does not cover, one thing at a time: images, counts, noise, networks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_run import CALIBRATE, LOCAL, LOW, SAMPLE, WEIGHTS, LinearRun, images
from reference_engines import linear_engine

from rrise import stages
from rrise.evaluation.engines import EnginesConfig
from rrise.evaluation.settings import EvaluateConfig
from rrise.images import DataConfig, ImageSet, Splits, load_splits
from rrise.runtime.bundle import load_bundle
from rrise.targets.settings import TargetsConfig
from rrise.targets.store import CountStore
from rrise.training.seen import SeenConfig

UNSEEN = SeenConfig(unseen_by_classifier=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LinearRun:
    made = LinearRun.make(tmp_path_factory.mktemp("linear"))
    made.calibrate("bundles")
    return made


def with_one_of(own: ImageSet, other: ImageSet) -> ImageSet:
    """The same images but for the fourth, which is one of another set."""
    pixels = own.images.copy()
    pixels[3] = other.images[5]
    return ImageSet.from_arrays(pixels, own.labels, own.classes)


# Calibration


def test_a_calibration_image_that_trained_is_refused(run: LinearRun) -> None:
    mixed = replace(run.splits, calibration=with_one_of(run.splits.calibration, run.splits.train))
    with pytest.raises(ValueError, match=r"^calibration: expected images that had no part in .*, got 1 of 60 that had"):
        run.calibrate("seen", mixed)
    low = run.sample("calibration", "unseen-low", sigma=LOW)
    with pytest.raises(ValueError, match=r"^calibration: expected images that had no part in .*, got 1 of 60 that had"):
        run.calibrate_levels("seen", [low, run.counts / "calibration"], [], mixed)
    assert not (run.folder / "seen").exists()


def test_a_calibration_image_that_shapes_the_curve_is_refused(run: LinearRun) -> None:
    """Even where it trained nothing, as images of a profile may."""
    mixed = replace(run.splits, train=with_one_of(images(4, 60), run.splits.calibration))
    with pytest.raises(ValueError, match=r"^calibration: expected images that had no part in .*, got 1 of 60 that had"):
        run.calibrate("shaped", mixed)


def test_calibration_counts_of_another_classifier_are_refused(run: LinearRun) -> None:
    other = run.folder / "other.onnx"
    other.write_bytes(linear_engine(1.5 * WEIGHTS, np.zeros(3)))
    with pytest.raises(ValueError, match=r"^counts: expected counts of the classifier with sha256"):
        run.calibrate("foreign", counts=run.sample("calibration", "foreign", other))


def test_calibration_counts_of_another_sigma_are_refused(run: LinearRun) -> None:
    with pytest.raises(ValueError, match=r"^counts: expected sigma=0\.25 .* got 0\.5"):
        run.calibrate("loud", counts=run.sample("calibration", "loud", sigma=0.5))


def test_calibration_counts_of_views_are_refused(run: LinearRun) -> None:
    """Sampled as training targets may be, of images that were then made calibration images."""
    as_targets = replace(run.splits, train=run.splits.calibration)
    targets = TargetsConfig(views=2, shift=1)
    out = run.counts / "views"
    stages.sample(as_targets, "train", SAMPLE, LOCAL, run.classifier, out, stream=0, targets=targets, progress=False)
    with pytest.raises(ValueError, match=r"^counts: expected counts of the images themselves, in passes of their own"):
        run.calibrate("views", counts=out)


# Several noise levels


@pytest.fixture(scope="module")
def low(run: LinearRun) -> tuple[Path, Path]:
    """Counts of the calibration images and of the profile at the lower sigma."""
    return tuple(run.sample(split, f"{split}-low", sigma=LOW) for split in ("calibration", "train"))


def test_counts_and_profiles_of_several_sigma_may_come_in_any_order(run: LinearRun, low: tuple[Path, Path]) -> None:
    counts, profiles = ([each, run.counts / name] for each, name in zip(low, ("calibration", "train"), strict=True))
    rising = run.calibrate_levels("rising", counts, profiles)
    turned = {
        "counts": run.calibrate_levels("turned-counts", counts[::-1], profiles),
        "profiles": run.calibrate_levels("turned-profiles", counts, profiles[::-1]),
    }
    for name, folder in turned.items():
        for curve in ("offset", "scaled"):
            same = [(place / curve / "bundle.json").read_bytes() for place in (folder, rising)]
            assert same[0] == same[1], f"{name} in another order, {curve}"


def copied(store: Path, out: Path, **facts: Any) -> Path:
    """The same counts as if drawn otherwise."""
    found = CountStore.open(store)
    CountStore.open(out, replace(found.manifest, **facts)).write(0, found.table())
    return out


@pytest.mark.parametrize(
    "facts", [{"device": "cuda"}, {"sampler": "gaussian"}, {"precision": "bfloat16"}, {"compile": True}]
)
def test_counts_of_several_sigma_are_drawn_alike(
    run: LinearRun, low: tuple[Path, Path], facts: dict[str, Any], tmp_path: Path
) -> None:
    (name,) = facts
    other = copied(low[0], tmp_path / "counts", **facts)
    with pytest.raises(ValueError, match=f"^counts: expected one {name} at every sigma, got "):
        run.calibrate_levels("unlike", [other, run.counts / "calibration"], [low[1], run.counts / "train"])


# Evaluation


def evaluate(
    run: LinearRun,
    splits: Splits | None = None,
    *,
    counts: Path | None = None,
    bundles: str = "bundles",
    classifier: Path | None = None,
    seen: SeenConfig = UNSEEN,
    **changes: Any,
) -> None:
    """Evaluate the bundles up to the first draw, at which this fails: all refusals come before."""

    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("nothing was refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["rrise.stages.evaluate"], "latency", drawn)
        stages.evaluate(
            splits or run.splits,
            EvaluateConfig(),
            replace(SAMPLE, **changes),
            LOCAL,
            run.folder / bundles,
            classifier or run.classifier,
            counts or run.counts,
            run.folder / "evaluation",
            seen=seen,
            progress=False,
        )


def test_nothing_is_refused_of_what_belongs_together(run: LinearRun) -> None:
    with pytest.raises(AssertionError, match="nothing was refused"):
        evaluate(run)


def test_another_classifier_than_the_bundle_s_is_refused(run: LinearRun, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(linear_engine(WEIGHTS + np.float32(1e-6), np.zeros(3)))
    with pytest.raises(ValueError, match=r"^classifier: expected the one that rrise \w+ was made from, sha256"):
        evaluate(run, classifier=other)


def test_a_classifier_of_which_nobody_says_what_trained_it_is_refused(run: LinearRun) -> None:
    with pytest.raises(ValueError, match=r"^trained_on: expected the images that trained the classifier"):
        evaluate(run, seen=SeenConfig())


@pytest.mark.parametrize("used", ["train", "calibration"])
def test_a_test_image_that_was_used_is_refused(run: LinearRun, used: str) -> None:
    mixed = replace(run.splits, test=with_one_of(run.splits.test, getattr(run.splits, used)))
    with pytest.raises(ValueError, match=r"^test: expected images that had no part in .*, got 1 of 8 that had"):
        evaluate(run, mixed)


def test_other_calibration_images_than_the_bundle_s_are_refused(run: LinearRun) -> None:
    """Of a smaller calibration split the rest may be test images: here one is, and nobody else would know."""
    fewer = run.splits.calibration.take(np.arange(50))
    seen = run.splits.calibration.take([55])
    for stage in (evaluate, compare_engines):
        with pytest.raises(
            ValueError, match=r"^calibration: expected the images that .* was calibrated on, .* got 50 of sha256"
        ):
            stage(run, replace(run.splits, calibration=fewer, test=seen))


def test_other_calibration_counts_than_the_bundle_s_are_refused(run: LinearRun, tmp_path: Path) -> None:
    again = run.sample("calibration", "again/calibration", seed=1)
    with pytest.raises(ValueError, match=r"^counts: expected those that rrise \w+ was calibrated on, sha256"):
        evaluate(run, counts=again.parent)


@pytest.mark.parametrize("change", [{"sampler": "gaussian"}, {"precision": "bfloat16"}, {"compile": True}])
def test_draws_of_another_smoothed_classifier_than_the_bundle_s_are_refused(
    run: LinearRun, change: dict[str, Any]
) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=rf"^sample\.{name}: expected .* as in the calibration counts, got"):
        evaluate(run, **change)


def test_a_bundle_of_gaussian_noise_is_not_judged_on_grid_noise(run: LinearRun) -> None:
    drawn = run.sample("calibration", "gaussian/calibration", sampler="gaussian")
    bundles = run.calibrate("bundles-gaussian", counts=drawn)
    assert load_bundle(bundles / "scaled").provenance["sampler"] == "gaussian"
    with pytest.raises(ValueError, match=r"^sample\.sampler: expected 'gaussian' as in the calibration counts, got 'g"):
        evaluate(run, counts=drawn.parent, bundles=bundles.name)
    with pytest.raises(ValueError, match=r"^counts: expected those that rrise \w+ was calibrated on"):
        evaluate(run, bundles=bundles.name)
    run.sample("train", "gaussian/train", sampler="gaussian")
    with pytest.raises(AssertionError, match="nothing was refused"):
        evaluate(run, counts=drawn.parent, bundles=bundles.name, sampler="gaussian")


def compare_engines(run: LinearRun, splits: Splits) -> None:
    config = EnginesConfig(timed_images=1, repeats=1)
    stages.engines(splits, config, [run.folder / "bundles"], run.folder / "engines")


def test_engines_are_not_compared_on_images_that_calibrated_them(run: LinearRun) -> None:
    mixed = replace(run.splits, test=with_one_of(run.splits.test, run.splits.calibration))
    with pytest.raises(ValueError, match=r"^test: expected images that had no part in .*, got 1 of 8 that had"):
        compare_engines(run, mixed)


# The unit of the promise


def test_a_source_of_many_repeats_is_refused_unless_distinct_pictures_are_meant(run: LinearRun) -> None:
    """Calibration sees a picture once, service as often as it comes."""
    few, many = (replace(run.splits, repeats=repeats, pictures=10_000) for repeats in (5, 3000))
    plain = load_bundle(run.calibrate("no-repeats") / "scaled").statement
    rare = load_bundle(run.calibrate("few-repeats", few) / "scaled").statement
    assert (
        rare
        == plain + " Inputs are distinct pictures: 5 of the 10,000 pictures of the source were repeats and left out."
    )
    with pytest.raises(ValueError, match=r"got 3,000 of the 10,000 pictures of the source that are repeats \(30\.0%\)"):
        run.calibrate("many-repeats", many)
    assert not (run.folder / "many-repeats").exists()
    meant = run.calibrate("meant", many, config=replace(CALIBRATE, distinct=True)) / "scaled"
    assert "Inputs are distinct pictures: 3,000 of the 10,000" in load_bundle(meant).statement


def test_splits_count_the_repeats_of_their_source(tmp_path: Path) -> None:
    own = images(9, 40)
    np.savez(tmp_path / "a.npz", x=np.concatenate([own.images, own.images[:8]]), y=np.tile(own.labels, 2)[:48])
    found = load_splits(DataConfig(str(tmp_path / "a.npz"), train=20, calibration=10, test=5))
    assert (found.repeats, found.pictures, found.dropped) == (8, 48, 8)


def test_one_of_several_bundles_may_be_picked_if_they_share_eta(run: LinearRun) -> None:
    config = replace(CALIBRATE, eta=0.1, of=4)
    found = load_bundle(run.calibrate("of-four", config=config) / "scaled")
    alone = load_bundle(run.calibrate("of-one", config=replace(CALIBRATE, eta=0.025)) / "scaled")
    assert found.calibration.eta == 0.025
    assert found.curve == alone.curve or np.array_equal(found.curve.knots_p, alone.curve.knots_p)
    assert found.statement == alone.statement + (
        " It is one of 4 bundles from the same calibration inputs; with confidence 0.9 all of them hold, whichever is "
        "picked."
    )
    with pytest.raises(ValueError, match=r"of: expected 1 with a marginal guarantee, got 2"):
        replace(CALIBRATE, guarantee="marginal", of=2)
    with pytest.raises(ValueError, match=r"of: expected at least 1 bundle, got 0"):
        replace(CALIBRATE, of=0)
