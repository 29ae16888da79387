"""One NVIDIA GPU: the driver asked by ctypes, then a side stream, pinned buffers and graphs over cuda.bindings.

TensorRT's runtime can take the process down where there is no driver, so `find_gpu` comes before any object of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRIVER = "libcuda.so.1"
NO_FORK = "CUDA does not survive a fork: start processes by spawn, and open the engine in each."
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED, of cuInit too in a forked child


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver knows.

    Parameters
    ----------
    index : int
        Its number, after CUDA_VISIBLE_DEVICES.
    name : str
        Its model, such as "NVIDIA L4".
    """

    index: int
    name: str


def find_gpu(device: str = "") -> Gpu:
    """Return the GPU that a device names, asked of the driver alone.

    Parameters
    ----------
    device : str
        "cuda:INDEX"; "" and "cuda" are the first GPU.

    Raises
    ------
    ValueError
        If the device is no GPU, or there is none of that number.
    RuntimeError
        If there is no driver, it finds no GPU, or this process is a fork of one that uses it.
    """
    kind, _, index = (device or "cuda").partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise ValueError(f"engine: expected a device such as 'cuda:0' for TensorRT, got {device!r}. Use device=''.")
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise RuntimeError(
            f"engine: expected an NVIDIA driver ({DRIVER}), got none. Install it on a machine with an NVIDIA GPU, or "
            "use an engine for the CPU."
        ) from None
    count, handle, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256)
    _ask(driver, "cuInit", 0)
    _ask(driver, "cuDeviceGetCount", ctypes.byref(count))
    if int(index or 0) >= count.value:
        raise ValueError(
            f"engine: expected a device below cuda:{count.value}, as many GPUs as the driver shows, got "
            f"{device or 'cuda:0'!r}. Choose another, or check CUDA_VISIBLE_DEVICES."
        )
    _ask(driver, "cuDeviceGet", ctypes.byref(handle), int(index or 0))
    _ask(driver, "cuDeviceGetName", name, len(name), handle)
    return Gpu(int(index or 0), name.value.decode(errors="replace"))


def _ask(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status == _NOT_INITIALIZED:
        raise RuntimeError(
            f"engine: expected a process of its own for CUDA, got a fork of one that uses the GPU ({function} says "
            f"not initialised). {NO_FORK}"
        )
    if status != 0:
        raise RuntimeError(
            f"engine: expected an NVIDIA GPU, got error {status} of {function}. Check that nvidia-smi shows the GPU."
        )


def load_cuda(extra: str) -> Any:
    """Return the module cuda.bindings.runtime.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise ImportError(
            f"engine: expected the module cuda.bindings, got {error}. Run pip install 'rrise[{extra}]'."
        ) from None


@final
class Cuda:
    """A side stream of one GPU with the buffers and graphs made on it; not safe for several threads at once.

    Parameters
    ----------
    gpu : Gpu
    runtime : module
        cuda.bindings.runtime.

    Raises
    ------
    RuntimeError
        If CUDA refuses.
    """

    def __init__(self, gpu: Gpu, runtime: Any) -> None:
        self._gpu, self._runtime, self._process = gpu, runtime, os.getpid()
        self._release = contextlib.ExitStack()
        with self.current():
            self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self._on_close("cudaStreamDestroy", self._stream)

    @property
    def stream(self) -> int:
        """The stream's address, as TensorRT takes it."""
        return int(self._stream)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU the calling thread's for a while: CUDA's choice of device is the thread's own."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self._gpu.index)
        try:
            yield
        finally:
            if before != self._gpu.index:
                self._call("cudaSetDevice", before)

    def memory(self, size: int) -> int:
        """Return the address of so many bytes of the GPU's memory."""
        address: int = self._call("cudaMalloc", max(size, 1))
        self._on_close("cudaFree", address)
        return address

    def pinned(self, count: int) -> NDArray[np.float32]:
        """Return zeros float32[count] in page-locked memory of the host."""
        address = self._call("cudaMallocHost", 4 * count)
        self._on_close("cudaFreeHost", address)
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        array[:] = 0
        return array

    def copy_in(self, address: int, source: NDArray[np.float32]) -> None:
        """Enqueue a copy of pinned memory to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def copy_out(self, target: NDArray[np.float32], address: int) -> None:
        """Enqueue a copy of the GPU's memory to pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait for all that was enqueued."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Return an executable graph of what a function enqueues; nothing runs."""
        # Thread-local: what other threads of the process do meanwhile with CUDA must not break the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._runtime.cudaStreamEndCapture(self._stream)  # the first error is the one to tell
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._runtime.cudaGraphDestroy(graph)  # the executable does not need it
        self._on_close("cudaGraphExecDestroy", executable)
        return executable

    def launch(self, executable: Any) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", executable, self._stream)

    def on_close(self, release: Callable[[], object]) -> None:
        """Call a function before what was made so far is released."""
        self._release.callback(release)

    def close(self) -> None:
        """Release all, the last first; nothing in a forked child, where CUDA's handles mean nothing."""
        if os.getpid() == self._process:
            with contextlib.suppress(RuntimeError), self.current():
                self._release.close()

    def _on_close(self, function: str, handle: Any) -> None:
        self._release.callback(getattr(self._runtime, function), handle)  # its status tells nothing one could act on

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, function)(*arguments)
        if int(status) == _OUT_OF_MEMORY:
            raise RuntimeError(
                f"engine: expected room on {self._gpu.name}, got {function}: out of memory. Free the GPU's memory, or "
                "re-run rrise export with a smaller max_batch."
            )
        if int(status) != 0:
            text = self._runtime.cudaGetErrorString(status)[1].decode(errors="replace")
            raise RuntimeError(
                f"engine: expected {function} to succeed on {self._gpu.name}, got error {int(status)} ({text}). "
                "Restart the process; if it recurs, check the driver with nvidia-smi."
            )
        return results[0] if results else None
