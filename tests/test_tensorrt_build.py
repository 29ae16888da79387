"""Building a plan, against a TensorRT made of numpy: what it is asked, what is recorded, and every refusal."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_machine import VERSIONS, install
from fake_tensorrt import GPU
from onnx import TensorProto, helper, numpy_helper
from reference_engines import FLOAT, linear_engine, model

from rrise.runtime.documents import sha256_of
from rrise.runtime.engines import cuda, tensorrt_module
from rrise.runtime.engines.tensorrt_build import Plan, PlanConfig, build_plan

ONNX = linear_engine(np.ones((4, 3)), np.zeros(3))


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, request.param)


def build(world: SimpleNamespace, onnx: bytes = ONNX, **settings: object) -> Plan:
    return build_plan(world.kind, onnx, input_shape=(1, 2, 2), config=PlanConfig(**settings))


def one_line(caught: pytest.ExceptionInfo) -> str:
    text = str(caught.value)
    assert ": expected " in text
    assert ", got" in text
    assert "\n" not in text
    return text


def test_facts_of_a_plan(world: SimpleNamespace) -> None:
    assert build(world, max_batch=6).facts == {
        "version": world.version,
        "gpu": "" if world.kind == "tensorrt-rtx" else GPU,
        "onnx_sha256": sha256_of(ONNX),
        "tf32": False,
        "max_batch": 6,
        "opt_batch": 1,
        "optimization_level": 3,
        "buckets": [1, 2, 4, 6],
    }


def test_what_tensorrt_is_asked_by_default(world: SimpleNamespace) -> None:
    build(world)
    (config,) = world.tensorrt.config
    flags = {flag.name for flag in config._flags}
    assert flags == ({"REQUIRE_USER_ALLOCATION"} if world.kind == "tensorrt-rtx" else set())
    assert config._limits == {}
    assert config.builder_optimization_level == 3
    assert config._profiles == [{"x": [[1, 1, 2, 2], [1, 1, 2, 2], [64, 1, 2, 2]]}]


def test_what_tensorrt_is_asked_on_demand(world: SimpleNamespace) -> None:
    build(world, tf32=True, workspace_mib=256, optimization_level=5, max_batch=32, opt_batch=16)
    (config,) = world.tensorrt.config
    assert world.module.BuilderFlag.TF32 in config._flags
    assert config._limits == {world.module.MemoryPoolType.WORKSPACE: 256 << 20}
    assert config.builder_optimization_level == 5
    assert config._profiles == [{"x": [[1, 1, 2, 2], [16, 1, 2, 2], [32, 1, 2, 2]]}]


def test_a_network_of_fixed_batch_keeps_it(world: SimpleNamespace) -> None:
    facts = build(world, linear_engine(np.ones((4, 3)), np.zeros(3), batch=5)).facts
    assert (facts["max_batch"], facts["opt_batch"], facts["buckets"]) == (5, 5, [5])


def test_tensorrt_asks_the_driver_first_and_tensorrt_rtx_needs_none(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-absent.so.1")
    if world.kind == "tensorrt-rtx":
        assert build(world).facts["gpu"] == ""
        return
    with pytest.raises(RuntimeError, match=r"expected an NVIDIA driver \(libcuda-absent.so.1\), got none") as caught:
        build(world)
    one_line(caught)
    assert world.tensorrt.calls == []


def test_a_network_that_tensorrt_cannot_parse(world: SimpleNamespace) -> None:
    world.tensorrt.broken["parse"] = "No importer registered\n for op: Det"
    with pytest.raises(ValueError, match=r"got: Det node_7: No importer registered for op: Det\. Export") as caught:
        build(world)
    assert f"that {world.kind} {world.version} can parse" in one_line(caught)


@pytest.mark.parametrize("method", ["build_serialized_network", "add_optimization_profile"])
def test_a_network_that_tensorrt_cannot_build(world: SimpleNamespace, method: str) -> None:
    world.tensorrt.broken[method] = "Error Code 9: API Usage Error\n(no implementation for node_7)"
    said = r"got: Error Code 9: API Usage Error \(no implementation for node_7\)\. "
    with pytest.raises(ValueError, match=said) as caught:
        build(world)
    one_line(caught)


def test_a_builder_that_does_not_start(world: SimpleNamespace) -> None:
    world.tensorrt.broken["Builder"] = "CUDA initialization failure with error: 35"
    said = f"expected {world.kind} {world.version} to start, got: CUDA initialization failure with error: 35"
    with pytest.raises(RuntimeError, match=said) as caught:
        build(world)
    one_line(caught)


def test_a_silent_failure_is_told_as_one(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.module.Builder, "build_serialized_network", lambda *arguments: None)
    with pytest.raises(ValueError, match="got: no reason in its log"):
        build(world)


def test_an_error_is_told_before_warnings_and_long_logs_are_cut(world: SimpleNamespace) -> None:
    log = tensorrt_module.load(world.kind).log
    logger = world.module.ILogger
    log.log(logger.ERROR, "of an earlier call")
    mark = log.mark()
    log.log(logger.INFO, "never kept")
    log.log(logger.WARNING, "a warning.")
    assert log.since(mark) == "a warning"
    for number in range(5):
        log.log(logger.ERROR, f"error {number}")
    log.log(logger.WARNING, "another")
    assert log.since(mark) == "error 2; error 3; error 4"
    log.log(logger.INTERNAL_ERROR, "x" * 5000)
    assert len(log.since(mark)) == 600
    for number in range(1000):
        log.log(logger.ERROR, f"error {number}")
    assert log.since(log.mark()) == "no reason in its log"


def test_one_logger_serves_the_process(world: SimpleNamespace) -> None:
    assert tensorrt_module.load(world.kind) is tensorrt_module.load(world.kind)


W = numpy_helper.from_array(np.ones((4, 3), np.float32), "W")
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
MATMUL = helper.make_node("MatMul", ["f", "W"], ["y"])
X, Y = ("x", FLOAT, ["N", 1, 2, 2]), ("y", FLOAT, ["N", 3])
HALF = TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        pytest.param([X, ("mask", FLOAT, [1])], [Y], r"expected one input, got 2 \(x, mask\)", id="two inputs"),
        pytest.param([X], [Y, ("f", FLOAT, ["N", 4])], r"expected one output, got 2 \(y, f\)", id="two outputs"),
        pytest.param([("x", HALF, X[2])], [Y], "expected input 'x' of float32, got HALF", id="half input"),
        pytest.param([X], [("y", HALF, Y[2])], "expected output 'y' of float32, got HALF", id="half output"),
        pytest.param([("x", FLOAT, ["N", 2, 2])], [Y], r"shape \(N,C,H,W\), .*got \(-1, 2, 2\)", id="rank"),
        pytest.param([("x", FLOAT, ["N", 1, "H", 2])], [Y], r"fixed but for N, got \(-1, 1, -1, 2\)", id="free"),
        pytest.param([X], [("y", FLOAT, ["N", "K"])], r"shape \(N,K\), .*got \(-1, -1\)", id="free classes"),
        pytest.param([X], [("y", FLOAT, ["N", 1])], "K at least 2", id="one class"),
        pytest.param([("x", FLOAT, ["N", 1, 4, 1])], [Y], r"images \(1, 2, 2\), got .*\(1, 4, 1\)", id="other images"),
    ],
)
def test_a_graph_that_is_no_engine_is_refused(world: SimpleNamespace, inputs: list, outputs: list, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        build(world, model([FLATTEN, MATMUL], [W], inputs, outputs).SerializeToString())
    one_line(caught)
    assert "build_serialized_network" not in world.tensorrt.calls


def test_external_data_is_refused(world: SimpleNamespace) -> None:
    tensor = TensorProto(name="W", data_type=FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    with pytest.raises(ValueError, match="holds all its weights, got external data"):
        build(world, model([FLATTEN, MATMUL], [tensor]).SerializeToString())
    assert world.tensorrt.calls == []


def test_bytes_that_are_no_onnx(world: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="engine: expected an ONNX file, got"):
        build(world, b"not an onnx file")


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="expected a kind out of tensorrt, tensorrt-rtx, got 'onnxruntime'"):
        build_plan("onnxruntime", ONNX, input_shape=(1, 2, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch": 0},
        {"max_batch": 1 << 17},
        {"opt_batch": 0},
        {"max_batch": 4, "opt_batch": 5},
        {"workspace_mib": -1},
        {"optimization_level": 6},
        {"optimization_level": -1},
    ],
)
def test_settings_out_of_range(settings: dict) -> None:
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=f"{name}: expected .*, got {settings[name]}"):
        PlanConfig(**settings)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, "tensorrt 11")


def test_a_timing_cache_is_made_read_and_written_back(tensorrt: SimpleNamespace, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    for builds in (1, 2):
        build(tensorrt, timing_cache=str(cache))
        assert cache.read_bytes() == b"+timings" * builds
    assert [entry.name for entry in tmp_path.iterdir()] == ["timings"]


def test_a_failed_build_leaves_the_timing_cache(tensorrt: SimpleNamespace, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"known")
    tensorrt.tensorrt.broken["build_serialized_network"] = "no"
    with pytest.raises(ValueError, match="got: no"):
        build(tensorrt, timing_cache=str(cache))
    assert cache.read_bytes() == b"known"


@pytest.mark.parametrize(
    ("broken", "warned"),
    [
        pytest.param({"set_timing_cache": "of another GPU"}, {}, id="another GPU"),
        pytest.param({}, {"create_timing_cache": "Failed to deserialize timing cache."}, id="another file"),
    ],
)
def test_a_file_that_is_no_timing_cache_of_this_gpu_is_kept(
    tensorrt: SimpleNamespace, tmp_path: Path, broken: dict, warned: dict
) -> None:
    cache = tmp_path / "holiday.jpg"
    cache.write_bytes(b"a picture")
    tensorrt.tensorrt.broken |= broken
    tensorrt.tensorrt.warned |= warned
    said = next(iter({**broken, **warned}.values())).rstrip(".")
    with pytest.raises(ValueError, match=rf"timing_cache: .* got holiday.jpg: {said}\. Name another file"):
        build(tensorrt, timing_cache=str(cache))
    assert cache.read_bytes() == b"a picture"
    assert "build_serialized_network" not in tensorrt.tensorrt.calls


def test_a_timing_cache_in_no_folder(tensorrt: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timing_cache: expected a file in an existing folder"):
        build(tensorrt, timing_cache=str(tmp_path / "absent" / "timings"))


def test_tensorrt_rtx_has_no_timing_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = install(monkeypatch, "tensorrt-rtx")
    with pytest.raises(ValueError, match="timing_cache: expected none for tensorrt-rtx"):
        build(world, timing_cache=str(tmp_path / "timings"))
