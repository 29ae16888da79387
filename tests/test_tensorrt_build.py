"""Building a plan, against a TensorRT made of numpy: what it is asked, what is recorded, and each refusal once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_machine import VERSIONS, install, refused
from fake_tensorrt import GPU
from onnx import TensorProto, helper, numpy_helper
from reference_engines import FLOAT, linear_engine, model

from rrise.runtime.documents import sha256_of
from rrise.runtime.engines import cuda, tensorrt_module
from rrise.runtime.engines.tensorrt_build import Plan, PlanConfig, build_plan
from rrise.runtime.engines.tensorrt_module import Tensor, batch_buckets, check_tensors
from rrise.stages.export import EngineRuntime

ONNX = linear_engine(np.ones((4, 3)), np.zeros(3))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, "tensorrt 11")


def build(world: SimpleNamespace, onnx: bytes = ONNX, **settings: object) -> Plan:
    return build_plan(world.kind, onnx, input_shape=(1, 2, 2), config=PlanConfig(**settings))


@pytest.mark.parametrize("name", VERSIONS)
def test_facts_of_a_plan_and_what_tensorrt_is_asked_by_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = install(monkeypatch, name)
    rtx = world.kind == "tensorrt-rtx"
    assert build(world, max_batch=6).facts == {
        "version": world.version,
        "gpu": "" if rtx else GPU,
        "onnx_sha256": sha256_of(ONNX),
        "tf32": False,
        "max_batch": 6,
        "opt_batch": 1,
        "optimization_level": 3,
        "buckets": [1, 2, 4, 6],
    }
    (config,) = world.tensorrt.config
    assert {flag.name for flag in config._flags} == ({"REQUIRE_USER_ALLOCATION"} if rtx else set())
    assert config._limits == {}
    assert config.builder_optimization_level == 3
    assert config._profiles == [{"x": [[1, 1, 2, 2], [1, 1, 2, 2], [6, 1, 2, 2]]}]


def test_what_tensorrt_is_asked_on_demand(world: SimpleNamespace) -> None:
    facts = build(world, tf32=True, workspace_mib=256, optimization_level=5, max_batch=32, opt_batch=16).facts
    assert (facts["tf32"], facts["optimization_level"], facts["opt_batch"]) == (True, 5, 16)
    (config,) = world.tensorrt.config
    assert world.module.BuilderFlag.TF32 in config._flags
    assert config._limits == {world.module.MemoryPoolType.WORKSPACE: 256 << 20}
    assert config.builder_optimization_level == 5
    assert config._profiles == [{"x": [[1, 1, 2, 2], [16, 1, 2, 2], [32, 1, 2, 2]]}]


def test_a_network_of_fixed_batch_keeps_it(world: SimpleNamespace) -> None:
    facts = build(world, linear_engine(np.ones((4, 3)), np.zeros(3), batch=5)).facts
    assert (facts["max_batch"], facts["opt_batch"], facts["buckets"]) == (5, 5, [5])
    assert world.tensorrt.config[0]._profiles == [{"x": [[5, 1, 2, 2]] * 3}]


def test_what_engine_json_records_of_a_plan(world: SimpleNamespace, tmp_path: Path) -> None:
    config = PlanConfig(max_batch=4, timing_cache=str(tmp_path / "timings"))
    name, data, facts = EngineRuntime(world.kind, (1, 2, 2), config).build(ONNX, "float32")
    assert name == "engine.plan"
    assert sha256_of(ONNX) == facts["plan"]["onnx_sha256"]
    assert (facts["gpu"], facts["plan"]["version"], facts["plan"]["buckets"]) == (GPU, world.version, [1, 2, 4])
    assert facts["plan"]["settings"]["max_batch"] == 4
    assert str(tmp_path) not in str(facts)  # a path of this machine
    assert data.startswith(b"{")


def test_tensorrt_rtx_builds_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    world = install(monkeypatch, "tensorrt-rtx")
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-absent.so.1")
    assert build(world).facts["gpu"] == ""


def test_buckets() -> None:
    assert batch_buckets(1, 8) == (1, 2, 4, 8)
    assert batch_buckets(1, 6) == (1, 2, 4, 6)
    assert batch_buckets(3, 9) == (3, 4, 8, 9)
    assert batch_buckets(5, 5) == (5,)


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


NO_REASON = "no reason in its log"
SAID = r"Error Code 9: API Usage Error \(of node_7\)"


@pytest.mark.parametrize(
    ("method", "logged", "error", "said"),
    [
        ("Builder", True, RuntimeError, f"tensorrt 11.4.0.106 to start, got: {SAID}. Check that driver"),
        ("parse", True, ValueError, f"tensorrt 11.4.0.106 can parse, got: Det node_7: {SAID}. Export with opset 20"),
        ("parse", False, ValueError, f"tensorrt 11.4.0.106 can parse, got: {NO_REASON}. Export with opset 20"),
        ("add_optimization_profile", True, ValueError, f"a valid optimisation profile, got: {SAID}. Lower max_batch"),
        ("build_serialized_network", True, ValueError, f"to build the network, got: {SAID}. Change that layer"),
        ("build_serialized_network", False, ValueError, f"to build the network, got: {NO_REASON}. Change that layer"),
    ],
)
def test_what_tensorrt_refuses_is_told_in_its_own_words(
    world: SimpleNamespace, method: str, logged: bool, error: type[Exception], said: str
) -> None:
    world.tensorrt.broken[method] = "Error Code 9: API Usage Error\n(of node_7)" if logged else ""
    with refused(error, f"engine: expected .*{said}"):
        build(world)


IMAGES, LOGITS = Tensor("x", "FLOAT", (-1, 1, 2, 2)), Tensor("y", "FLOAT", (-1, 3))


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        pytest.param([IMAGES, Tensor("m", "FLOAT", (1,))], [LOGITS], r"one input, got 2 \(x, m\)", id="two inputs"),
        pytest.param([IMAGES], [LOGITS, LOGITS], r"one output, got 2 \(y, y\)", id="two outputs"),
        pytest.param([Tensor("x", "HALF", (-1, 1, 2, 2))], [LOGITS], "input 'x' of float32, got HALF", id="half input"),
        pytest.param([IMAGES], [Tensor("y", "HALF", (-1, 3))], "output 'y' of float32, got HALF", id="half output"),
        pytest.param([Tensor("x", "FLOAT", (-1, 2, 2))], [LOGITS], r"\(N,C,H,W\), .*got \(-1, 2, 2\)", id="rank"),
        pytest.param([Tensor("x", "FLOAT", ())], [LOGITS], r"\(N,C,H,W\), fixed but for N, got \(\)", id="no rank"),
        pytest.param(
            [Tensor("x", "FLOAT", (-1, 1, -1, 2))], [LOGITS], r"fixed but for N, got \(-1, 1, -1, 2\)", id="free height"
        ),
        pytest.param([Tensor("x", "FLOAT", (0, 1, 2, 2))], [LOGITS], r"got \(0, 1, 2, 2\)", id="no image"),
        pytest.param([IMAGES], [Tensor("y", "FLOAT", (-1, 3, 1))], r"\(N,K\), .*got \(-1, 3, 1\)", id="rank of output"),
        pytest.param([IMAGES], [Tensor("y", "FLOAT", (-1, -1))], r"K at least 2, got \(-1, -1\)", id="free classes"),
        pytest.param([IMAGES], [Tensor("y", "FLOAT", (-1, 1))], r"K at least 2, got \(-1, 1\)", id="one class"),
    ],
)
def test_other_tensors_than_images_and_logits_are_refused(inputs: list, outputs: list, said: str) -> None:
    with refused(ValueError, f"engine: expected .*{said}"):
        check_tensors(inputs, outputs)


def test_an_unknown_rank_is_told_from_its_length() -> None:
    """TensorRT's Dims have length -1 then, and their items have no end."""

    class Dims:
        def __len__(self) -> int:
            return -1

        def __getitem__(self, index: int) -> int:
            raise AssertionError(f"item {index} of dimensions of unknown rank")

    assert Tensor.of("y", SimpleNamespace(name="FLOAT"), Dims()) == Tensor("y", "FLOAT", ())


W = numpy_helper.from_array(np.ones((4, 3), np.float32), "W")
NODES = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["y"])]
OUTSIDE = TensorProto(name="W", data_type=FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
OUTSIDE.external_data.add(key="location", value="w.bin")


@pytest.mark.parametrize(
    ("onnx", "said"),
    [
        pytest.param(b"not an onnx file", "expected an ONNX file, got", id="no ONNX"),
        pytest.param(
            model(NODES, [OUTSIDE]).SerializeToString(), "holds all its weights, got external data", id="external data"
        ),
        pytest.param(
            model(NODES, [W], [("x", FLOAT, ["N", 1, 2, 2]), ("m", FLOAT, [1])]).SerializeToString(),
            r"expected one input, got 2 \(x, m\)",
            id="two inputs",
        ),
        pytest.param(
            model(NODES, [W], [("x", FLOAT, ["N", 1, 4, 1])]).SerializeToString(),
            r"expected images \(1, 2, 2\), got a network for \(1, 4, 1\)",
            id="other images",
        ),
    ],
)
def test_a_graph_that_is_no_engine_is_refused_before_it_is_built(
    world: SimpleNamespace, onnx: bytes, said: str
) -> None:
    with refused(ValueError, f"engine: .*{said}"):
        build(world, onnx)
    assert "build_serialized_network" not in world.tensorrt.calls


def test_without_a_driver_nothing_of_tensorrt_is_asked(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-absent.so.1")
    with refused(RuntimeError, r"expected an NVIDIA driver \(libcuda-absent.so.1\), got none"):
        build(world)
    assert world.tensorrt.calls == []


def test_an_unknown_kind_is_refused() -> None:
    with refused(ValueError, "expected a kind out of tensorrt, tensorrt-rtx, got 'onnxruntime'"):
        build_plan("onnxruntime", ONNX, input_shape=(1, 2, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch": 0},
        {"max_batch": 1 << 17},
        {"opt_batch": 0},
        {"max_batch": 4, "opt_batch": 5},
        {"workspace_mib": -1},
        {"workspace_mib": 1 << 30},
        {"optimization_level": -1},
        {"optimization_level": 6},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    name = list(settings)[-1]
    with refused(ValueError, f"{name}: expected .*, got {settings[name]}"):
        PlanConfig(**settings)


def test_a_timing_cache_is_made_read_and_written_back(world: SimpleNamespace, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    for builds in (1, 2):
        world.tensorrt.warned = {} if cache.exists() else {"create_timing_cache": "an empty cache"}
        build(world, timing_cache=str(cache))
        assert cache.read_bytes() == b"+timings" * builds
    assert [entry.name for entry in tmp_path.iterdir()] == ["timings"]


def test_timings_that_cannot_be_written_leave_no_part_of_a_file(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(partial: str, path: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        build(world, timing_cache=str(tmp_path / "timings"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_the_timing_cache(world: SimpleNamespace, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"known")
    world.tensorrt.broken["build_serialized_network"] = "no"
    with refused(ValueError, "got: no"):
        build(world, timing_cache=str(cache))
    assert cache.read_bytes() == b"known"


@pytest.mark.parametrize(
    ("how", "method"),
    [("broken", "create_timing_cache"), ("broken", "set_timing_cache"), ("warned", "create_timing_cache")],
)
def test_a_file_that_is_no_timing_cache_of_this_gpu_is_kept(
    world: SimpleNamespace, tmp_path: Path, how: str, method: str
) -> None:
    cache = tmp_path / "holiday.jpg"
    cache.write_bytes(b"a picture")
    getattr(world.tensorrt, how)[method] = "Failed to deserialize timing cache."
    with refused(ValueError, r"timing_cache: .* got holiday.jpg: Failed to deserialize timing cache\. Name another"):
        build(world, timing_cache=str(cache))
    assert cache.read_bytes() == b"a picture"
    assert "build_serialized_network" not in world.tensorrt.calls


def test_a_timing_cache_in_no_folder_is_refused(world: SimpleNamespace, tmp_path: Path) -> None:
    with refused(ValueError, "timing_cache: expected a file in an existing folder"):
        build(world, timing_cache=str(tmp_path / "absent" / "timings"))


def test_tensorrt_rtx_has_no_timing_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = install(monkeypatch, "tensorrt-rtx")
    with refused(ValueError, "timing_cache: expected none for tensorrt-rtx"):
        build(world, timing_cache=str(tmp_path / "timings"))
