"""TensorRT-RTX itself builds the networks here: it needs no GPU for that. Nothing of it is run.

All of it is slow: the module's libraries, torch and timm take seconds to load, and only NVIDIA's next version can break
what NVIDIA's code says here.
"""

import functools
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from reference_engines import FLOAT, model
from torch import nn

from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.engines.tensorrt import TensorRtRtxEngine
from rrise.runtime.engines.tensorrt_build import PlanConfig, build_plan
from rrise.runtime.engines.tensorrt_module import load
from rrise.training.architectures import NetworkSpec, build_network
from rrise.training.onnx_graphs import HalfPrecision, onnx_bytes
from rrise.training.quantisation import quantise

pytestmark = pytest.mark.slow

MIXER = "timm.models.mlp_mixer:MlpMixer"
HALVES = {1: ((0.5,), (0.5,)), 3: ((0.5,) * 3, (0.5,) * 3)}
NETWORKS = {
    "small": (MIXER, {"img_size": 28, "patch_size": 7, "num_blocks": 1, "embed_dim": 32}, 10, (1, 28, 28)),
    "mixer": (MIXER, {"img_size": 28, "patch_size": 4, "num_blocks": 4, "embed_dim": 128}, 10, (1, 28, 28)),
    "resnet18": ("resnet18", {}, 10, (3, 32, 32)),
    "efficientnet_b0": ("efficientnet_b0", {}, 10, (3, 32, 32)),
    "vit_tiny": ("vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8}, 200, (3, 64, 64)),
}
PRECISIONS = ("float32", "float16", "int8")


@pytest.fixture(autouse=True)
def tensorrt_rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'rrise[rtx]'")


@functools.cache
def graph(name: str, precision: str) -> bytes:
    network, options, classes, shape = NETWORKS[name]
    module = build_network(NetworkSpec(network, options, classes, shape, *HALVES[shape[0]]))
    if name == "resnet18":  # the usual stem for images of 32 pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module.network.conv1, module.network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    onnx = onnx_bytes(HalfPrecision(module).eval() if precision == "float16" else module, shape, 20)
    pixels = np.random.default_rng(0).random((8, *shape), np.float32)
    return quantise(onnx, pixels, signed=True) if precision == "int8" else onnx


def check_plan(name: str, precision: str) -> bytes:
    onnx, shape = graph(name, precision), NETWORKS[name][3]
    start = time.perf_counter()
    plan = build_plan("tensorrt-rtx", onnx, input_shape=shape, config=PlanConfig(max_batch=32))
    print(f"{name} {precision}: built in {time.perf_counter() - start:.1f} s, {len(plan.data) / 1e6:.1f} MB")
    assert plan.facts["gpu"] == ""
    assert plan.facts["version"] == sys.modules["tensorrt_rtx"].__version__
    assert plan.facts["buckets"] == [1, 2, 4, 8, 16, 32]
    assert len(plan.data) > len(onnx) / 2  # the weights are inside
    return plan.data


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "small"])
def test_every_network_builds(name: str, precision: str) -> None:
    check_plan(name, precision)


def test_int8_with_zero_points_is_refused_in_tensorrt_s_own_words() -> None:
    pixels = np.random.default_rng(0).random((8, 1, 28, 28), np.float32)
    onnx = quantise(graph("small", "float32"), pixels, signed=False)
    with pytest.raises(ValueError, match=r"can parse, got: QuantizeLinear .* Export with opset 20, int8") as caught:
        build_plan("tensorrt-rtx", onnx, input_shape=(1, 28, 28))
    assert "\n" not in str(caught.value)


def test_an_operator_that_tensorrt_rtx_has_not_is_named() -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Riddle", ["f"], ["y"], domain="local")]
    onnx = model(nodes, outputs=[("y", FLOAT, ["N", 4])]).SerializeToString()
    with pytest.raises(ValueError, match=r"tensorrt-rtx .* can parse, got: Riddle: .*Plugin not found") as caught:
        build_plan("tensorrt-rtx", onnx, input_shape=(1, 2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has an NVIDIA driver")
def test_its_plan_is_refused_without_a_driver() -> None:
    with pytest.raises(RuntimeError, match=r"expected an NVIDIA driver \(libcuda.so.1\), got none"):
        TensorRtRtxEngine(check_plan("small", "float32"), options=EngineOptions())


SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
NO_BIAS = {"QuantizeBias": False}
PRODUCTS = ["Conv", "MatMul", "Gemm"]


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        pytest.param({"per_channel": True, "extra_options": SYMMETRIC | NO_BIAS}, 4, id="all operators"),
        pytest.param(
            {"per_channel": True, "op_types_to_quantize": PRODUCTS, "extra_options": SYMMETRIC | NO_BIAS},
            4,
            id="products",
        ),
        pytest.param({"op_types_to_quantize": PRODUCTS, "extra_options": SYMMETRIC | NO_BIAS}, 4, id="per tensor"),
        pytest.param({"per_channel": True, "extra_options": SYMMETRIC}, 1, id="int32 biases"),
        pytest.param(
            {"per_channel": True, "op_types_to_quantize": PRODUCTS, "extra_options": NO_BIAS}, 0, id="zero points"
        ),
    ],
)
def test_which_settings_of_onnx_runtime_s_quantisation_it_takes(settings: dict, built: int, tmp_path: Path) -> None:
    """The table of docs/tensorrt.md."""
    found = 0
    for name in NETWORKS.keys() - {"small"}:
        shape = NETWORKS[name][3]
        plain, quantised = tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx"
        plain.write_bytes(graph(name, "float32"))
        quantize_static(
            str(plain),
            str(quantised),
            RandomImages(shape),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            **settings,
        )
        try:
            build_plan("tensorrt-rtx", quantised.read_bytes(), input_shape=shape)
            found += 1
        except ValueError as error:
            assert "can parse, got: " in str(error)  # noqa: PT017  (some are refused, and so named)
    assert found == built


class RandomImages(CalibrationDataReader):
    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._batches = iter(np.random.default_rng(0).random((2, 8, *shape), np.float32))

    def get_next(self) -> dict | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def test_which_gpus_it_builds_for(tensorrt_rtx: ModuleType) -> None:
    """docs/tensorrt.md: no H100, and no float32 on Turing, which a plan leaves out by default."""
    assert not hasattr(tensorrt_rtx.ComputeCapability, "SM90")
    tensorrt = load("tensorrt-rtx")
    builder = tensorrt_rtx.Builder(tensorrt.log)
    network, settings = builder.create_network(0), builder.create_builder_config()
    assert settings.num_compute_capabilities == 0
    assert tensorrt_rtx.OnnxParser(network, tensorrt.log).parse(graph("small", "float32"))
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(1, 1, 28, 28)] * 3)
    settings.add_optimization_profile(profile)
    settings.num_compute_capabilities = 1
    assert settings.set_compute_capability(tensorrt_rtx.ComputeCapability.SM75, 0)
    mark = tensorrt.log.mark()
    assert builder.build_serialized_network(network, settings) is None
    assert "FP32 GEMM is not supported" in tensorrt.log.since(mark)
