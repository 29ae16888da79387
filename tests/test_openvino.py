"""OpenVINO behind the engine protocol: right logits in float32, from many threads, and nothing read from elsewhere."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from reference_engines import FLOAT, linear_engine, model
from test_engines import BORROWERS, WEIGHTS, batch

from rrise.runtime import EngineOptions, open_engine
from rrise.runtime.engines.opening import open_engine_bytes

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'rrise[openvino]'")
BIAS = np.array([0.25, -0.5, 0], np.float32)


def opened(data: bytes, **options: object) -> object:
    return open_engine_bytes(data, "openvino", options=EngineOptions(**options))


@pytest.mark.parametrize("fixed", ["N", 1, 4], ids=lambda size: f"batch {size}")
@pytest.mark.parametrize("n", [0, 1, 3, 9])
def test_logits_of_a_linear_network(fixed: int | str, n: int) -> None:
    logits = opened(linear_engine(WEIGHTS, BIAS, batch=fixed))(batch(n))
    assert (logits.shape, logits.dtype) == ((n, 3), np.float32)
    np.testing.assert_allclose(logits, batch(n).reshape(n, 4) @ WEIGHTS + BIAS, atol=1e-6)


def test_facts_of_an_engine() -> None:
    engine = open_engine_bytes(linear_engine(WEIGHTS, BIAS), "openvino", precision="int8")
    assert (engine.kind, engine.version, engine.device) == ("openvino", openvino.__version__.partition("-")[0], "cpu")
    assert (engine.precision, engine.input_shape, engine.num_classes) == ("int8", (1, 2, 2), 3)
    assert not engine.opens_after_fork


def test_answers_are_float32s_not_bfloat16s(tmp_path: Path) -> None:
    """Beside ONNX Runtime on a network deep enough for bfloat16 to show (its error there is above 1e-3)."""
    rng = np.random.default_rng(0)
    sizes = (4, 256, 256, 256, 3)
    nodes, tensors, last = [helper.make_node("Flatten", ["x"], ["f"])], [], "f"
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights = rng.normal(0, (2 / fan_in) ** 0.5, (fan_in, fan_out)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], ["y" if fan_out == 3 else f"m{index}"]))
        if fan_out != 3:
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"]))
        last = f"r{index}"
    data = model(nodes, tensors).SerializeToString()
    images = rng.random((64, 1, 2, 2), dtype=np.float32)
    expected = open_engine_bytes(data, "onnxruntime")(images)
    assert np.abs(opened(data)(images) - expected).max() < 2e-5 * np.abs(expected).max()


def test_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from rrise.runtime.engines import openvino as module

    settings = module._settings
    monkeypatch.setattr(module, "_settings", lambda threads: settings(threads) | {"INFERENCE_PRECISION_HINT": "bf16"})
    compiled = module._runtime(os.getpid()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in compiled:
        pytest.skip("this CPU has no bfloat16, so OpenVINO would not use it")
    with pytest.raises(ValueError, match="expected OpenVINO to compute in f32, got bf16"):
        opened(linear_engine(WEIGHTS, BIAS))


def test_many_threads_give_what_one_gives() -> None:
    engine = opened(linear_engine(WEIGHTS, BIAS))
    batches = [batch(1 + index % 5) + np.float32(index % 7) for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for got, images in zip(pool.map(engine, batches), batches, strict=True):
            np.testing.assert_allclose(got, images.reshape(len(images), 4) @ WEIGHTS + BIAS, atol=1e-5)


def test_a_strided_batch_is_read_as_numpy_reads_it() -> None:
    images = batch(8)[::2]
    np.testing.assert_array_equal(
        opened(linear_engine(WEIGHTS, BIAS))(images), opened(linear_engine(WEIGHTS, BIAS))(np.ascontiguousarray(images))
    )


W = numpy_helper.from_array(WEIGHTS, "W")
FLATTEN, MATMUL = helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["y"])
X = ("x", FLOAT, ["N", 1, 2, 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "expected an ONNX model, got no bytes", id="empty"),
        pytest.param(b"not an onnx file", "expected an ONNX", id="text"),
        pytest.param(b"<net name='x' version='11'><layers/></net>", "expected an ONNX", id="OpenVINO's own XML"),
        pytest.param(linear_engine(WEIGHTS, BIAS)[:-40], "expected an ONNX", id="truncated"),
        pytest.param(
            model(
                [FLATTEN, helper.make_node("MatMul", ["f", "W"], ["z"]), helper.make_node("Add", ["z", "mask"], ["y"])],
                [W],
                [X, ("mask", FLOAT, [1])],
            ).SerializeToString(),
            "one input, got 2",
            id="two inputs",
        ),
        pytest.param(
            model([FLATTEN, MATMUL], [W], [("x", FLOAT, ["N", 1, "H", 2])]).SerializeToString(),
            "fixed but for N",
            id="dynamic height",
        ),
        pytest.param(linear_engine(WEIGHTS[:, :1], BIAS[:1]), "K at least 2", id="one class"),
        pytest.param(
            model(
                [FLATTEN, helper.make_node("MatMul", ["f", "W"], ["z"]), helper.make_node("Cast", ["z"], ["y"], to=10)],
                [W],
                [X],
                [("y", TensorProto.FLOAT16, ["N", 3])],
            ).SerializeToString(),
            "expected output of float32, got",
            id="half output",
        ),
    ],
)
def test_a_graph_that_is_no_engine_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        opened(data)
    assert str(caught.value).startswith("engine: expected ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", BORROWERS)
def test_external_data_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ValueError, match="holds all its weights, got external data"):
        opened(BORROWERS[place].SerializeToString())


def test_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="expected device 'cpu' for OpenVINO, got 'cuda:0'"):
        opened(linear_engine(WEIGHTS, BIAS), device="cuda:0")


def test_a_bare_file_opens_as_the_kind_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(linear_engine(WEIGHTS, BIAS))
    assert open_engine(tmp_path / "engine.onnx", "openvino").kind == "openvino"


@pytest.mark.skipif(sys.platform != "linux", reason="POSIX signals")
def test_ctrl_c_after_engines_were_opened_and_dropped_is_an_exception() -> None:
    """Each Core gives its thread a signal stack and puts the last one back; in the order made, that one is unmapped."""
    script = f"""
        import os, signal
        from rrise.runtime.engines.opening import open_engine_bytes
        first, second = (open_engine_bytes({linear_engine(WEIGHTS, BIAS)!r}, "openvino") for _ in range(2))
        del first
        del second
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([signal.SIGUSR1], 5)
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
