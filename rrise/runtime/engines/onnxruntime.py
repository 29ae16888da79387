"""ONNX Runtime, on the CPU (the default engine) or by its CUDA provider; the only runtime file that imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import onnxruntime

from rrise.runtime.documents import brief
from rrise.runtime.engines.external_data import refuse_external_data
from rrise.runtime.engines.protocol import EXPORT, Engine, EngineOptions, check_batch, check_logits, in_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray


@final
class OnnxRuntimeEngine(Engine):
    """Logits of an ONNX network by ONNX Runtime.

    Parameters
    ----------
    data : bytes
        The ONNX file. It must hold all its weights.
    precision : str
        Arithmetic of the network, as recorded by whoever exported it.
    options : EngineOptions, optional
        Threads, spinning and device: "cpu" (default), or "cuda:0" where onnxruntime-gpu is installed.

    Raises
    ------
    ValueError
        If the bytes are no ONNX model from one float32 (N,C,H,W) to one float32 (N,K), it needs other files, or the
        device is not there.
    """

    def __init__(self, data: bytes, *, precision: str = "float32", options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        refuse_external_data(data)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # errors arrive as exceptions; the rest is noise on a user's terminal
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
        settings.add_session_config_entry("session.load_model_format", "ONNX")
        providers = _providers(options.device)
        try:
            # A fallback would print, and try the same once more.
            self._session = onnxruntime.InferenceSession(data, settings, providers=providers, enable_fallback=0)
            inputs, outputs = _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())
        except Exception as error:  # its exceptions have no common class below Exception
            raise ValueError(
                f"engine: expected an ONNX model, got {brief(str(error), 300)}. Re-run rrise export."
            ) from None
        if self._session.get_providers()[0] != providers[0][0]:  # it falls back silently where CUDA fails to start
            raise ValueError(
                f"engine: expected to run by {providers[0][0]}, got {self._session.get_providers()[0]}. Check the CUDA "
                "and cuDNN libraries, or use device='cpu' and calibrate there."
            )
        self._input, self._batch, self.input_shape = _image_input(inputs)
        self._output, self.num_classes = _logit_output(outputs)
        self._outputs = [self._output]
        self.kind = "onnxruntime"
        self.version = str(onnxruntime.__version__)
        self.precision = precision
        self.device = options.device or "cpu"

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits float32[N, K]; a network of fixed batch runs in parts, the last one padded with zeros."""
        check_batch(batch, self.input_shape)
        if len(batch) == 0:
            return np.empty((0, self.num_classes), np.float32)
        if self._batch is None or self._batch == len(batch):
            return self._run(batch)
        return in_parts(self._run, batch, self._batch)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(self._outputs, {self._input: batch})[0]
        except Exception as error:
            raise ValueError(f"engine: expected logits, got {brief(str(error), 300)}. {EXPORT}") from None
        return check_logits(logits, len(batch), self.num_classes)


def _providers(device: str) -> list[tuple[str, dict[str, Any]]]:
    cpu: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    if device in ("", "cpu"):
        return [cpu]
    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise ValueError(
            f"engine: expected an ONNX Runtime with CUDA for device {device!r}, got {', '.join(available)}. "
            "Install onnxruntime-gpu in place of onnxruntime, or use device='cpu'."
        )
    # Without TF32: the same float32 arithmetic, but for the order of sums, as everywhere else.
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0}), cpu]


class _Tensor(NamedTuple):
    name: str
    type: str
    shape: list[Any]


def _tensors(tensors: list[Any]) -> list[_Tensor]:
    return [_Tensor(tensor.name, tensor.type, tensor.shape) for tensor in tensors]  # raises if not in UTF-8


def _image_input(inputs: list[_Tensor]) -> tuple[str, int | None, tuple[int, int, int]]:
    if len(inputs) != 1:
        raise ValueError(f"engine: expected one input, got {_names(inputs)}. {EXPORT}")
    name, shape = inputs[0].name, inputs[0].shape
    _check_type(inputs[0], "input")
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise ValueError(
            f"engine: expected input {brief(name)} of shape (N,C,H,W), fixed but for N, got {brief(shape)}. {EXPORT}"
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return name, batch, (shape[1], shape[2], shape[3])


def _logit_output(outputs: list[_Tensor]) -> tuple[str, int]:
    if len(outputs) != 1:
        raise ValueError(f"engine: expected one output, got {_names(outputs)}. {EXPORT}")
    name, shape = outputs[0].name, outputs[0].shape
    _check_type(outputs[0], "output")
    if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        raise ValueError(
            f"engine: expected output {brief(name)} of shape (N,K), K at least 2, got {brief(shape)}. {EXPORT}"
        )
    return name, shape[1]


def _check_type(tensor: _Tensor, role: str) -> None:
    if tensor.type != "tensor(float)":
        raise ValueError(f"engine: expected {role} {brief(tensor.name)} of float32, got {tensor.type}. {EXPORT}")


def _names(tensors: list[_Tensor]) -> str:
    names = ", ".join(tensor.name for tensor in tensors)
    return f"{len(tensors)} ({names if names.isprintable() and len(names) <= 80 else brief(names)})"
