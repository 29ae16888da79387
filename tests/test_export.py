"""An engine agrees with torch at every batch size or is not written; it tells nothing of the machine that made it."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rrise.runtime.engines import open_engine
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.runtime.engines.tensorrt_build import PlanConfig
from rrise.runtime.images import prepare_images
from rrise.stages.export import EngineRuntime
from rrise.training import onnx_graphs
from rrise.training.export import Agreement, ExportConfig, agreement_with_torch, export_engine
from rrise.training.networks import Network, NetworkSpec, build_network, head

NETWORKS = {
    "mixer": ("timm.models.mlp_mixer:MlpMixer", {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_blocks": 1}),
    "conv": ("timm.models.convmixer:ConvMixer", {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 2}),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 8, 8), dtype=np.uint8)
FACTS = {"classes": list("abcde"), "sigma": 0.25, "classifier_sha256": "c" * 64, "training_loss": 0.1}


def make_network(kind: str) -> Network:
    name, options = NETWORKS[kind]
    spec = NetworkSpec(name, options, 5, (1, 8, 8), (0.5,), (0.25,))
    module = build_network(spec, seed=0)
    nn.init.normal_(head(module).weight, generator=torch.Generator().manual_seed(0))
    for layer in module.modules():  # as if trained: statistics that are not zero and one
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
            layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    return Network.of(spec, module, np.array([9, 4], dtype=np.uint64), FACTS)


def export_for(network: Network, folder: Path, config: ExportConfig, images: np.ndarray = IMAGES) -> dict[str, Any]:
    return export_engine(network, folder, config, images, EngineRuntime(config.engine, (1, 8, 8), PlanConfig()))


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path, dict]:
    network, folder = make_network(request.param), tmp_path_factory.mktemp("export") / "engine"
    return network, folder, export_for(network, folder, ExportConfig())


def test_engine_agrees_with_torch_at_any_batch(exported: tuple[Network, Path, dict]) -> None:
    network, folder, spec = exported
    engine = open_engine(folder)
    pixels = prepare_images(IMAGES, (1, 8, 8))
    for batch in (1, 2, 5, 37):
        found = engine(pixels[:batch])
        expected = network.module(torch.from_numpy(pixels[:batch]))
        p, q = (torch.softmax(torch.as_tensor(logits).double(), 1) for logits in (found, expected))
        assert (p - q).abs().max() < 1e-5
    assert (p.max(1).values > 0.5).any()  # else every network would agree
    assert 0 < spec["max_probability_error"] < 1e-5


def test_folder_holds_what_the_format_asks_for(exported: tuple[Network, Path, dict]) -> None:
    network, folder, spec = exported
    assert sorted(os.listdir(folder)) == ["engine.json", "engine.onnx", "training_ids.npy"]
    assert json.loads((folder / "engine.json").read_text()) == spec
    assert np.load(folder / "training_ids.npy", allow_pickle=False).tolist() == [4, 9]
    assert spec["sha256"] == spec["onnx_sha256"] == hashlib.sha256((folder / "engine.onnx").read_bytes()).hexdigest()
    assert spec["network_sha256"] == network.sha256
    assert (spec["format"], spec["kind"], spec["precision"]) == ("rrise-engine/1", "onnxruntime", "float32")
    assert (spec["input_shape"], spec["num_classes"], spec["classes"]) == ([1, 8, 8], 5, list("abcde"))
    assert (spec["sigma"], spec["classifier_sha256"], spec["opset"]) == (0.25, "c" * 64, 20)
    assert "training_loss" not in spec


def test_model_is_plain(exported: tuple[Network, Path, dict]) -> None:
    _, folder, _ = exported
    content = (folder / "engine.onnx").read_bytes()
    for trace in (b"site-packages", b".py", str(Path.home()).encode(), b"stack_trace"):
        assert trace not in content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


@pytest.mark.slow
def test_equal_networks_give_equal_engines_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    specs = [export_for(make_network("mixer"), tmp_path / name, ExportConfig()) for name in "ab"]
    assert specs[0] == specs[1]
    assert (tmp_path / "a/engine.onnx").read_bytes() == (tmp_path / "b/engine.onnx").read_bytes()
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def export_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace torch's exporter, which takes a second, by one that must not be reached."""
    calls: list[Any] = []
    monkeypatch.setattr(onnx_graphs, "onnx_bytes", lambda *arguments: calls.append(arguments))
    return calls


def test_existing_folder_is_refused_before_any_work(tmp_path: Path, export_calls: list[Any]) -> None:
    (tmp_path / "engine").mkdir()
    with pytest.raises(FileExistsError, match="Delete it or name another"):
        export_for(make_network("mixer"), tmp_path / "engine", ExportConfig())
    assert export_calls == []


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (IMAGES[:, :4], ValueError, r"\(1, 8, 8\), the network's, got \(1, 4, 8\)"),
        (IMAGES[:0], ValueError, "at least one image"),
        (IMAGES / np.float32(255), TypeError, "expected uint8 pixels"),
    ],
)
def test_check_images_must_fit(
    tmp_path: Path, export_calls: list[Any], images: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_for(make_network("mixer"), tmp_path / "engine", ExportConfig(), images)
    assert export_calls == []
    assert os.listdir(tmp_path) == []


def agreement(module: nn.Module, data: bytes) -> Agreement:
    return agreement_with_torch(module, open_engine_bytes(data, "onnxruntime"), prepare_images(IMAGES, (1, 8, 8)), 5)


@pytest.mark.parametrize("scale", [1.001, float("nan")])
def test_engine_that_differs_is_not_written(
    exported: tuple[Network, Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    network, folder, _ = exported
    model = onnx.load(folder / "engine.onnx")
    model.graph.node.append(onnx.helper.make_node("Mul", [model.graph.output[0].name + "_old", "scale"], ["logits"]))
    for node in model.graph.node[:-1]:
        node.output[:] = [name + "_old" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "scale"))
    changed = model.SerializeToString()
    error = agreement(network.module, changed).max_probability_error
    assert error > 1e-5 if scale == 1.001 else np.isnan(error)
    monkeypatch.setattr(onnx_graphs, "onnx_bytes", lambda *_: changed)
    with pytest.raises(ValueError, match="probabilities within tolerance=1e-05 of torch's, got a difference of"):
        export_for(network, tmp_path / "engine", ExportConfig())
    assert os.listdir(tmp_path) == []


def test_error_is_found_at_every_batch_size() -> None:
    seen: list[int] = []

    class Batches(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(len(pixels))
            return torch.zeros(len(pixels), 5)

    engine = _constant_engine()
    assert agreement(Batches(), engine) == Agreement(0.0, 0.0, 1.0)
    assert set(seen) == {1, 3, 37}


def _constant_engine() -> bytes:
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("Flatten", ["images"], ["flat"]),
            make.make_node("MatMul", ["flat", "zero"], ["logits"]),
        ],
        "constant",
        [make.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 1, 8, 8])],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 5])],
        [onnx.numpy_helper.from_array(np.zeros((64, 5), np.float32), "zero")],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10).SerializeToString()


class Unexportable(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # A loop over the images, which no trace with a free batch can hold.
        return torch.stack([self.linear(one.flatten()) for one in pixels])


def test_network_that_torch_cannot_export_is_named(tmp_path: Path) -> None:
    spec = NetworkSpec(f"{__name__}:Unexportable", {}, 5, (1, 8, 8), (0.5,), (0.5,))
    network = Network.of(spec, build_network(spec), np.array([1], dtype=np.uint64), {})
    with pytest.raises(ValueError, match="a network that torch can export, got") as caught:
        export_for(network, tmp_path / "engine", ExportConfig())
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("opset", 17),
        ("opset", 99),
        ("tolerance", -1.0),
        ("tolerance", float("nan")),
        ("engine", "torch"),
        ("precision", "bfloat16"),
        ("quantise_images", 0),
    ],
)
def test_config_names_the_field_it_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        ExportConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "kind"),
    [
        ("mixer", "float16", "onnxruntime"),
        ("mixer", "int8", "openvino"),
        ("conv", "float16", "openvino"),
        ("conv", "int8", "onnxruntime"),
    ],
)
def test_lower_precision_changes_little_and_says_how_much(
    name: str, precision: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'rrise[openvino]'")
    network = make_network(name)
    spec = export_for(network, tmp_path / "engine", ExportConfig(kind, precision))
    engine = open_engine(tmp_path / "engine")
    assert (engine.kind, engine.precision, spec["precision"]) == (kind, precision, precision)
    bounds = {"float16": (1e-5, 1e-2), "int8": (1e-4, 0.2)}[precision]
    assert bounds[0] < spec["max_probability_error"] < bounds[1]  # it differs from float32, but not much
    assert 0 < spec["mean_probability_error"] < spec["max_probability_error"]
    assert spec["same_labels"] > 0.85
    assert spec["checked_with"] == f"{kind} {engine.version}"
    again = agreement_with_torch(network.module, engine, prepare_images(IMAGES, (1, 8, 8)), 5)
    assert again.max_probability_error == pytest.approx(spec["max_probability_error"], rel=0.02)
    loud = [record for record in caplog.records if record.levelno >= 30]
    assert loud == []  # the quantiser's advice is not the user's


@pytest.mark.slow
def test_int8_quantises_products_only_and_biases_stay(tmp_path: Path) -> None:
    export_for(make_network("mixer"), tmp_path / "engine", ExportConfig(precision="int8"))
    model = onnx.load(tmp_path / "engine" / "engine.onnx")
    onnx.checker.check_model(model, full_check=True)
    made_by = {node.output[0]: node for node in model.graph.node}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")]
    assert len(products) > 4
    for node in products:
        assert [made_by[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        assert weights[made_by[node.input[1]].input[0]] == onnx.TensorProto.INT8
        assert all(weights[name] == onnx.TensorProto.FLOAT for name in node.input[2:])


@pytest.mark.slow
def test_int8_for_tensorrt_has_no_zero_points() -> None:
    from rrise.training.quantisation import quantise

    network = make_network("conv")
    plain = onnx_graphs.onnx_bytes(network.module, (1, 8, 8), 20)
    pixels = prepare_images(IMAGES, (1, 8, 8))
    found, largest = {}, {}
    for signed in (False, True):
        model = onnx.load_from_string(quantise(plain, pixels, signed=signed))
        values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        points = [values[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear" and len(n.input) > 2]
        found[signed] = [point for point in points if point.any()], {point.dtype.name for point in points}
        read = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"]
        largest[signed] = max(int(np.abs(values[name].astype(int)).max()) for name in read if name in values)
    assert largest == {False: 64, True: 127}  # 7 bits beside uint8: sums of two products stay within 16 bits
    assert found[True] == ([], {"int8"})
    assert found[False][1] == {"uint8"}
    assert found[False][0]  # else the two would be the same


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_the_graph_of_a_plan_is_checked_and_that_is_said(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["rrise.stages.export"], "_has_gpu", lambda: False)
    runtime = EngineRuntime(kind, (1, 8, 8), PlanConfig())
    assert runtime.signed_int8
    logits, who = runtime.open(b"a plan", _constant_engine(), "float32")
    assert who.startswith("onnxruntime ")
    assert who.endswith("no GPU here runs the plan")
    assert logits(np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 5)
