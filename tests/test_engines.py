"""ONNX Runtime behind the engine protocol: right logits, and a refusal by name of every graph that gives none."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from reference_engines import FLOAT, linear_engine, model, write_engine

from rrise.runtime import EngineOptions, open_engine
from rrise.runtime.engines.external_data import references_external_data
from rrise.runtime.engines.onnxruntime import OnnxRuntimeEngine

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)
BIAS = np.array([0.25, -0.5, 0], np.float32)


def batch(n: int) -> np.ndarray:
    return (np.arange(n * 4, dtype=np.float32) / np.float32(n * 4 + 1)).reshape(n, 1, 2, 2)


@pytest.mark.parametrize("fixed", ["N", 1, 4], ids=lambda size: f"batch {size}")
@pytest.mark.parametrize("n", [0, 1, 3, 4, 9])
def test_logits_of_a_linear_network(fixed: int | str, n: int) -> None:
    engine = OnnxRuntimeEngine(linear_engine(WEIGHTS, BIAS, batch=fixed))
    logits = engine(batch(n))
    assert logits.shape == (n, 3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, batch(n).reshape(n, 4) @ WEIGHTS + BIAS, atol=1e-6)


def test_facts_of_an_engine() -> None:
    engine = OnnxRuntimeEngine(linear_engine(np.zeros((24, 5)), np.zeros(5), (3, 4, 2)), precision="int8")
    facts = (engine.kind, engine.version, engine.precision, engine.device, engine.input_shape, engine.num_classes)
    assert facts == ("onnxruntime", onnxruntime.__version__, "int8", "cpu", (3, 4, 2), 5)


@pytest.mark.parametrize("spinning", [False, True])
def test_threads_and_spinning(spinning: bool) -> None:
    engine = OnnxRuntimeEngine(linear_engine(WEIGHTS, BIAS), options=EngineOptions(threads=2, spinning=spinning))
    options = engine._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
    np.testing.assert_allclose(engine(batch(2)), batch(2).reshape(2, 4) @ WEIGHTS + BIAS, atol=1e-6)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0:1", "CUDA"])
def test_devices_that_do_not_exist(device: str) -> None:
    with pytest.raises(ValueError, match=f"device: expected .*got '{device}'"):
        EngineOptions(device=device)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_without_its_provider_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an ONNX Runtime with CUDA for device 'cuda:0', got .*CPU.*gpu in"):
        OnnxRuntimeEngine(linear_engine(WEIGHTS, BIAS), options=EngineOptions(device="cuda:0"))


def test_a_provider_that_onnx_runtime_drops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA's libraries are missing it falls back to the CPU and only warns."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    asked = {}

    class Session:
        def __init__(self, data: bytes, options: object, providers: list, enable_fallback: int) -> None:
            asked["providers"] = providers

        def get_inputs(self) -> list:
            return []

        get_outputs = get_inputs

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(ValueError, match="expected to run by CUDAExecutionProvider, got CPUExecutionProvider"):
        OnnxRuntimeEngine(linear_engine(WEIGHTS, BIAS), options=EngineOptions(device="cuda:1"))
    assert asked["providers"][0] == ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_threads_out_of_range(threads: object) -> None:
    with pytest.raises(ValueError, match="threads: expected an integer of at least 1"):
        EngineOptions(threads=threads)


@pytest.mark.parametrize(
    ("images", "error"),
    [
        pytest.param(batch(2).astype(np.float64), TypeError, id="float64"),
        pytest.param((batch(2) * 255).astype(np.uint8), TypeError, id="uint8"),
        pytest.param(batch(2)[0], ValueError, id="no batch axis"),
        pytest.param(batch(2).reshape(2, 1, 4, 1), ValueError, id="shape"),
    ],
)
def test_a_batch_of_another_kind_is_refused(images: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"engine: expected a .*batch"):
        OnnxRuntimeEngine(linear_engine(WEIGHTS, BIAS))(images)


W = numpy_helper.from_array(WEIGHTS, "W")
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
MATMUL = helper.make_node("MatMul", ["f", "W"], ["y"])
X, Y = ("x", FLOAT, ["N", 1, 2, 2]), ("y", FLOAT, ["N", 3])


def cast(to: int) -> list:
    return [FLATTEN, helper.make_node("MatMul", ["f", "W"], ["z"]), helper.make_node("Cast", ["z"], ["y"], to=to)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "expected an ONNX model, got", id="empty"),
        pytest.param(b"not an onnx file", "expected an ONNX", id="text"),
        pytest.param(linear_engine(WEIGHTS, BIAS)[:-40], "expected an ONNX", id="truncated"),
        pytest.param(
            model([FLATTEN, MATMUL], [W], [X, ("mask", FLOAT, [1])]).SerializeToString(),
            r"expected one input, got 2 \(x, mask\)",
            id="two inputs",
        ),
        pytest.param(
            model([FLATTEN, MATMUL], [W], [X], [Y, ("f", FLOAT, ["N", 4])]).SerializeToString(),
            r"expected one output, got 2 \(y, f\)",
            id="two outputs",
        ),
        pytest.param(
            model(
                [helper.make_node("Cast", ["x"], ["c"], to=FLOAT), helper.make_node("Flatten", ["c"], ["f"]), MATMUL],
                [W],
                [("x", TensorProto.DOUBLE, ["N", 1, 2, 2])],
            ).SerializeToString(),
            r"expected input 'x' of float32, got tensor\(double\)",
            id="double input",
        ),
        pytest.param(
            model(cast(TensorProto.FLOAT16), [W], [X], [("y", TensorProto.FLOAT16, ["N", 3])]).SerializeToString(),
            r"expected output 'y' of float32, got tensor\(float16\)",
            id="half output",
        ),
        pytest.param(
            model([FLATTEN, MATMUL], [W], [("x", FLOAT, ["N", 2, 2])]).SerializeToString(),
            r"expected input 'x' of shape \(N,C,H,W\)",
            id="rank 3",
        ),
        pytest.param(
            model([FLATTEN, MATMUL], [W], [("x", FLOAT, ["N", 1, "H", 2])]).SerializeToString(),
            "fixed but for N",
            id="dynamic height",
        ),
        pytest.param(
            model(
                [helper.make_node("Relu", ["x"], ["y"])], [], [X], [("y", FLOAT, ["N", 1, 2, 2])]
            ).SerializeToString(),
            r"expected output 'y' of shape \(N,K\)",
            id="images out",
        ),
        pytest.param(linear_engine(WEIGHTS[:, :1], BIAS[:1]), "K at least 2", id="one class"),
        pytest.param(
            model(
                [FLATTEN, helper.make_node("Compress", ["f", "some"], ["y"], axis=1)],
                [numpy_helper.from_array(np.array([True, True, True, False]), "some")],
                [X],
                [("y", FLOAT, ["N", "K"])],
            ).SerializeToString(),
            r"expected output 'y' of shape \(N,K\)",
            id="unknown number of classes",
        ),
    ],
)
def test_a_graph_that_is_no_engine_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OnnxRuntimeEngine(data)
    text = str(caught.value)
    assert text.startswith("engine: expected ")
    assert ", got " in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")  # ONNX Runtime's own log stays quiet


def test_an_engine_that_answers_another_shape_than_it_says_is_refused() -> None:
    nodes = [
        FLATTEN,
        helper.make_node("MatMul", ["f", "W"], ["z"]),
        helper.make_node("Concat", ["z", "z"], ["y"], axis=0),
    ]
    engine = OnnxRuntimeEngine(model(nodes, [W], [X], [("y", FLOAT, ["M", 3])]).SerializeToString())
    with pytest.raises(ValueError, match=r"expected logits of shape \(2, 3\), got \(4, 3\)"):
        engine(batch(2))


def external(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def constant(tensor: TensorProto) -> list:
    return [helper.make_node("Constant", [], ["W"], value=tensor), MATMUL]


def branch(name: str) -> object:
    result = helper.make_tensor_value_info(f"z{name}", FLOAT, ["N", 3])
    node = helper.make_node("MatMul", ["f", f"W{name}"], [f"z{name}"])
    return helper.make_graph([node], name, [], [result], [external(f"W{name}", "w.bin")])


CHOICE = [
    helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
    helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
    helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
]
CALL = [FLATTEN, helper.make_node("Lin", ["f"], ["y"], domain="local")]
LIN = helper.make_function(
    "local", "Lin", ["f"], ["y"], constant(external("W", "w.bin")), [helper.make_opsetid("", 17)]
)
BORROWERS = {
    "initializer": model([FLATTEN, MATMUL], [external("W", "w.bin")]),
    "constant": model([FLATTEN, *constant(external("W", "w.bin"))]),
    "subgraph": model([FLATTEN, *CHOICE]),
    "function": model(CALL, functions=[LIN]),
}


@pytest.mark.parametrize("place", BORROWERS)
def test_external_data_is_refused_though_onnx_runtime_would_read_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    data = BORROWERS[place].SerializeToString()
    bare = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(bare.run(None, {"x": batch(2)})[0], batch(2).reshape(2, 4) @ WEIGHTS, atol=1e-6)
    with pytest.raises(ValueError, match=r"holds all its weights, got external data. Export with external_data=False"):
        OnnxRuntimeEngine(data)


def test_warnings_of_onnx_runtime_stay_quiet(capfd: pytest.CaptureFixture) -> None:
    data = model([FLATTEN, MATMUL], [W, numpy_helper.from_array(WEIGHTS, "unused")]).SerializeToString()
    onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert "unused" in capfd.readouterr().err
    OnnxRuntimeEngine(data)
    assert capfd.readouterr() == ("", "")


def test_names_that_look_like_external_data_do_no_harm() -> None:
    named = numpy_helper.from_array(WEIGHTS, "external_data.location")
    node = helper.make_node("MatMul", ["f", "external_data.location"], ["y"], name="/location/w.bin")
    assert OnnxRuntimeEngine(model([FLATTEN, node], [named]).SerializeToString()).num_classes == 3


@given(st.binary(max_size=60))
def test_any_bytes_are_scanned_or_refused(data: bytes) -> None:
    try:
        assert references_external_data(data) in (True, False)
    except ValueError as error:
        assert str(error).startswith("engine: expected an ONNX file")  # noqa: PT017


def test_open_a_folder_and_a_file(tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engine", linear_engine(WEIGHTS, BIAS), precision="int8")
    assert open_engine(folder).precision == "int8"
    assert open_engine(str(folder / "engine.onnx")).precision == "float32"
    (tmp_path / "current.onnx").symlink_to(folder / "engine.onnx")
    for path in (folder / "engine.onnx", tmp_path / "current.onnx"):
        np.testing.assert_array_equal(
            open_engine(folder)(batch(3)), open_engine(path, options=EngineOptions(threads=2))(batch(3))
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"sha256": "0" * 64}, "expected engine.onnx with sha256 0000.*Re-run rrise export", id="swapped"),
        pytest.param({"format": "rrise-engine/9"}, "engine.json format to be 'rrise-engine/1'", id="format"),
        pytest.param({"kind": "torch"}, "engine.json kind to be one of", id="kind"),
        pytest.param({"file": "../engine.onnx"}, "engine.json file to be the plain name", id="traversal"),
        pytest.param({"num_classes": 4}, "engine.json classes to be 4 names", id="classes"),
        pytest.param({"input_shape": [1, 2, 3]}, "expected 3 logits of images .1, 2, 3.* as recorded, got", id="shape"),
        pytest.param({"num_classes": 2, "classes": ["a", "b"]}, "expected 2 logits of images", id="K"),
    ],
)
def test_an_engine_folder_that_lies_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    folder = write_engine(tmp_path / "engine", linear_engine(WEIGHTS, BIAS), **changes)
    with pytest.raises(ValueError, match=f"engine: .*{message}"):
        open_engine(folder)


def test_missing_files_and_unknown_kinds(tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engine", linear_engine(WEIGHTS, BIAS))
    with pytest.raises(ValueError, match=r"expected a kind out of onnxruntime, .*, got 'torch'"):
        open_engine(folder / "engine.onnx", kind="torch")
    with pytest.raises(ValueError, match="expected kind 'torch', got 'onnxruntime'"):
        open_engine(folder, kind="torch")
    with pytest.raises(FileNotFoundError, match=r"engine: expected a file .*absent"):
        open_engine(tmp_path / "absent")
    (folder / "engine.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"engine: expected a file .*engine\.onnx"):
        open_engine(folder)


def test_a_plan_on_another_gpu_is_refused(tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engine", linear_engine(WEIGHTS, BIAS), gpu="NVIDIA L4")
    with pytest.raises(ValueError, match=r"GPU that engine\.onnx was built for, NVIDIA L4, got cpu.*export and calibr"):
        open_engine(folder)
    (folder / "engine.json").write_text((folder / "engine.json").read_text().replace("NVIDIA L4", "cpu"))
    assert open_engine(folder).device == "cpu"
