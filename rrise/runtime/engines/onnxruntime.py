"""ONNX Runtime on the CPU: the default engine, and the only file that imports onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import onnxruntime

from rrise.runtime.documents import brief
from rrise.runtime.engines.external_data import references_external_data
from rrise.runtime.engines.protocol import Engine, check_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXPORT = "Re-run rrise export, or export with one float32 input (N,C,H,W) and one float32 output (N,K)."


@final
class OnnxRuntimeEngine(Engine):
    """Logits of an ONNX network by ONNX Runtime's CPU provider.

    Parameters
    ----------
    data : bytes
        The ONNX file. It must hold all its weights.
    precision : str
        Arithmetic of the network, as recorded by whoever exported it.
    threads : int
        Threads that share one call; 1 runs in the caller's thread.
    spinning : bool
        Whether those threads spin between calls: lower latency for a core kept busy. Nothing changes at threads=1.

    Raises
    ------
    ValueError
        If the bytes are no ONNX model from one float32 (N,C,H,W) to one float32 (N,K), or it needs other files.
    """

    def __init__(self, data: bytes, *, precision: str = "float32", threads: int = 1, spinning: bool = False) -> None:
        check_threads(threads)
        if references_external_data(data):
            raise ValueError(
                "engine: expected an ONNX file that holds all its weights, got external data. "
                "Export with external_data=False: a sha256 pins one file only."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors arrive as exceptions; the rest is noise on a user's terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            # A fallback would print, and try the same once more.
            providers = ["CPUExecutionProvider"]
            self._session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
            inputs, outputs = _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())
        except Exception as error:  # its exceptions have no common class below Exception
            raise ValueError(
                f"engine: expected an ONNX model, got {brief(str(error), 300)}. Re-run rrise export."
            ) from None
        self._input, batch, self.input_shape = _image_input(inputs)
        self._output, self.num_classes = _logit_output(outputs)
        self._batch = batch
        self.kind = "onnxruntime"
        self.version = str(onnxruntime.__version__)
        self.precision = precision
        self.device = "cpu"

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits float32[N, K]; a network of fixed batch runs in parts, the last one padded with zeros."""
        if batch.dtype != np.float32:
            raise TypeError(f"engine: expected a float32 batch, got {batch.dtype}. Use rrise.runtime.prepare_images.")
        if batch.ndim != 4 or batch.shape[1:] != self.input_shape:
            raise ValueError(
                f"engine: expected a batch of shape (N,{','.join(map(str, self.input_shape))}), "
                f"got {batch.shape}. Use rrise.runtime.prepare_images."
            )
        if len(batch) == 0:
            return np.empty((0, self.num_classes), np.float32)
        if self._batch is None or self._batch == len(batch):
            return self._run(batch)
        padded = np.zeros((-len(batch) % self._batch + len(batch), *self.input_shape), np.float32)
        padded[: len(batch)] = batch
        parts = [self._run(padded[i : i + self._batch]) for i in range(0, len(padded), self._batch)]
        return np.concatenate(parts)[: len(batch)]

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:
            raise ValueError(f"engine: expected logits, got {brief(str(error), 300)}. {_EXPORT}") from None
        if logits.shape != (len(batch), self.num_classes):
            raise ValueError(
                f"engine: expected logits of shape {(len(batch), self.num_classes)}, got {logits.shape}. {_EXPORT}"
            )
        return logits


class _Tensor(NamedTuple):
    name: str
    type: str
    shape: list[Any]


def _tensors(tensors: list[Any]) -> list[_Tensor]:
    return [_Tensor(tensor.name, tensor.type, tensor.shape) for tensor in tensors]  # raises if not in UTF-8


def _image_input(inputs: list[_Tensor]) -> tuple[str, int | None, tuple[int, int, int]]:
    if len(inputs) != 1:
        raise ValueError(f"engine: expected one input, got {_names(inputs)}. {_EXPORT}")
    name, shape = inputs[0].name, inputs[0].shape
    _check_type(inputs[0], "input")
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise ValueError(
            f"engine: expected input {brief(name)} of shape (N,C,H,W), fixed but for N, got {brief(shape)}. {_EXPORT}"
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return name, batch, (shape[1], shape[2], shape[3])


def _logit_output(outputs: list[_Tensor]) -> tuple[str, int]:
    if len(outputs) != 1:
        raise ValueError(f"engine: expected one output, got {_names(outputs)}. {_EXPORT}")
    name, shape = outputs[0].name, outputs[0].shape
    _check_type(outputs[0], "output")
    if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        raise ValueError(
            f"engine: expected output {brief(name)} of shape (N,K), K at least 2, got {brief(shape)}. {_EXPORT}"
        )
    return name, shape[1]


def _check_type(tensor: _Tensor, role: str) -> None:
    if tensor.type != "tensor(float)":
        raise ValueError(f"engine: expected {role} {brief(tensor.name)} of float32, got {tensor.type}. {_EXPORT}")


def _names(tensors: list[_Tensor]) -> str:
    names = ", ".join(tensor.name for tensor in tensors)
    return f"{len(tensors)} ({names if names.isprintable() and len(names) <= 80 else brief(names)})"
