"""A network is sampled and exported only if it is a function of one image, and saved only if that is all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

from rrise import stages
from rrise.images import DataConfig, load_splits
from rrise.targets.noise import TARGETS
from rrise.targets.settings import ExecutionConfig, SampleConfig
from rrise.training.classifier import TrainConfig
from rrise.training.export import ExportConfig, export_engine
from rrise.training.networks import Network, NetworkSpec, build_network, load_network, save_network
from rrise.training.one_image import require_alike, require_one_image

SHAPE = (1, 8, 8)


class Plain(nn.Module):
    """A function of one image, with the parts that the others misuse."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64 * in_chans, 32), nn.BatchNorm1d(32)
        self.last = nn.Linear(32, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.first(x.flatten(1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


class Dropout(Plain):
    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().features(x), 0.5)


class BatchStatistics(Plain):
    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.first(x.flatten(1)).view(-1, 8, 4))).flatten(1)


class Centred(Plain):
    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        return found - found.mean(0, keepdim=True)


class Stuck(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return self.last(F.relu(self.norm(self.first(x.flatten(1)))))


class Average(Plain):
    """A buffer that each call moves by a little."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.register_buffer("mean_seen", torch.zeros(32))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        self.mean_seen.mul_(1 - 1e-6).add_(1e-6 * found.mean(0))
        return found - self.mean_seen


class Counter(Plain):
    """A plain attribute that each call moves."""

    calls = 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().features(x) * (1 + self.calls)


class Hidden(Plain):
    """A random tensor that no state_dict holds."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.register_buffer("mask", torch.randn(32), persistent=False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return super().features(x) * self.mask


class Attribute(Plain):
    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.mask = torch.randn(32)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return super().features(x) * self.mask


class Extra(Plain):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: object) -> None:
        pass


def keywords(**options: int) -> nn.Module:
    return Plain(**options)


def spec(kind: object, **options: object) -> NetworkSpec:
    return NetworkSpec(f"{__name__}:{kind.__name__}", options, 10, SHAPE, (0.5,), (0.5,))


REFUSED = {
    Dropout: "the same answer to an image each time",
    BatchStatistics: "does not depend on others of its batch",
    Centred: "does not depend on others of its batch",
    Average: "keeps its state in evaluation mode, got one that changed network.mean_seen",
    Counter: "the same answer to an image each time",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_is_no_function_of_one_image_is_refused_before_training_and_sampling(kind: type, tmp_path: Path) -> None:
    splits = load_splits(DataConfig(train=60, calibration=20, test=10))
    config = TrainConfig(network=f"{__name__}:{kind.__name__}", options={}, epochs=1)
    with pytest.raises(ValueError, match=f"network: expected .*({REFUSED[kind]})"):
        stages.train(splits.train, config, tmp_path / "trained", progress=False)
    assert not (tmp_path / "trained").exists()
    with pytest.raises(ValueError, match=f"classifier: expected .*({REFUSED[kind]})"):
        require_one_image(build_network(spec(kind)), SHAPE)


def test_an_honest_network_passes_and_is_not_changed() -> None:
    module = build_network(spec(Plain), 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    require_one_image(module, SHAPE)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not module.training


def test_rounding_that_depends_on_the_batch_passes_and_more_does_not() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 10)).astype(np.float32)
    pixels = rng.random((8, *SHAPE)).astype(np.float32)

    def answering(error: float) -> object:
        return lambda batch: (batch.reshape(len(batch), -1) @ weights) * np.float32(1 + error * (len(batch) > 1))

    require_alike(answering(1e-6), pixels, what="engine")
    with pytest.raises(ValueError, match="engine: expected an answer to an image that does not depend on others"):
        require_alike(answering(5e-3), pixels, what="engine")
    require_alike(answering(5e-3), pixels, what="engine", limit=2e-2)
    with pytest.raises(ValueError, match="engine: expected finite logits"):
        require_alike(lambda batch: np.full((len(batch), 10), np.nan, np.float32), pixels, what="engine")


def random_onnx(path: Path, kind: str) -> Path:
    """An ONNX classifier with random numbers in the graph, or with statistics of the batch."""
    rng = np.random.default_rng(0)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [64, 10], rng.standard_normal(640).astype(np.float32))
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [-1, 64])
    nodes = [helper.make_node("Reshape", ["x", "s"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["z"])]
    if kind == "random":
        nodes += [helper.make_node("RandomNormalLike", ["z"], ["r"]), helper.make_node("Add", ["z", "r"], ["y"])]
    elif kind == "centred":
        nodes += [
            helper.make_node("ReduceMean", ["z", "axis"], ["m"], keepdims=1),
            helper.make_node("Sub", ["z", "m"], ["y"]),
        ]
    else:
        nodes += [helper.make_node("Identity", ["z"], ["y"])]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    takes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "g", takes, gives, [weights, shape, *([axis] if kind == "centred" else [])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"), [("random", "the same answer"), ("centred", "does not depend on others"), ("plain", "")]
)
def test_an_onnx_classifier_is_asked_too(kind: str, message: str, tmp_path: Path) -> None:
    splits = load_splits(DataConfig(train=20, calibration=10, test=5))
    base, out = random_onnx(tmp_path / "base.onnx", kind), tmp_path / "counts"
    settings = (splits, "targets", SampleConfig(n=10), ExecutionConfig(threads=1), base, out)
    if not message:
        assert "20 images × 10 draws" in stages.sample(*settings, stream=TARGETS, progress=False)
        return
    with pytest.raises(ValueError, match=f"classifier: expected .*{message}"):
        stages.sample(*settings, stream=TARGETS, progress=False)
    assert not out.exists()


@pytest.mark.parametrize("kind", [Dropout, Centred], ids=lambda kind: kind.__name__)
def test_export_refuses_what_sampling_would(kind: type, tmp_path: Path) -> None:
    network = Network.of(spec(kind), build_network(spec(kind)), np.array([1], dtype=np.uint64), {})
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    runtime = stages.export.__globals__["EngineRuntime"]("onnxruntime", SHAPE, None)
    with pytest.raises(ValueError, match=f"surrogate: expected .*({REFUSED[kind]})"):
        export_engine(network, tmp_path / "engine", ExportConfig(), images, runtime)


def test_batch_statistics_of_one_value_are_named_when_the_network_is_built() -> None:
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*It uses statistics of the batch"):
        build_network(spec(Stuck))


# What is saved


@pytest.mark.parametrize("kind", [Hidden, Attribute], ids=lambda kind: kind.__name__)
def test_a_network_that_is_more_than_its_state_dict_is_not_saved(kind: type, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"to answer alike after saving and loading, .* in no state_dict"):
        save_network(tmp_path / "net", spec(kind), build_network(spec(kind), 3), np.array([1], np.uint64))
    assert not (tmp_path / "net").exists()


def test_a_state_that_holds_more_than_tensors_is_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"tensors only in its state_dict, got network\._extra_state"):
        build_network(spec(Extra))


def test_timms_options_that_fetch_weights_act_once(tmp_path: Path) -> None:
    """A classifier's folder is complete: loading it asks for no file that training started from."""
    first = build_network(NetworkSpec("test_vit", {"img_size": 8, "patch_size": 4}, 10, SHAPE, (0.5,), (0.5,)), 1)
    start = tmp_path / "start.pth"
    torch.save(first.network.state_dict(), start)
    options = {"img_size": 8, "patch_size": 4, "checkpoint_path": str(start)}
    own = NetworkSpec("test_vit", options, 10, SHAPE, (0.5,), (0.5,))
    module = build_network(own, 2)
    for name, value in first.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    save_network(tmp_path / "net", own, module, np.array([1], np.uint64))
    start.unlink()
    again = load_network(tmp_path / "net").module.state_dict()
    assert all(torch.equal(again[name], value) for name, value in module.state_dict().items())


def test_a_factory_of_keywords_gets_classes_and_channels() -> None:
    assert build_network(spec(keywords)).network.last.out_features == 10


@pytest.mark.parametrize(
    "name", ["hf_hub:timm/resnet10t.c3_in1k", "hf-hub:timm/resnet10t.c3_in1k", "local-dir:/nowhere"]
)
def test_timms_names_of_models_elsewhere_are_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked: list[str] = []

    def create_model(name: str, **options: object) -> nn.Module:
        asked.append(name)
        raise OSError("no network here")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match=r"to take the options .*num_classes.*OSError: no network here"):
        build_network(NetworkSpec(name, {}, 10, (3, 32, 32), (0.5,) * 3, (0.5,) * 3))
    assert asked == [name]


class Breaking(Plain):
    """A function of one image that fails on more than ten."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 10:
            raise RuntimeError("out of memory")
        return super().forward(x)


def test_a_first_sampling_that_fails_leaves_nothing_that_would_refuse_the_next(tmp_path: Path) -> None:
    splits = load_splits(DataConfig(train=20, calibration=10, test=5))
    kind, counts = spec(Breaking), tmp_path / "counts"
    save_network(tmp_path / "net", kind, build_network(kind), np.array([1], np.uint64), classes=list("0123456789"))
    with pytest.raises(RuntimeError, match="out of memory"):
        sampled(splits, SampleConfig(n=50), tmp_path / "net", counts)
    assert not counts.exists()
    sampled(splits, SampleConfig(n=10), tmp_path / "net", counts)  # other settings, at the same place
    with pytest.raises(RuntimeError, match="out of memory"):
        sampled(splits, SampleConfig(n=50), tmp_path / "net", tmp_path / "more")
    with pytest.raises(ValueError, match="n"):
        sampled(splits, SampleConfig(n=50), tmp_path / "net", counts)  # what is there stays


def sampled(splits: object, config: SampleConfig, classifier: Path, out: Path) -> str:
    return stages.sample(
        splits, "targets", config, ExecutionConfig(threads=1), classifier, out, stream=TARGETS, progress=False
    )
