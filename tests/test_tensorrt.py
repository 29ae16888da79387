"""Running a plan, against a GPU and a TensorRT made of numpy that keep CUDA's and TensorRT's rules.

No GPU has run this adapter. What is proved here is the order of its calls, what it does with every refusal, and that
the logits arrive; that NVIDIA's own modules have every name used is `test_tensorrt_api.py`.
"""

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import FakeDriver, cudaError_t
from fake_machine import VERSIONS, install
from fake_tensorrt import GPU
from reference_engines import linear_engine

from rrise.runtime.engines import cuda, tensorrt_module
from rrise.runtime.engines.protocol import Engine, EngineOptions
from rrise.runtime.engines.tensorrt import TensorRtEngine, TensorRtRtxEngine
from rrise.runtime.engines.tensorrt_build import PlanConfig, build_plan
from rrise.runtime.engines.tensorrt_module import batch_buckets

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)
BIAS = np.array([0.25, -0.5, 0], np.float32)
ENGINES = {"tensorrt": TensorRtEngine, "tensorrt-rtx": TensorRtRtxEngine}


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, request.param)


def plan(world: SimpleNamespace, max_batch: int = 8, batch: int | str = "N", **changes: object) -> bytes:
    onnx = linear_engine(WEIGHTS, BIAS, batch=batch)
    data = build_plan(world.kind, onnx, input_shape=(1, 2, 2), config=PlanConfig(max_batch=max_batch)).data
    return json.dumps(json.loads(data) | changes).encode()


def open_plan(world: SimpleNamespace, data: bytes | None = None, device: str = "") -> Engine:
    return ENGINES[world.kind](plan(world) if data is None else data, options=EngineOptions(device=device))


def batch(n: int) -> np.ndarray:
    return (np.arange(n * 4, dtype=np.float32) / np.float32(n * 4 + 1)).reshape(n, 1, 2, 2)


def expected(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), 4) @ WEIGHTS + BIAS


def nothing_left(world: SimpleNamespace) -> bool:
    gc.collect()
    alive = (world.cuda.memory, world.cuda.graphs, world.cuda.streams, world.tensorrt.contexts)
    return alive == ({}, {}, {}, 0)


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [(1, 8, (1, 2, 4, 8)), (1, 1, (1,)), (1, 6, (1, 2, 4, 6)), (3, 9, (3, 4, 8, 9)), (5, 5, (5,)), (1, 3, (1, 2, 3))],
)
def test_buckets(smallest: int, largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_buckets(smallest, largest) == sizes


def test_facts_of_an_engine(world: SimpleNamespace) -> None:
    engine = ENGINES[world.kind](plan(world), precision="float16")
    facts = (engine.kind, engine.version, engine.precision, engine.device, engine.input_shape, engine.num_classes)
    assert facts == (world.kind, world.version, "float16", GPU, (1, 2, 2), 3)


def test_logits_of_batches_of_every_size(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    for n in (8, 0, 1, 2, 3, 5, 7, 9, 20, 1):
        logits = engine(batch(n))
        assert logits.shape == (n, 3)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected(batch(n)), atol=1e-6)


def test_a_batch_is_padded_with_zeros_to_the_next_bucket(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    engine(batch(8) + 1)
    for n, padded in ((3, 4), (1, 1), (5, 8)):
        engine(batch(n))
        images = world.tensorrt.seen[-1]
        assert len(images) == padded
        np.testing.assert_array_equal(images[:n], batch(n).reshape(n, 4))
        assert not images[n:].any()


def test_the_logits_of_one_call_are_not_the_next_one_s_memory(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    first = engine(batch(3))
    engine(batch(8) + 1)
    np.testing.assert_allclose(first, expected(batch(3)), atol=1e-6)


def test_any_layout_of_a_batch_in_memory(world: SimpleNamespace) -> None:
    images = np.asfortranarray(batch(6))[::-2]
    np.testing.assert_allclose(open_plan(world)(images), expected(images), atol=1e-6)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_a_network_of_fixed_batch(world: SimpleNamespace, n: int) -> None:
    engine = open_plan(world, plan(world, batch=4))
    assert world.cuda.calls.count("cudaGraphInstantiate") == 1
    np.testing.assert_allclose(engine(batch(n)), expected(batch(n)), atol=1e-6)


def test_one_graph_for_each_bucket_captured_after_two_warm_ups(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    assert world.tensorrt.contexts == 4
    assert world.tensorrt.calls.count("execute_async_v3") == 4 * (2 + 1)
    calls = world.cuda.calls
    assert calls.count("cudaGraphInstantiate") == calls.count("cudaGraphDestroy") == 4
    capture = calls.index("cudaStreamBeginCapture")
    assert calls[capture : capture + 5] == [
        "cudaStreamBeginCapture",
        "cudaMemcpyAsync",
        "cudaMemcpyAsync",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
    ]
    assert "cudaStreamSynchronize" not in calls[capture:]  # all warm-ups are over by then
    before = len(calls), len(world.tensorrt.calls)
    engine(batch(20))
    assert calls[before[0] :] == ["cudaSetDevice", *["cudaGraphLaunch", "cudaStreamSynchronize"] * 3]
    assert len(world.tensorrt.calls) == before[1]  # TensorRT itself is not called again


def test_the_driver_is_asked_before_any_object_of_tensorrt(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = plan(world)
    world.tensorrt.calls.clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: FakeDriver(init=100))
    with pytest.raises(RuntimeError, match="expected an NVIDIA GPU, got error 100 of cuInit"):
        open_plan(world, data)
    assert world.tensorrt.calls == []
    assert world.cuda.calls == []


def test_a_network_that_tensorrt_rtx_cannot_capture_runs_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = install(monkeypatch, "tensorrt-rtx")
    world.tensorrt.capturable = False
    engine = open_plan(world)
    assert "cudaStreamBeginCapture" not in world.cuda.calls
    np.testing.assert_allclose(engine(batch(11)), expected(batch(11)), atol=1e-6)


def test_many_threads_get_each_its_own_logits(world: SimpleNamespace) -> None:
    engine, wrong = open_plan(world), []

    def ask(thread: int) -> None:
        for turn in range(20):
            images = batch(1 + (thread + turn) % 9) + np.float32(thread)
            if not np.allclose(engine(images), expected(images), atol=1e-5):
                wrong.append((thread, turn))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_another_gpu_and_the_device_of_the_thread_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = install(monkeypatch, "tensorrt 11", ("Fake GPU", "Second GPU"))
    engine = open_plan(world, device="cuda:1")
    assert engine.device == "Second GPU"
    assert world.cuda.device == 0
    np.testing.assert_allclose(engine(batch(3)), expected(batch(3)), atol=1e-6)
    assert world.cuda.device == 0
    del engine
    assert nothing_left(world)
    assert world.cuda.device == 0


@pytest.mark.parametrize("device", ["cuda:1", "cuda:99"])
def test_a_gpu_that_is_not_there(world: SimpleNamespace, device: str) -> None:
    with pytest.raises(ValueError, match=f"expected a device below cuda:1, .* got '{device}'. Choose another"):
        open_plan(world, device=device)


def test_the_cpu_is_no_device_of_tensorrt(world: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="expected a device such as 'cuda:0' for TensorRT, got 'cpu'"):
        open_plan(world, device="cpu")


@pytest.mark.parametrize("device", ["gpu:0", "cuda:x", "cuda:-1", "cuda:²"])
def test_a_device_that_is_no_gpu(device: str) -> None:
    with pytest.raises(ValueError, match="expected a device such as 'cuda:0' for TensorRT, got"):
        cuda.find_gpu(device)


def test_all_is_released_the_last_first(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    engine(batch(3))
    before = len(world.cuda.calls)
    del engine
    assert nothing_left(world)
    assert world.tensorrt.orphans == 0
    released = [call for call in world.cuda.calls[before:] if call != "cudaSetDevice"]
    frees = ["cudaFree"] * 3 + ["cudaFreeHost"] * 2
    assert released == ["cudaGraphExecDestroy"] * 4 + frees + ["cudaStreamDestroy"]


@pytest.mark.parametrize(
    ("images", "error"),
    [
        pytest.param(batch(2).astype(np.float64), TypeError, id="float64"),
        pytest.param(batch(2)[0], ValueError, id="no batch axis"),
        pytest.param(batch(2).reshape(2, 1, 4, 1), ValueError, id="shape"),
    ],
)
def test_a_batch_of_another_kind_is_refused(world: SimpleNamespace, images: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"engine: expected a .*batch"):
        open_plan(world)(images)


def one_line(caught: pytest.ExceptionInfo) -> str:
    text = str(caught.value)
    assert text.startswith("engine: expected ")
    assert ", got" in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"version": "9.9"}, r"got: Version tag does not match: 9\.9", id="version"),
        pytest.param(None, "got: Serialization assertion magicTagRead == kMAGIC_TAG failed", id="garbage"),
        pytest.param({}, "got: no bytes", id="empty"),
    ],
)
def test_a_plan_of_another_version_is_refused_in_tensorrt_s_own_words(
    world: SimpleNamespace, changes: dict | None, said: str
) -> None:
    data = b"\x00garbage" if changes is None else plan(world, **changes) if changes else b""
    with pytest.raises(ValueError, match=said) as caught:
        open_plan(world, data)
    text = one_line(caught)
    assert f"expected a plan of {world.kind} {world.version} for {GPU}" in text
    assert f"Re-run rrise export --engine {world.kind} on this machine and calibrate again." in text
    del caught
    assert nothing_left(world)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"dtype": "HALF"}, "expected input 'x' of float32, got HALF", id="half"),
        pytest.param({"shapes": [[-1, 2, 2], [-1, 3]]}, r"shape \(N,C,H,W\).* got \(-1, 2, 2\)", id="rank 3"),
        pytest.param({"shapes": [[-1, 1, -1, 2], [-1, 3]]}, r"fixed but for N, got \(-1, 1, -1, 2\)", id="free height"),
        pytest.param({"shapes": [[-1, 1, 2, 2], [-1, 3, 1]]}, r"shape \(N,K\).* got \(-1, 3, 1\)", id="rank of output"),
        pytest.param({"shapes": [[-1, 1, 2, 2], [-1, 1]]}, "K at least 2", id="one class"),
        pytest.param({"names": ["x", "x"]}, r"expected one input, got 2 \(x, x\)", id="two inputs"),
    ],
)
def test_a_plan_of_another_shape_is_refused(world: SimpleNamespace, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        open_plan(world, plan(world, **changes))
    one_line(caught)
    del caught  # its traceback holds the context
    assert nothing_left(world)


def test_logits_of_another_shape_are_refused(world: SimpleNamespace) -> None:
    world.tensorrt.answer = (1, 7)
    with pytest.raises(ValueError, match=r"expected logits of shape \(1, 3\), got \(1, 7\)") as caught:
        open_plan(world)
    one_line(caught)


@pytest.mark.parametrize(
    "method",
    ["Runtime", "create_execution_context", "set_input_shape", "set_tensor_address", "execute_async_v3"],
)
def test_every_refusal_of_tensorrt_is_one_line_with_its_own_words(world: SimpleNamespace, method: str) -> None:
    data = plan(world)
    world.tensorrt.broken[method] = "Error Code 1: Cuda Runtime\n  (out of memory)"
    with pytest.raises(RuntimeError, match=r"got: Error Code 1: Cuda Runtime \(out of memory\)\. ") as caught:
        open_plan(world, data)
    one_line(caught)
    del caught  # its traceback holds the context
    assert nothing_left(world)


@pytest.mark.parametrize(
    "function",
    [
        "cudaStreamCreateWithFlags",
        "cudaMalloc",
        "cudaMallocHost",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
    ],
)
@pytest.mark.parametrize("error", [cudaError_t.cudaErrorMemoryAllocation, cudaError_t.cudaErrorIllegalAddress])
def test_every_refusal_of_cuda_is_one_line(world: SimpleNamespace, function: str, error: cudaError_t) -> None:
    data = plan(world)
    world.cuda.broken[function] = error
    said = "out of memory. Free the GPU" if error == 2 else r"error 700 \(cudaErrorIllegalAddress\)"
    with pytest.raises(RuntimeError, match=f"{function}.*{said}") as caught:
        open_plan(world, data)
    one_line(caught)
    if function != "cudaStreamCreateWithFlags":
        assert world.cuda.streams == {}
    assert (world.cuda.memory, world.cuda.graphs) == ({}, {})


def test_a_failure_during_capture_ends_the_capture(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plan(world)
    monkeypatch.setattr("rrise.runtime.engines.tensorrt_graphs._WARM_UPS", 0)
    with pytest.raises(RuntimeError, match="to run a batch of 1, got: deferred work during capture"):
        open_plan(world, data)
    assert world.cuda.calls.count("cudaStreamEndCapture") == 1
    assert nothing_left(world)


def test_a_failure_while_serving_is_told_and_the_next_call_works(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    world.cuda.broken["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(RuntimeError, match=r"cudaStreamSynchronize .* error 700") as caught:
        engine(batch(2))
    one_line(caught)
    world.cuda.broken.clear()
    np.testing.assert_allclose(engine(batch(5)), expected(batch(5)), atol=1e-6)


def test_a_fork_is_refused_and_releases_nothing(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        try:
            engine(batch(1))
            text = "no error"
        except RuntimeError as error:
            text = str(error)
        before = len(world.cuda.calls)
        engine._cuda.close()
        os.write(write, f"{len(world.cuda.calls) - before} {text}".encode())
        os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(read) as pipe:
        told = pipe.read()
    assert told == (
        f"0 engine: expected the process that opened it ({os.getpid()}), got a fork of it ({child}). "
        "CUDA does not survive a fork: start processes by spawn, and open the engine in each."
    )
    np.testing.assert_allclose(engine(batch(2)), expected(batch(2)), atol=1e-6)


def test_an_engine_cannot_be_opened_in_a_fork_either(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plan(world)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: FakeDriver(init=3))  # what cuInit says in a forked child
    with pytest.raises(
        RuntimeError, match=r"got a fork of one that uses the GPU .* start processes by spawn"
    ) as caught:
        open_plan(world, data)
    one_line(caught)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a stub of the driver")
def test_the_driver_is_asked_as_its_c_interface_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver.c").write_text(
        "#include <string.h>\n"
        "int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }\n"
        "int cuDeviceGetCount(int *count) { *count = 2; return 0; }\n"
        "int cuDeviceGet(int *device, int index) { *device = 70 + index; return 0; }\n"
        "int cuDeviceGetName(char *name, int size, int device) {\n"
        '    strncpy(name, device == 71 ? "NVIDIA Second" : "NVIDIA First", size); return 0; }\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "driver.so", tmp_path / "driver.c"], check=True)
    monkeypatch.setattr(cuda, "DRIVER", str(tmp_path / "driver.so"))
    assert [cuda.find_gpu(device) for device in ("", "cuda", "cuda:0", "cuda:1")] == [
        *[cuda.Gpu(0, "NVIDIA First")] * 3,
        cuda.Gpu(1, "NVIDIA Second"),
    ]
    with pytest.raises(ValueError, match="expected a device below cuda:2"):
        cuda.find_gpu("cuda:2")


def test_no_driver(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plan(world)
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-absent.so.1")
    with pytest.raises(RuntimeError, match=r"expected an NVIDIA driver \(libcuda-absent.so.1\), got none. Install"):
        open_plan(world, data)


def test_no_module(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plan(world)
    tensorrt_module._loaded.cache_clear()
    name, extra = tensorrt_module.KINDS[world.kind]
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a module that must not be found
    with pytest.raises(ImportError, match=rf"expected the module {name}, got .*pip install 'rrise\[{extra}\]'"):
        open_plan(world, data)


def test_no_cuda_bindings(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data, extra = plan(world), tensorrt_module.KINDS[world.kind][1]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(ImportError, match=rf"expected the module cuda.bindings, got .*pip install 'rrise\[{extra}\]'"):
        open_plan(world, data)


@pytest.mark.parametrize("engine", ["TensorRtEngine", "TensorRtRtxEngine"])
def test_a_machine_without_a_driver_gets_one_line_and_no_crash(engine: str) -> None:
    program = (
        f"import sys\nfrom rrise.runtime.engines import cuda\nfrom rrise.runtime.engines.tensorrt import {engine}\n"
        f"cuda.DRIVER = 'libcuda-absent.so.1'\n"  # so that the test says the same on a machine with a GPU
        f"try:\n    {engine}(b'plan')\nexcept RuntimeError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1  # a segmentation fault would be -11
    assert done.stdout == ""
    assert done.stderr == (
        "engine: expected an NVIDIA driver (libcuda-absent.so.1), got none. Install it on a machine with an NVIDIA "
        "GPU, or use an engine for the CPU.\n"
    )
