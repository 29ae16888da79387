"""Running a plan, against a GPU and a TensorRT made of numpy that keep CUDA's and TensorRT's rules.

What is checked is rrise's own part: what it puts into its buffers and graphs, and each of its refusals once. That
NVIDIA's own modules have every name used is `test_tensorrt_api.py`; that a plan runs needs a GPU.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import FakeDriver, cudaError_t
from fake_machine import VERSIONS, install, refused
from fake_tensorrt import GPU
from reference_engines import linear_engine

from rrise.runtime.engines import cuda, tensorrt_module
from rrise.runtime.engines.protocol import Engine, EngineOptions
from rrise.runtime.engines.tensorrt import TensorRtEngine, TensorRtRtxEngine
from rrise.runtime.engines.tensorrt_build import PlanConfig, build_plan

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)
BIAS = np.array([0.25, -0.5, 0], np.float32)
ENGINES = {"tensorrt": TensorRtEngine, "tensorrt-rtx": TensorRtRtxEngine}


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """Let gc.collect, in `nothing_left`, look through these tests' objects alone."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, "tensorrt 11")


def plan(world: SimpleNamespace, batch: int | str = "N", **changes: object) -> bytes:
    onnx = linear_engine(WEIGHTS, BIAS, batch=batch)
    data = build_plan(world.kind, onnx, input_shape=(1, 2, 2), config=PlanConfig(max_batch=8)).data
    return json.dumps(json.loads(data) | changes).encode()


def open_plan(world: SimpleNamespace, data: bytes | None = None, device: str = "") -> Engine:
    data = plan(world) if data is None else data
    return ENGINES[world.kind](data, precision="float16", options=EngineOptions(device=device))


def batch(n: int) -> np.ndarray:
    return (np.arange(n * 4, dtype=np.float32) / np.float32(n * 4 + 1)).reshape(n, 1, 2, 2)


def expected(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), 4) @ WEIGHTS + BIAS


def nothing_left(world: SimpleNamespace) -> bool:
    gc.collect()
    alive = (world.cuda.memory, world.cuda.graphs, world.cuda.streams, world.tensorrt.contexts)
    return alive == ({}, {}, {}, 0)


@pytest.mark.parametrize("name", VERSIONS)
def test_facts_and_the_logits_of_batches_of_every_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = install(monkeypatch, name)
    engine = open_plan(world)
    facts = (engine.kind, engine.version, engine.precision, engine.device, engine.input_shape, engine.num_classes)
    assert facts == (world.kind, world.version, "float16", GPU, (1, 2, 2), 3)
    for n in (8, 0, 1, 2, 3, 5, 7, 9, 20, 1):
        logits = engine(batch(n))
        assert logits.shape == (n, 3)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected(batch(n)), atol=1e-6)


def test_a_batch_is_padded_with_zeros_to_the_next_bucket_and_a_larger_one_runs_in_parts(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    engine(batch(8) + 1)
    for n, parts in ((3, [4]), (1, [1]), (5, [8]), (19, [8, 8, 4])):
        del world.tensorrt.seen[:]
        engine(batch(n))
        assert [len(images) for images in world.tensorrt.seen] == parts
        images = np.concatenate(world.tensorrt.seen)
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


def test_a_network_of_fixed_batch(world: SimpleNamespace) -> None:
    engine = open_plan(world, plan(world, batch=4))
    assert world.cuda.calls.count("cudaGraphInstantiate") == 1
    for n in (1, 4, 9):
        np.testing.assert_allclose(engine(batch(n)), expected(batch(n)), atol=1e-6)


def test_one_graph_for_each_bucket_captured_after_two_warm_ups(world: SimpleNamespace) -> None:
    engine = open_plan(world)
    assert world.tensorrt.contexts == 4
    assert world.tensorrt.calls.count("execute_async_v3") == 4 * (2 + 1)
    calls = world.cuda.calls
    assert calls.count("cudaGraphInstantiate") == calls.count("cudaGraphDestroy") == 4
    assert "cudaStreamSynchronize" not in calls[calls.index("cudaStreamBeginCapture") :]  # all warm-ups are over
    before = len(calls), len(world.tensorrt.calls)
    engine(batch(20))
    assert calls[before[0] :] == ["cudaSetDevice", *["cudaGraphLaunch", "cudaStreamSynchronize"] * 3]
    assert len(world.tensorrt.calls) == before[1]  # TensorRT itself is not called again


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
    world = install(monkeypatch, "tensorrt 11", (GPU, "Second GPU"))
    engine = open_plan(world, device="cuda:1")
    assert engine.device == "Second GPU"
    assert world.cuda.device == 0
    np.testing.assert_allclose(engine(batch(3)), expected(batch(3)), atol=1e-6)
    assert world.cuda.device == 0
    del engine
    assert nothing_left(world)
    assert world.cuda.device == 0


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


@pytest.mark.parametrize("device", ["cpu", "gpu:0", "cuda:x", "cuda:-1", "cuda:²"])
def test_a_device_that_is_no_gpu_is_refused(device: str) -> None:
    with refused(ValueError, f"expected a device such as 'cuda:0' for TensorRT, got '{device}'"):
        cuda.find_gpu(device)


@pytest.mark.parametrize(
    ("driver", "device", "error", "said"),
    [
        pytest.param(None, "", RuntimeError, r"an NVIDIA driver \(libcuda.so.1\), got none", id="no driver"),
        pytest.param(FakeDriver(init=100), "", RuntimeError, "an NVIDIA GPU, got error 100 of cuInit", id="no GPU"),
        pytest.param(
            FakeDriver(init=3), "", RuntimeError, "got a fork of one that uses the GPU .* by spawn", id="fork"
        ),
        pytest.param(FakeDriver(), "cuda:1", ValueError, "a device below cuda:1, .* got 'cuda:1'", id="no such GPU"),
    ],
)
def test_the_driver_refuses_before_any_object_of_tensorrt_is_made(
    world: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    driver: FakeDriver | None,
    device: str,
    error: type[Exception],
    said: str,
) -> None:
    """TensorRT's runtime can take the process down where there is no driver."""

    def load(path: str) -> FakeDriver:
        if driver is None:
            raise OSError
        return driver

    data = plan(world)
    world.tensorrt.calls.clear()
    monkeypatch.setattr(ctypes, "CDLL", load)
    with refused(error, f"engine: expected .*{said}"):
        open_plan(world, data, device)
    assert world.tensorrt.calls == world.cuda.calls == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param({"version": "9.9"}, r"got: Version tag does not match: 9\.9, ", id="another version"),
        pytest.param(b"\x00", "got: Serialization assertion magicTagRead == kMAGIC_TAG failed", id="garbage"),
        pytest.param(b"", "got: no bytes", id="empty"),
    ],
)
def test_a_plan_of_another_version_or_none_is_refused_in_tensorrt_s_own_words(
    monkeypatch: pytest.MonkeyPatch, data: dict | bytes, said: str
) -> None:
    world = install(monkeypatch, "tensorrt-rtx")
    kind = f"expected a plan of tensorrt-rtx {world.version} for {GPU}, "
    with refused(ValueError, f"{kind}{said}.*Re-run rrise export --engine tensorrt-rtx on this machine and calibrate"):
        open_plan(world, plan(world, **data) if isinstance(data, dict) else data)
    assert nothing_left(world)


def test_a_plan_of_other_inputs_is_refused(world: SimpleNamespace) -> None:
    """One of the refusals of `check_tensors`; the others are in test_tensorrt_build.py."""
    with refused(ValueError, r"expected one input, got 2 \(x, x\)"):
        open_plan(world, plan(world, names=["x", "x"]))
    assert nothing_left(world)


Provoke = Callable[[SimpleNamespace, pytest.MonkeyPatch], object]


def absent(module: str) -> Provoke:
    return lambda world, monkeypatch: monkeypatch.setitem(sys.modules, module, None)


def tensorrt_refuses(method: str) -> Provoke:
    return lambda world, monkeypatch: world.tensorrt.broken.update({method: "Error Code 1: Cuda\n  (out of memory)"})


def cuda_refuses(function: str, error: cudaError_t) -> Provoke:
    return lambda world, monkeypatch: world.cuda.broken.update({function: error})


SAID = r"Error Code 1: Cuda \(out of memory\)\. (Free|Check)"
ROOM, OTHER = cudaError_t.cudaErrorMemoryAllocation, cudaError_t.cudaErrorIllegalAddress
CUDA = {
    "cudaSetDevice": OTHER,
    "cudaStreamCreateWithFlags": OTHER,
    "cudaMallocHost": ROOM,
    "cudaMalloc": ROOM,
    "cudaMemcpyAsync": OTHER,
    "cudaStreamSynchronize": OTHER,
    "cudaStreamBeginCapture": OTHER,
    "cudaStreamEndCapture": OTHER,
    "cudaGraphInstantiate": ROOM,
}
CUDA_SAYS = {
    ROOM: f"expected room on {GPU}, got {{}}: out of memory. Free the GPU",
    OTHER: rf"expected {{}} to succeed on {GPU}, got error 700 \(cudaErrorIllegalAddress\)",
}


@pytest.mark.parametrize(
    ("provoke", "error", "said"),
    [
        pytest.param(absent("tensorrt"), ImportError, r"the module tensorrt, got .*rrise\[tensorrt\]", id="module"),
        pytest.param(
            absent("cuda.bindings.runtime"),
            ImportError,
            r"the module cuda.bindings, .*rrise\[tensorrt\]",
            id="bindings",
        ),
        *[
            pytest.param(tensorrt_refuses(method), RuntimeError, f"{said}, got: {SAID}", id=method)
            for method, said in {
                "Runtime": "tensorrt 11.4.0.106 to start",
                "create_execution_context": "to create an execution context",
                "set_input_shape": "to take a batch of 1",
                "set_tensor_address": "to take a batch of 1",
                "execute_async_v3": "to run a batch of 1",
            }.items()
        ],
        pytest.param(
            lambda world, monkeypatch: setattr(world.tensorrt, "answer", (1, 7)),
            ValueError,
            r"logits of shape \(1, 3\), got \(1, 7\)",
            id="logits of another shape",
        ),
        pytest.param(
            lambda world, monkeypatch: monkeypatch.setattr("rrise.runtime.engines.tensorrt_graphs._WARM_UPS", 0),
            RuntimeError,
            "to run a batch of 1, got: deferred work during capture",
            id="within a capture",
        ),
        *[
            pytest.param(cuda_refuses(name, error), RuntimeError, CUDA_SAYS[error].format(name), id=name)
            for name, error in CUDA.items()
        ],
    ],
)
def test_what_refuses_while_a_plan_is_opened_is_told_and_leaves_nothing(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, provoke: Provoke, error: type[Exception], said: str
) -> None:
    data = plan(world)
    tensorrt_module._loaded.cache_clear()
    provoke(world, monkeypatch)
    with refused(error, said):
        open_plan(world, data)
    assert nothing_left(world)


def test_a_batch_of_another_shape_is_refused(world: SimpleNamespace) -> None:
    """One of the refusals of `check_batch`; the others are in test_engines.py."""
    with refused(ValueError, r"expected a batch of shape \(N,1,2,2\), got \(2, 1, 4, 1\)"):
        open_plan(world)(batch(2).reshape(2, 1, 4, 1))


@pytest.mark.parametrize("function", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failure_while_serving_is_told_and_the_next_call_works(world: SimpleNamespace, function: str) -> None:
    engine = open_plan(world)
    world.cuda.broken[function] = OTHER
    with refused(RuntimeError, CUDA_SAYS[OTHER].format(function)):
        engine(batch(2))
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
