"""What a plan runs in: fixed buffers, one execution context and one CUDA graph for each size of batch.

NVIDIA's rule for captured graphs is kept: one context a graph, their memory shared, since they never run at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.runtime.engines.cuda import Cuda
from rrise.runtime.engines.tensorrt_module import TensorRt

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARM_UPS = 2


@dataclass(frozen=True)
class Buffers:
    """Fixed memory for the largest batch.

    Parameters
    ----------
    images : float32[N, C, H, W]
        Page-locked memory of the host, one row an image.
    logits : float32[N, K]
        The same.
    gpu_images, gpu_logits : int
        Addresses of their twins on the GPU.
    scratch, scratch_bytes : int
        Address and size of the memory that all contexts share.
    """

    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    gpu_images: int
    gpu_logits: int
    scratch: int
    scratch_bytes: int


def make_buffers(cuda: Cuda, plan: Any, largest: int, input_shape: tuple[int, int, int], num_classes: int) -> Buffers:
    """Return buffers for batches up to the largest."""
    images = cuda.pinned(largest * int(np.prod(input_shape))).reshape(largest, *input_shape)
    logits = cuda.pinned(largest * num_classes).reshape(largest, num_classes)
    scratch_bytes = plan.device_memory_size_v2  # for the largest batch, hence for every other
    return Buffers(
        images,
        logits,
        gpu_images=cuda.memory(images.nbytes),
        gpu_logits=cuda.memory(logits.nbytes),
        scratch=cuda.memory(scratch_bytes),
        scratch_bytes=scratch_bytes,
    )


def make_context(cuda: Cuda, plan: Any, tensorrt: TensorRt, names: tuple[str, str], buffers: Buffers, size: int) -> Any:
    """Return a context for batches of one size, its addresses set and TensorRT's deferred work done."""
    mark = tensorrt.log.mark()
    shared = tensorrt.module.ExecutionContextAllocationStrategy.USER_MANAGED
    if tensorrt.rtx:
        # By default its kernels change some calls after the first of a shape: logits must not, and graphs cannot.
        strategies = tensorrt.module.DynamicShapesKernelSpecializationStrategy
        settings = plan.create_runtime_config()
        settings.set_execution_context_allocation_strategy(shared)
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        context = plan.create_execution_context(settings)
    else:
        context = plan.create_execution_context(shared)
    if context is None:
        raise _failed(tensorrt, "create an execution context", mark)
    images, logits = names
    context.set_device_memory(buffers.scratch, buffers.scratch_bytes)
    if not (
        context.set_input_shape(images, (size, *buffers.images.shape[1:]))
        and context.set_tensor_address(images, buffers.gpu_images)
        and context.set_tensor_address(logits, buffers.gpu_logits)
    ):
        raise _failed(tensorrt, f"take a batch of {size}", mark)
    shape = tuple(context.get_tensor_shape(logits))
    if shape != (size, buffers.logits.shape[1]):
        raise ValueError(
            f"engine: expected logits of shape {(size, buffers.logits.shape[1])}, got {shape}. Re-run rrise export."
        )
    for _ in range(_WARM_UPS):
        enqueue(cuda, context, tensorrt, buffers, size)
        cuda.synchronize()
    return context


def make_graph(cuda: Cuda, context: Any, tensorrt: TensorRt, buffers: Buffers, size: int) -> Any:
    """Return the graph of one call, or None where TensorRT-RTX says that the network cannot be captured."""
    if tensorrt.rtx and not context.is_stream_capturable(cuda.stream):
        return None
    return cuda.capture(lambda: enqueue(cuda, context, tensorrt, buffers, size))


def enqueue(cuda: Cuda, context: Any, tensorrt: TensorRt, buffers: Buffers, size: int) -> None:
    """Enqueue one call: the images to the GPU, the network, the logits back."""
    mark = tensorrt.log.mark()
    cuda.copy_in(buffers.gpu_images, buffers.images[:size])
    if not context.execute_async_v3(cuda.stream):
        raise _failed(tensorrt, f"run a batch of {size}", mark)
    cuda.copy_out(buffers.logits[:size], buffers.gpu_logits)


def _failed(tensorrt: TensorRt, action: str, mark: int) -> RuntimeError:
    return RuntimeError(
        f"engine: expected {tensorrt.kind} {tensorrt.version} to {action}, got: {tensorrt.log.since(mark)}. Free the "
        "GPU's memory, or re-run rrise export with a smaller max_batch."
    )
