"""OpenVINO on the CPU, in float32 whatever the CPU would prefer; the only file that imports openvino.

It picks bfloat16 by itself where the CPU has it, which moves probabilities by 7e-3: float32 is asked for, and that it
was granted is checked. The integer layers of an int8 network run as integers.
"""

from __future__ import annotations

import io
import os
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, final

import numpy as np
import openvino
from openvino.frontend import FrontEndManager

from rrise.runtime.documents import brief
from rrise.runtime.engines.external_data import refuse_external_data
from rrise.runtime.engines.protocol import EXPORT, Engine, EngineOptions, check_batch, check_logits, in_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def _runtime(process: int) -> openvino.Core:
    """Return the one runtime of a process, which is never destroyed: a forked child needs threads of its own.

    OpenVINO 2026.4 gives the calling thread a signal stack for as long as a Core lives, then puts back the one before
    it. With a Core for each engine, dropped in the order they were made, the stack put back was unmapped memory, and
    the next Ctrl-C ended the process with a segmentation fault.
    """
    return openvino.Core()


@final
class OpenVinoEngine(Engine):
    """Logits of an ONNX network by OpenVINO's CPU plugin; each calling thread has its own inference request.

    Parameters
    ----------
    data : bytes
        The ONNX file. It must hold all its weights.
    precision : str
        Arithmetic of the network, as recorded by whoever exported it.
    options : EngineOptions, optional
        Threads; the device is the CPU. Spinning has no meaning here.

    Raises
    ------
    ValueError
        If the bytes are no ONNX model from one float32 (N,C,H,W) to one float32 (N,K), it needs other files, or
        float32 is not granted.
    """

    opens_after_fork = (
        False  # a child's compile_model ends the parent's executor, which waits for threads that are gone
    )

    def __init__(self, data: bytes, *, precision: str = "float32", options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        if options.device not in ("", "cpu"):
            raise ValueError(f"engine: expected device 'cpu' for OpenVINO, got {options.device!r}. Use device='cpu'.")
        if not data:
            raise ValueError("engine: expected an ONNX model, got no bytes. Re-run rrise export.")
        refuse_external_data(data)
        try:
            # The ONNX front end alone: OpenVINO's own format is XML that may name other files.
            front = FrontEndManager().load_by_framework("onnx")
            model = front.convert(front.load(io.BytesIO(data)))
            batch, self.input_shape, self.num_classes = _signature(model)
            self._compiled = _runtime(os.getpid()).compile_model(model, "CPU", _settings(options.threads))
        except ValueError:
            raise  # of this file
        except Exception as error:  # RuntimeError, and others of OpenVINO's that are none
            raise ValueError(
                f"engine: expected an ONNX model, got {brief(str(error), 300)}. Re-run rrise export."
            ) from None
        granted = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if granted != "f32":
            raise ValueError(
                f"engine: expected OpenVINO to compute in f32, got {granted}. Use onnxruntime: the calibration holds "
                "for float32 only."
            )
        self._batch = batch
        self._local = threading.local()
        self.kind = "openvino"
        self.version = str(openvino.__version__).partition("-")[0]
        self.precision = precision
        self.device = "cpu"

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits float32[N, K]; a network of fixed batch runs in parts, the last one padded with zeros."""
        check_batch(batch, self.input_shape)
        if len(batch) == 0:
            return np.empty((0, self.num_classes), np.float32)
        if self._batch is None or self._batch == len(batch):
            return self._run(batch)
        return in_parts(self._run, batch, self._batch)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        batch = np.ascontiguousarray(batch)
        request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
        request.infer()
        logits: NDArray[np.float32] = request.get_output_tensor().data.copy()  # its memory is the next call's
        return check_logits(logits, len(batch), self.num_classes)


def _settings(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def _signature(model: Any) -> tuple[int | None, tuple[int, int, int], int]:
    """Return the fixed batch, if any, the shape (C,H,W) of an image and the number of classes."""
    for role, ports in (("input", model.inputs), ("output", model.outputs)):
        if len(ports) != 1:
            raise ValueError(f"engine: expected one {role}, got {len(ports)}. {EXPORT}")
        if ports[0].get_element_type() != openvino.Type.f32:
            raise ValueError(f"engine: expected {role} of float32, got {ports[0].get_element_type()}. {EXPORT}")
    takes, gives = model.inputs[0].get_partial_shape(), model.outputs[0].get_partial_shape()
    image = list(takes)[1:] if takes.rank.is_static else []
    if len(image) != 3 or any(size.is_dynamic or size.get_length() < 1 for size in image):
        raise ValueError(f"engine: expected input of shape (N,C,H,W), fixed but for N, got {takes}. {EXPORT}")
    logits = list(gives) if gives.rank.is_static else []
    if len(logits) != 2 or logits[1].is_dynamic or logits[1].get_length() < 2:
        raise ValueError(f"engine: expected output of shape (N,K), K at least 2, got {gives}. {EXPORT}")
    channels, height, width = (size.get_length() for size in image)
    batch = None if takes[0].is_dynamic else takes[0].get_length()
    return batch, (channels, height, width), logits[1].get_length()
