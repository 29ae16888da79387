"""A GPU made of host memory: the driver as ctypes sees it, and cuda.bindings.runtime's functions with CUDA's rules.

Work on a stream runs when the stream is waited for, never before; while a stream is captured its work is only written
down. What CUDA leaves undefined (a freed or foreign address, a copy past the end) is an AssertionError here.
"""
# ruff: noqa: N801, N802, N815 (the names are NVIDIA's)

import ctypes
import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FakeDriver:
    """libcuda.so.1 by ctypes: statuses out, results through pointers."""

    def __init__(self, names: tuple[str, ...] = ("Fake GPU",), init: int = 0) -> None:
        self._names, self._init = names, init

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self._init

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = len(self._names)
        return 0

    def cuDeviceGet(self, handle: object, index: int) -> int:
        handle._obj.value = 100 + index
        return 0

    def cuDeviceGetName(self, name: ctypes.Array, size: int, handle: ctypes.c_int) -> int:
        name.value = self._names[handle.value - 100].encode()[: size - 1]
        return 0


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


@dataclass
class Stream:
    number: int
    device: int
    waiting: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None

    def __int__(self) -> int:
        return self.number

    def add(self, work: Callable[[], None]) -> None:
        (self.waiting if self.captured is None else self.captured).append(work)


class FakeRuntime:
    """The module cuda.bindings.runtime; public names are the module's, `fake` holds what a test looks at or breaks."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode

    def __init__(self) -> None:
        self.fake = State()

    def _begin(self, name: str) -> int:
        self.fake.calls.append(name)
        return self.fake.broken.get(name, cudaError_t.cudaSuccess)

    def _made(self, name: str, thing: object) -> tuple:
        status = self._begin(name)
        return (status, None if status else thing)

    def cudaGetErrorString(self, error: int) -> tuple:
        return (cudaError_t.cudaSuccess, str(cudaError_t(error).name).encode())

    def cudaGetDevice(self) -> tuple:
        return (cudaError_t.cudaSuccess, self.fake.device)

    def cudaSetDevice(self, device: int) -> tuple:
        self.fake.local.device = device
        return (self._begin("cudaSetDevice"),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple:
        assert flags == self.cudaStreamNonBlocking
        status, stream = self._made("cudaStreamCreateWithFlags", Stream(1000, self.fake.device))
        if stream is not None:
            self.fake.streams[int(stream)] = stream
        return (status, stream)

    def cudaStreamDestroy(self, stream: Stream) -> tuple:
        assert not self.fake.memory, "memory outlives the stream that uses it"
        assert stream.captured is None, "a capture that was begun was not ended"
        del self.fake.streams[int(stream)]
        return (self._begin("cudaStreamDestroy"),)

    def cudaMalloc(self, size: int) -> tuple:
        return self._allocate("cudaMalloc", size)

    def cudaMallocHost(self, size: int) -> tuple:
        return self._allocate("cudaMallocHost", size)

    def _allocate(self, name: str, size: int) -> tuple:
        assert size > 0
        status = self._begin(name)
        if status:
            return (status, None)
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        address = ctypes.addressof(block)
        self.fake.memory[address] = (name, size, block)
        return (status, address)

    def cudaFree(self, devPtr: int) -> tuple:
        assert self.fake.memory.pop(devPtr)[0] == "cudaMalloc"
        return (self._begin("cudaFree"),)

    def cudaFreeHost(self, ptr: int) -> tuple:
        assert self.fake.memory.pop(ptr)[0] == "cudaMallocHost"
        return (self._begin("cudaFreeHost"),)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Stream) -> tuple:
        status = self._begin("cudaMemcpyAsync")
        rooms = ("cudaMallocHost", "cudaMalloc")
        source, target = rooms if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else rooms[::-1]

        def work() -> None:
            self.fake.check(src, count, source)
            self.fake.check(dst, count, target)
            ctypes.memmove(dst, src, count)

        stream.add(work)
        return (status,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple:
        assert stream.captured is None
        waiting, stream.waiting = stream.waiting, []
        for work in waiting:
            time.sleep(2e-5)  # other threads get their turn, as while a GPU works
            work()
        return (self._begin("cudaStreamSynchronize"),)

    def cudaStreamBeginCapture(self, stream: Stream, mode: cudaStreamCaptureMode) -> tuple:
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert not stream.waiting
        status, stream.captured = self._made("cudaStreamBeginCapture", [])
        return (status,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple:
        graph, stream.captured = stream.captured, None
        return self._made("cudaStreamEndCapture", graph)

    def cudaGraphInstantiate(self, graph: list, flags: int) -> tuple:
        assert flags == 0
        status, executable = self._made("cudaGraphInstantiate", tuple(graph))
        if executable is not None:
            self.fake.graphs[id(executable)] = executable
        return (status, executable)

    def cudaGraphDestroy(self, graph: list) -> tuple:
        graph.clear()
        return (self._begin("cudaGraphDestroy"),)

    def cudaGraphLaunch(self, graphExec: tuple, stream: Stream) -> tuple:
        assert id(graphExec) in self.fake.graphs
        assert self.fake.device == stream.device, "a launch on a thread whose device is another"
        for work in graphExec:
            stream.add(work)
        return (self._begin("cudaGraphLaunch"),)

    def cudaGraphExecDestroy(self, graphExec: tuple) -> tuple:
        del self.fake.graphs[id(graphExec)]
        return (self._begin("cudaGraphExecDestroy"),)


class State:
    """What happened on the fake GPU (`calls`), what is alive on it, and which functions are to fail (`broken`)."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: dict[str, cudaError_t] = {}
        self.memory: dict[int, tuple[str, int, object]] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, tuple] = {}
        self.local = threading.local()

    @property
    def device(self) -> int:
        return getattr(self.local, "device", 0)

    def check(self, address: int, size: int, room: str) -> None:
        for start, (kind, length, _) in self.memory.items():
            if start <= address and address + size <= start + length:
                assert kind == room, f"expected {room}, got {kind}"
                return
        raise AssertionError(f"{size} bytes at {address} are nobody's")
