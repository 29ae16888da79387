"""TensorRT and TensorRT-RTX: a plan on an NVIDIA GPU, one CUDA graph for each size of batch.

All work goes to one side stream, so a call is: fill the page-locked buffer, launch one graph (copy in, network, copy
out), wait.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise.runtime.engines.cuda import NO_FORK, Cuda, find_gpu, load_cuda
from rrise.runtime.engines.protocol import Engine, EngineOptions, check_batch
from rrise.runtime.engines.tensorrt_graphs import enqueue, make_buffers, make_context, make_graph
from rrise.runtime.engines.tensorrt_module import KINDS, Tensor, TensorRt, batch_buckets, check_tensors, load

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _PlanEngine(Engine):
    """A plan that runs; the two kinds differ in the module and in how a context is made."""

    def __init__(self, kind: str, data: bytes, precision: str, options: EngineOptions | None) -> None:
        gpu = find_gpu((options or EngineOptions()).device)  # before any object of TensorRT
        tensorrt = load(kind)
        cuda = Cuda(gpu, load_cuda(KINDS[kind][1]))
        contexts: dict[int, Any] = {}
        try:
            with cuda.current():
                runtime = tensorrt.make(tensorrt.module.Runtime, tensorrt.log)
                plan = _deserialize(runtime, data, tensorrt, gpu.name)
                names, (smallest, largest), self.input_shape, self.num_classes = _signature(plan, tensorrt)
                buffers = make_buffers(cuda, plan, largest, self.input_shape, self.num_classes)
                buckets = batch_buckets(smallest, largest)
                cuda.on_close(contexts.clear)
                for size in buckets:
                    contexts[size] = make_context(cuda, plan, tensorrt, names, buffers, size)
                graphs = {size: make_graph(cuda, contexts[size], tensorrt, buffers, size) for size in buckets}
        except BaseException:
            cuda.close()
            raise
        self._cuda, self._tensorrt, self._buffers = cuda, tensorrt, buffers
        self._contexts, self._graphs = contexts, graphs
        self._owners = (runtime, plan)  # each must outlive what it made
        self._lock, self._process = threading.Lock(), os.getpid()
        weakref.finalize(self, cuda.close)
        self.kind = kind
        self.version = tensorrt.version
        self.precision = precision
        self.device = gpu.name

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits float32[N, K]; a batch is padded to the next graph's, a larger one runs in parts.

        Raises
        ------
        TypeError, ValueError
            If the batch has another dtype or shape.
        RuntimeError
            If CUDA fails, or this process is a fork of the one that opened the engine.
        """
        check_batch(batch, self.input_shape)
        if os.getpid() != self._process:
            raise RuntimeError(
                f"engine: expected the process that opened it ({self._process}), got a fork of it ({os.getpid()}). "
                f"{NO_FORK}"
            )
        logits = np.empty((len(batch), self.num_classes), np.float32)
        largest = max(self._graphs)
        with self._lock, self._cuda.current():
            for start in range(0, len(batch), largest):
                part = batch[start : start + largest]
                logits[start : start + len(part)] = self._run(part)
        return logits

    def _run(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        size = min(size for size in self._graphs if size >= len(part))
        self._buffers.images[: len(part)] = part
        self._buffers.images[len(part) : size] = 0
        graph = self._graphs[size]
        if graph is None:
            enqueue(self._cuda, self._contexts[size], self._tensorrt, self._buffers, size)
        else:
            self._cuda.launch(graph)
        self._cuda.synchronize()
        return self._buffers.logits[: len(part)]


@final
class TensorRtEngine(_PlanEngine):
    """Logits of a TensorRT plan, on a GPU of the model that it was built for.

    Parameters
    ----------
    data : bytes
        The plan. It holds code for the GPU: open only what you trust.
    precision : str
        Arithmetic of the network, as its export recorded it.
    options : EngineOptions, optional
        ``device`` picks the GPU, the first by default; threads and spinning have no meaning here.

    Raises
    ------
    RuntimeError
        If there is no driver, no GPU or too little memory.
    ValueError
        If the plan is of another version of TensorRT or another GPU, or not from one float32 (N,C,H,W) to one
        float32 (N,K).
    ImportError
        If tensorrt or cuda.bindings is not installed.
    """

    def __init__(self, data: bytes, *, precision: str = "float32", options: EngineOptions | None = None) -> None:
        super().__init__("tensorrt", data, precision, options)


@final
class TensorRtRtxEngine(_PlanEngine):
    """Logits of a TensorRT-RTX plan, compiled for the GPU when it is opened; otherwise as `TensorRtEngine`."""

    def __init__(self, data: bytes, *, precision: str = "float32", options: EngineOptions | None = None) -> None:
        super().__init__("tensorrt-rtx", data, precision, options)


def _deserialize(runtime: Any, data: bytes, tensorrt: TensorRt, gpu: str) -> Any:
    mark = tensorrt.log.mark()
    plan = runtime.deserialize_cuda_engine(data) if data else None
    if plan is None:
        raise ValueError(
            f"engine: expected a plan of {tensorrt.kind} {tensorrt.version} for {gpu}, got: "
            f"{tensorrt.log.since(mark) if data else 'no bytes'}. Re-run rrise export --engine {tensorrt.kind} on this "
            "machine and calibrate again."
        )
    return plan


def _signature(plan: Any, tensorrt: TensorRt) -> tuple[tuple[str, str], tuple[int, int], tuple[int, int, int], int]:
    """Return the names of input and output, the smallest and largest batch, shape (C,H,W) and number of classes."""
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    modes = (tensorrt.module.TensorIOMode.INPUT, tensorrt.module.TensorIOMode.OUTPUT)
    inputs, outputs = (
        [
            Tensor.of(name, plan.get_tensor_dtype(name), plan.get_tensor_shape(name))
            for name in names
            if plan.get_tensor_mode(name) == mode
        ]
        for mode in modes
    )
    batch, input_shape, num_classes = check_tensors(inputs, outputs)
    if batch < 0:
        smallest, _, largest = (next(iter(shape)) for shape in plan.get_tensor_profile_shape(inputs[0].name, 0))
    else:
        smallest = largest = batch
    return (inputs[0].name, outputs[0].name), (max(smallest, 1), largest), input_shape, num_classes
