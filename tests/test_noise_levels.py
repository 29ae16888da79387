"""Several sigma from end to end: one engine, one bundle, its certificates, and what is refused on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_engines import exact_certificate, linear_engine, write_bundle, write_levels
from shared_run import SMALL, small_recipe
from test_serving import FORK

from rrise import stages
from rrise.__main__ import main
from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.conformal import CalibrateConfig
from rrise.calibration.guarantees import conformal_rank
from rrise.images import Splits
from rrise.promise import promise
from rrise.recipe import Recipe
from rrise.runtime import BundleError, Certifier, MultiSigma, load_bundle, open_engine, prepare_images, sign_bundle
from rrise.runtime.bundle import read_levels
from rrise.runtime.signing import generate_keys
from rrise.targets.noise import STREAMS
from rrise.targets.settings import ExecutionConfig
from rrise.targets.store import CountStore
from rrise.training.export import ExportConfig
from rrise.training.joined import SideBySide, joined
from rrise.training.networks import load_network

ROOT = Path(__file__).parent.parent
LOW, HIGH = 0.1, 0.25


@pytest.fixture(scope="module")
def recipe(finished: tuple[Path, list[str]]) -> Recipe:
    return small_recipe(finished[0])


@pytest.fixture(scope="module")
def splits(recipe: Recipe) -> Splits:
    return stages.load_splits(recipe.data)


@pytest.fixture(scope="module")
def levels(finished: tuple[Path, list[str]], recipe: Recipe, splits: Splits, tmp_path_factory) -> Path:
    """A finished run with counts, surrogate, engine and bundles of a second, smaller sigma beside its own."""
    run = Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("levels") / "digits"))
    assert recipe.sample.sigma == HIGH
    low = replace(recipe.sample, sigma=LOW)
    for split, name in (("targets", "train"), ("calibration", "calibration")):
        place = run / f"counts/{name}-low"
        execution = ExecutionConfig(threads=1)
        config = low if name == "train" else replace(low, n=recipe.calibrate.draws(low.n))
        stages.sample(
            splits, split, config, execution, run / "classifier", place, stream=STREAMS["targets"], progress=False
        )
    heads = replace(recipe.fit, strategy="head", lr=(0.01,), weight_decay=(0.01,), folds=0)  # all else is shared
    for name in ("surrogate", "engine"):
        shutil.rmtree(run / name)
    stages.fit(splits.targets, heads, run / "classifier", run / "counts/train", run / "surrogate")
    stages.export(splits.train, recipe.export, recipe.plan, run / "surrogate", run / "engine")
    stages.fit(splits.targets, heads, run / "classifier", run / "counts/train-low", run / "surrogate-low")
    said = stages.export(
        splits.train, recipe.export, recipe.plan, run / "surrogate", run / "engine-both", run / "surrogate-low"
    )
    assert "sigma = 0.1, 0.25: heads on one network" in said
    calibrate(recipe, splits, run, run / "levels")
    return run


def calibrate(recipe: Recipe, splits: Splits, run: Path, out: Path, **changes) -> str:
    settings = {"gamma": 0.2} | changes
    counts = [run / "counts/calibration", run / "counts/calibration-low"]
    profiles = [run / "counts/train-low", run / "counts/train"]  # in whatever order
    config = CalibrateConfig(**settings)
    return stages.calibrate_levels(splits, config, run / "engine-both", counts, profiles, out)


@pytest.mark.slow
def test_one_engine_answers_as_each_surrogate_does(levels: Path, splits: Splits) -> None:
    batch = prepare_images(splits.test.images, (1, 8, 8))
    engine = open_engine(levels / "engine-both")
    assert engine.num_classes == 20
    both = engine(batch)
    spec = json.loads((levels / "engine-both/engine.json").read_text())
    assert (spec["sigmas"], spec["num_classes"], len(spec["classes"])) == ([LOW, HIGH], 10, 10)
    for place, own in (("surrogate-low", both[:, :10]), ("surrogate", both[:, 10:])):
        network = load_network(levels / place)
        with torch.inference_mode():
            np.testing.assert_allclose(own, network.module(torch.from_numpy(batch)).numpy(), atol=1e-4)
    own_size, both_size = ((levels / name / "engine.onnx").stat().st_size for name in ("engine", "engine-both"))
    assert both_size < 1.2 * own_size  # all but the heads is there once


@pytest.mark.slow
def test_networks_that_share_less_than_all_but_the_head_stand_side_by_side(levels: Path, splits: Splits) -> None:
    one, other = load_network(levels / "surrogate"), load_network(levels / "surrogate-low")
    assert not isinstance(joined([one, other]).module, SideBySide)
    with torch.no_grad():
        next(p for p in other.module.parameters() if p.ndim > 1).add_(0.01)
    network = joined([one, other])
    assert isinstance(network.module, SideBySide)
    assert network.facts["shared"] is False
    assert network.spec.num_classes == 20
    pixels = torch.from_numpy(prepare_images(splits.test.images[:5], (1, 8, 8)))
    with torch.inference_mode():
        torch.testing.assert_close(network.module(pixels)[:, :10], other.module(pixels))
        torch.testing.assert_close(network.module(pixels)[:, 10:], one.module(pixels))
    np.testing.assert_array_equal(network.training_ids, np.union1d(one.training_ids, other.training_ids))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "engine"), [("float16", "onnxruntime"), ("int8", "onnxruntime")])
def test_lower_precision_takes_all_levels(levels: Path, recipe: Recipe, splits: Splits, tmp_path, precision, engine):
    surrogates = levels / "surrogate", tmp_path / "engine", levels / "surrogate-low"
    stages.export(splits.train, ExportConfig(engine=engine, precision=precision), recipe.plan, *surrogates)
    low = open_engine(tmp_path / "engine")(prepare_images(splits.test.images, (1, 8, 8)))
    full = open_engine(levels / "engine-both")(prepare_images(splits.test.images, (1, 8, 8)))
    for part in (slice(0, 10), slice(10, 20)):
        assert np.mean(low[:, part].argmax(1) == full[:, part].argmax(1)) > 0.8


@pytest.mark.slow
def test_certificates_of_both_sigma_and_the_larger_one(levels: Path, splits: Splits) -> None:
    certifier = MultiSigma.load(levels / "levels/scaled")
    assert certifier.sigmas == (LOW, HIGH)
    assert certifier.input_shape == (1, 8, 8)
    assert certifier.classes == tuple(map(str, range(10)))
    images = splits.test.images
    low, high = certifier.each(images)
    chosen = certifier(images)
    agree = (low.label == high.label) | low.abstained | high.abstained
    expected = np.where(agree, np.maximum(low.radius, high.radius), 0.0)
    np.testing.assert_array_equal(chosen.certificates.radius, expected)
    sigma = np.where(high.radius > low.radius, HIGH, LOW)
    certified = ~chosen.certificates.abstained
    np.testing.assert_array_equal(chosen.sigma[certified], sigma[certified])
    assert np.isnan(chosen.sigma[~certified]).all()
    assert certified.mean() > 0.3
    assert set(np.unique(chosen.sigma[certified])) <= {LOW, HIGH}
    assert "at one or more of sigma = 0.1, 0.25" in certifier.statement
    assert "Each certificate is one of the smoothed classifier at its own sigma" in certifier.bundle.limits
    one = certifier(images[3])
    assert len(one) == 1
    assert one.certificates.radius[0] == pytest.approx(chosen.certificates.radius[3], abs=1e-6)


@pytest.mark.slow
def test_the_calibration_is_that_of_the_engine_s_own_answers(levels: Path, splits: Splits) -> None:
    """The largest score at the rank, made again from logits and counts by hand."""
    bundle, _ = read_levels(levels / "levels/offset")
    record = bundle.calibration
    batch = prepare_images(splits.calibration.images, (1, 8, 8))
    engine = open_engine(levels / "engine-both")
    logits = np.concatenate([engine(batch[i : i + 1]) for i in range(len(batch))]).astype(np.float64)
    scores = []
    for part, name in ((logits[:, :10], "calibration-low"), (logits[:, 10:], "calibration")):
        q = 1 / np.exp(part - part.max(1, keepdims=True)).sum(1)
        counts = CountStore.open(levels / "counts" / name).table().rows(splits.calibration.ids).counts
        k = counts[np.arange(len(batch)), part.argmax(1)].astype(np.int64)
        scores.append(q - clopper_pearson(k, counts.sum(1).astype(np.int64), record.beta))
    worst = np.sort(np.maximum(*scores))
    assert record.rank == conformal_rank("training-conditional", 150, 0.2, 0.01) < 150
    assert record.t == pytest.approx(max(0.0, worst[record.rank - 1]), abs=1e-9)


@pytest.mark.slow
def test_equal_inputs_give_equal_bundles(levels: Path, recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    said = calibrate(recipe, splits, levels, tmp_path / "again")
    assert said.startswith("sigma = 0.1, 0.25: offset: rank ")
    for name in ("offset", "scaled"):
        again, first = (folder / name / "bundle.json" for folder in (tmp_path / "again", levels / "levels"))
        assert again.read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_alpha_and_priors_and_marginal(levels: Path, recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    calibrate(recipe, splits, levels, tmp_path / "split", alpha=0.25)
    record = read_levels(tmp_path / "split/scaled")[0].calibration
    assert promise(record.beta, record.gamma) == Fraction("0.25")
    assert record.error == 0.25
    priors = (0.19, *(0.09,) * 9)
    calibrate(recipe, splits, levels, tmp_path / "shifted", guarantee="marginal", gamma=0.399, priors=priors)
    assert read_levels(tmp_path / "shifted/scaled")[0].calibration.priors == priors


@pytest.mark.slow
def test_what_calibration_refuses(levels: Path, recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    both, config = levels / "engine-both", CalibrateConfig(gamma=0.2)
    own, low = levels / "counts/calibration", levels / "counts/calibration-low"
    with pytest.raises(ValueError, match="passes: expected none with several sigma"):
        calibrate(recipe, splits, levels, tmp_path / "out", passes=(8,))
    with pytest.raises(ValueError, match="guarantee: expected one of marginal, training-conditional, got 'certified'"):
        calibrate(recipe, splits, levels, tmp_path / "out", guarantee="certified")
    with pytest.raises(ValueError, match=r"counts: expected counts at each sigma .*, 0\.1, 0\.25, got those at one\."):
        stages.calibrate(splits, config, both, own, levels / "counts/train", tmp_path / "out")
    with pytest.raises(ValueError, match=r"counts: expected counts at each sigma .*, got those at 0\.25, 0\.25"):
        stages.calibrate_levels(splits, config, both, [own, own], [], tmp_path / "out")
    with pytest.raises(ValueError, match=r"engine: expected one of several sigma for several counts, got one of sigma"):
        stages.calibrate_levels(splits, config, levels / "engine", [own, low], [], tmp_path / "out")
    with pytest.raises(ValueError, match="profile: expected counts at each of 2 sigma for the scaled curve, got 0"):
        stages.calibrate_levels(splits, replace(config, curves=("scaled",)), both, [own, low], [], tmp_path / "out")
    seen = replace(splits, calibration=replace(splits.train))
    with pytest.raises(ValueError, match="calibration: expected images that had no part in"):
        stages.calibrate_levels(seen, config, both, [own, low], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_export_refuses(levels: Path, recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    surrogate = levels / "surrogate"
    with pytest.raises(ValueError, match=r"expected two or more, each of another sigma, got sigma = \[0.25, 0"):
        stages.export(splits.train, recipe.export, recipe.plan, surrogate, tmp_path / "e", surrogate)
    other = load_network(levels / "surrogate-low")
    with pytest.raises(
        ValueError, match="expected all of the same classifier and images, got another classifier_sha256"
    ):
        joined([load_network(surrogate), replace(other, facts=other.facts | {"classifier_sha256": "0" * 64})])
    with pytest.raises(ValueError, match="got a classifier in"):
        stages.export(splits.train, recipe.export, recipe.plan, surrogate, tmp_path / "e", levels / "classifier")


@pytest.mark.slow
def test_the_command_line(levels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    bundle = str(levels / "levels/scaled")
    assert main(["certify", bundle, str(tmp_path / "images.npy")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[-1] == "sigma"
    assert len(table[1].split()) in (5, 6)  # an abstention has no sigma
    assert main(["certify", bundle, str(tmp_path / "images.npy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sigmas"] == [LOW, HIGH]
    assert {"label", "radius", "sigma"} <= set(said["certificates"][0])
    assert main(["inspect", bundle]) == 0
    shown = capsys.readouterr().out
    assert "at one or more of sigma = 0.1, 0.25" in shown
    assert "format: rrise-levels/1" in shown
    places = {"bundles": levels / "levels", "classifier": levels / "classifier", "counts": levels / "counts"}
    flags = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    assert main(["evaluate", *flags, "--out", str(tmp_path / "e")]) == 1
    assert "expected one of a single sigma, got one of sigma = 0.1, 0.25" in capsys.readouterr().err


@pytest.mark.slow
def test_a_levels_bundle_is_signed_as_any_other(levels: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(levels / "levels/scaled", tmp_path / "b"))
    private, public = generate_keys(tmp_path / "k")
    with pytest.raises(BundleError):
        MultiSigma.load(folder, public_key=public)
    sign_bundle(folder, private)
    assert MultiSigma.load(folder, public_key=public).sigmas == (LOW, HIGH)


ENGINE = linear_engine(np.random.default_rng(0).normal(size=(4, 6)), np.zeros(6))


def test_neither_kind_of_bundle_is_taken_for_the_other(tmp_path: Path) -> None:
    several = write_levels(tmp_path / "several", ENGINE)
    single = write_bundle(tmp_path / "single", linear_engine(np.eye(4, 3), np.zeros(3)))
    assert MultiSigma.load(several)(np.zeros((2, 2), np.uint8)).sigma.shape == (1,)
    for load in (Certifier.load, load_bundle):
        with pytest.raises(BundleError, match=r"expected one of a single sigma, .* Use rrise\.MultiSigma\."):
            load(several)
    with pytest.raises(
        BundleError, match=r"expected one of several sigma, got one of sigma = 0\.5 .* rrise\.Certifier"
    ):
        MultiSigma.load(single)


def test_an_engine_of_another_number_of_logits_is_refused(tmp_path: Path) -> None:
    three = write_levels(tmp_path / "b", linear_engine(np.eye(4, 3), np.zeros(3)))
    with pytest.raises(BundleError, match=r"expected 6 logits of images \(1, 2, 2\) as recorded, got 3"):
        MultiSigma.load(three)


def test_each_sigma_has_its_own_logits_curve_and_radius(tmp_path: Path) -> None:
    bias = np.array([0.0, 1.5, 0.3, 2.0, 0.1, 0.2], np.float32)
    folder = write_levels(tmp_path / "b", linear_engine(np.zeros((4, 6)), bias))
    content = json.loads((folder / "bundle.json").read_text())
    levels = MultiSigma.load(folder).each(np.zeros((2, 2), np.uint8))
    for index, (found, curve) in enumerate(zip(levels, content["curves"], strict=True)):
        own = bias[3 * index : 3 * index + 3]
        label, q, p, radius = exact_certificate(own, curve["knots_q"], curve["knots_p"], (0.25, 0.5)[index])
        assert found.label.tolist() == [label] == [1 - index]
        assert found.q[0] == pytest.approx(float(q), abs=1e-6)
        assert found.p_lower[0] == pytest.approx(float(p), abs=1e-6)
        assert found.radius[0] == pytest.approx(float(radius), abs=1e-6)


def test_logits_that_are_not_finite_make_no_claim_at_that_sigma_alone(tmp_path: Path) -> None:
    bias = np.array([np.nan, 0, 0, 9.0, 0, 0])
    certifier = MultiSigma.load(write_levels(tmp_path / "b", linear_engine(np.zeros((4, 6)), bias)))
    chosen = certifier(np.zeros((2, 2), np.uint8))
    assert chosen.certificates.label.tolist() == [0]
    assert chosen.sigma.tolist() == [0.5]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_worker_certifies(threads: int, tmp_path: Path) -> None:
    folder = write_levels(tmp_path / "b", ENGINE)
    script = FORK.replace("Certifier", "MultiSigma")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(threads)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 11  # opened again


def test_a_bundle_swapped_before_the_fork_is_refused(tmp_path: Path) -> None:
    folder = write_levels(tmp_path / "b", ENGINE)
    certifier = MultiSigma.load(folder, threads=2)
    other = write_levels(tmp_path / "c", ENGINE, statement="Another one.")
    (folder / "bundle.json").write_bytes((other / "bundle.json").read_bytes())
    with pytest.raises(BundleError, match=r"expected the bundle with sha256 .* that the parent process loaded, got"):
        certifier._engine._reopen()


@pytest.mark.slow
def test_the_benchmark_compares_them_and_goes_on_where_it_was(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "noise_levels.py"
    command = [sys.executable, str(script), "--sigmas", "0.25", "0.1", "--seeds", "1", "--out", str(tmp_path)]
    settings = [setting for setting in SMALL if not setting.startswith(("rival", "evaluate.latency"))]
    done = subprocess.run([*command, "--set", *settings], capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "levels.json").read_text())["results"]
    assert list(found) == [
        "sigma = 0.1",
        "sigma = 0.25",
        "all, one rank",
        "all, a rank each",
        "B1, sigma = 0.1",
        "B1, sigma = 0.25",
        "B1, all",
    ]
    assert all(len(entries) == 1 for entries in found.values())
    for entry in (entry for entries in found.values() for entry in entries):
        assert 0 < entry["average certified radius"] < 1
        assert entry["certified accuracy"] == sorted(entry["certified accuracy"], reverse=True)
        assert entry["coverage"] > 70
    again = subprocess.run([*command, "--set", *settings], capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "lr" in done.stdout
    assert "lr" not in again.stdout  # nothing is fitted anew
    assert json.loads((tmp_path / "levels.json").read_text())["results"] == found
