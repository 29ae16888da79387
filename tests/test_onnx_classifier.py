"""A base classifier that is an ONNX file goes through every stage, and what trained it is never assumed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_run import small_recipe

from rrise import stages
from rrise.images import Splits
from rrise.recipe import Recipe
from rrise.runtime.certifier import Certifier
from rrise.stages.caveats import ON_TRUST
from rrise.targets.settings import ExecutionConfig, SampleConfig
from rrise.targets.store import CountStore
from rrise.training.networks import load_network, open_classifier
from rrise.training.seen import SeenConfig, with_training_images
from rrise.training.surrogate import FitConfig

LOCAL = ExecutionConfig(threads=1)
VOUCHED = SeenConfig(unseen_by_classifier=True)


def two_layers(num_classes: int, width: int) -> torch.nn.Module:
    """The surrogate's own network."""
    layers = (torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, num_classes))
    return torch.nn.Sequential(*layers)


SCRATCH = FitConfig(
    strategy="scratch",
    network=f"{__name__}:two_layers",
    options={"width": 64},
    lr=(0.01,),
    weight_decay=(0.01,),
    epochs=(40,),
    folds=0,
)


@pytest.fixture(scope="module")
def recipe(finished: tuple[Path, list[str]]) -> Recipe:
    return small_recipe(finished[0])


@pytest.fixture(scope="module")
def splits(recipe: Recipe) -> Splits:
    return stages.load_splits(recipe.data)


@pytest.fixture(scope="module")
def sampled(finished: tuple[Path, list[str]], recipe: Recipe, splits: Splits, tmp_path_factory) -> Path:
    """Counts of base.onnx, the trained classifier without its folder, for training and calibration images."""
    room = tmp_path_factory.mktemp("onnx")
    torch.onnx.export(
        load_network(finished[0] / "classifier").module,
        (torch.rand(2, 1, 8, 8),),
        room / "base.onnx",
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    for split in ("train", "calibration"):
        where = (room / "base.onnx", room / "counts" / split)
        n = recipe.sample.n if split == "train" else recipe.calibrate.draws(recipe.sample.n)
        stages.sample(splits, split, replace(recipe.sample, n=n), LOCAL, *where, stream=0, progress=False)
    return room


def engine_of(sampled: Path, recipe: Recipe, splits: Splits, out: Path, seen: SeenConfig) -> Path:
    given = (splits.train, SCRATCH, sampled / "base.onnx", sampled / "counts/train")
    stages.fit(*given, out / "surrogate", seen=seen, progress=False)
    stages.export(splits.train, recipe.export, recipe.plan, out / "surrogate", out / "engine")
    return out / "engine"


def calibrated(sampled: Path, recipe: Recipe, splits: Splits, engine: Path, out: Path) -> Certifier:
    counts = sampled / "counts"
    stages.calibrate(splits, recipe.calibrate, engine, counts / "calibration", counts / "train", out)
    return Certifier.load(out / "scaled")


@pytest.mark.slow
def test_onnx_runtime_counts_what_torch_counts(finished: tuple[Path, list[str]], sampled: Path) -> None:
    for split in ("train", "calibration"):
        onnx, by_torch = (CountStore.open(room / "counts" / split) for room in (sampled, finished[0]))
        assert onnx.manifest.classifier_sha256 != by_torch.manifest.classifier_sha256
        moved = np.abs(onnx.table().counts - by_torch.table().counts).sum() / 2
        assert moved <= 1e-3 * by_torch.table().counts.sum()


@pytest.mark.slow
def test_a_bundle_says_what_was_vouched_for_and_certifies(
    sampled: Path, recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    engine = engine_of(sampled, recipe, splits, tmp_path, VOUCHED)
    certifier = calibrated(sampled, recipe, splits, engine, tmp_path / "bundles")
    assert certifier.statement.endswith(ON_TRUST)
    assert certifier.bundle.provenance["classifier_images"] == "unseen, on the user's word"
    certificates = certifier(splits.calibration.images)
    certified = ~certificates.abstained
    answers = CountStore.open(sampled / "counts/calibration").table().rows(splits.calibration.ids).counts.argmax(axis=1)
    assert certified.mean() > 0.3
    assert (certificates.label[certified] == answers[certified]).mean() > 0.95
    said = stages.evaluate(
        splits,
        recipe.evaluate,
        recipe.sample,
        LOCAL,
        tmp_path / "bundles",
        sampled / "base.onnx",
        sampled / "counts",
        tmp_path / "evaluation",
        seen=VOUCHED,
        progress=False,
    )
    assert "mean certified radius" in said
    rows = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert rows["provenance"]["classifier"] == open_classifier(sampled / "base.onnx").sha256


@pytest.mark.slow
def test_named_training_images_are_refused_for_calibration_and_test(
    sampled: Path, recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    np.save(tmp_path / "honest.npy", splits.train.ids)
    engine = engine_of(sampled, recipe, splits, tmp_path / "honest", SeenConfig(str(tmp_path / "honest.npy")))
    certifier = calibrated(sampled, recipe, splits, engine, tmp_path / "bundles")
    assert certifier.bundle.provenance["classifier_images"] == "named by the user"
    assert "user's word" not in certifier.statement

    both = splits.calibration.take([0, 1, 2])
    np.savez(tmp_path / "overlap.npz", x=both.images, y=both.labels, classes=np.array(both.classes))
    engine = engine_of(sampled, recipe, splits, tmp_path / "overlap", SeenConfig(str(tmp_path / "overlap.npz")))
    with pytest.raises(ValueError, match=r"calibration: expected images .* got 3 of 150 that had"):
        calibrated(sampled, recipe, splits, engine, tmp_path / "refused")

    np.save(tmp_path / "test.npy", splits.test.ids[:2])
    with pytest.raises(ValueError, match=r"test: expected images .* got 2 of 40 that had"):
        stages.evaluate(
            splits,
            recipe.evaluate,
            recipe.sample,
            LOCAL,
            tmp_path / "bundles",
            sampled / "base.onnx",
            sampled / "counts",
            tmp_path / "evaluation",
            seen=SeenConfig(str(tmp_path / "test.npy")),
            progress=False,
        )


@pytest.mark.slow
def test_silence_is_refused_and_so_are_words_that_mean_nothing(
    finished: tuple[Path, list[str]], sampled: Path, splits: Splits, tmp_path: Path
) -> None:
    onnx, folder = open_classifier(sampled / "base.onnx"), load_network(finished[0] / "classifier")
    with pytest.raises(ValueError, match="of which an ONNX file has no record"):
        with_training_images(onnx, SeenConfig())
    with pytest.raises(ValueError, match="a classifier folder, which records its training images"):
        with_training_images(folder, VOUCHED)
    assert with_training_images(folder, SeenConfig()) is folder
    with pytest.raises(ValueError, match="expected none with unseen_by_classifier"):
        SeenConfig("ids.npy", True)
    for number, wrong in enumerate([np.arange(3), np.zeros((2, 2), np.uint64), np.zeros(0, np.uint64)]):
        np.save(tmp_path / f"{number}.npy", wrong)
        with pytest.raises(ValueError, match=r"trained_on: expected ids uint64\[M\]"):
            with_training_images(onnx, SeenConfig(str(tmp_path / f"{number}.npy")))
    with pytest.raises(FileNotFoundError):
        with_training_images(onnx, SeenConfig(str(tmp_path / "absent.npy")))


@pytest.mark.slow
def test_a_surrogate_of_an_onnx_classifier_needs_a_network(sampled: Path, splits: Splits, tmp_path: Path) -> None:
    given = (sampled / "base.onnx", sampled / "counts/train", tmp_path / "surrogate")
    with pytest.raises(ValueError, match="Give --strategy scratch --network NAME"):
        stages.fit(splits.train, replace(SCRATCH, network="", options={}), *given, seen=VOUCHED, progress=False)
    with pytest.raises(ValueError, match="strategy: expected scratch"):
        replace(SCRATCH, strategy="head")
    with pytest.raises(ValueError, match="network: expected a name for the options"):
        replace(SCRATCH, network="")


def test_the_surrogate_of_a_folder_may_be_another_network_too(
    finished: tuple[Path, list[str]], splits: Splits, tmp_path: Path
) -> None:
    given = (finished[0] / "classifier", finished[0] / "counts/train", tmp_path / "surrogate")
    stages.fit(splits.train, SCRATCH, *given, progress=False)
    surrogate = load_network(tmp_path / "surrogate")
    assert (surrogate.spec.network, surrogate.spec.options) == (SCRATCH.network, {"width": 64})
    assert "classifier_images" not in surrogate.facts
    assert np.isin(splits.train.ids, surrogate.training_ids).all()


def refused(splits: Splits, config: SampleConfig, sampled: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages.sample(splits, "train", config, LOCAL, sampled / "base.onnx", sampled / "none", stream=0, progress=False)
    assert not (sampled / "none").exists()


@pytest.mark.slow
def test_how_an_onnx_classifier_cannot_run_is_refused(sampled: Path, recipe: Recipe, splits: Splits) -> None:
    module = open_classifier(sampled / "base.onnx").module
    for settings, name in ((("cuda", "float32", False), "device"), (("cpu", "float32", True), "compile")):
        with pytest.raises(ValueError, match=f"^{name}: expected .* how an ONNX classifier runs"):
            module.require_runs(*settings)
    refused(splits, replace(recipe.sample, precision="bfloat16"), sampled, "^precision: expected float32")


@pytest.mark.slow
def test_images_of_another_shape_are_refused(sampled: Path, recipe: Recipe, splits: Splits) -> None:
    wide = np.repeat(splits.train.images, 2, axis=2)
    other = replace(splits, train=replace(splits.train, images=wide))
    refused(other, recipe.sample, sampled, r"images of shape \(1, 8, 16\) .* got one of \(1, 8, 8\)")


def test_a_model_that_takes_one_image_at_a_time_is_refused_by_name(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(  # says that N is free, and then reshapes to one row
        [helper.make_node("Reshape", ["x", "one"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "stuck",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(np.array([1, 64]), "one"),
            numpy_helper.from_array(np.zeros((64, 10), np.float32), "w"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(tmp_path / "f.onnx"))
    module = open_classifier(tmp_path / "f.onnx").module
    assert module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"takes a batch of shape \(3, 1, 8, 8\), got .* Export it with a free batch"):
        module(torch.zeros(3, 1, 8, 8))


def test_weights_in_another_file_are_refused_even_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ones((64, 10), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    monkeypatch.chdir(tmp_path)
    save(model, "f.onnx", save_as_external_data=True, location="f.data", size_threshold=0)
    onnxruntime.InferenceSession(Path("f.onnx").read_bytes(), providers=["CPUExecutionProvider"])  # reads f.data
    with pytest.raises(ValueError, match=r"with its weights inside, got .* Export it again"):
        open_classifier("f.onnx")
