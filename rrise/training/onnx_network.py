"""A base classifier that exists as an ONNX file only: good for sampling, since that needs no gradient."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn


@final
class OnnxNetwork(nn.Module):
    """A module from pixels in [0, 1] to logits, by ONNX Runtime on the CPU; it has no weights that torch could see.

    Parameters
    ----------
    path : path
        ONNX file with one float32 input (N, C, H, W), N free, that does its own normalisation, and one output (N, K);
        its weights are inside.
    threads : int
        CPU threads of one call.

    Attributes
    ----------
    input_shape : (C, H, W)
    num_classes : int
    sha256 : str
        Digest of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no such network.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        import onnxruntime

        super().__init__()

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"network: expected an ONNX file, got {path}, no such file. Check the path.")
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}.")
        content = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors arrive as exceptions
        try:
            with tempfile.TemporaryDirectory(prefix="rrise-") as nowhere:
                # Else weights in other files, which the sha256 does not cover, would be read from the working folder.
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", nowhere)
                self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no class below Exception
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"network: expected an ONNX model in {path} with its weights inside, got {reason}. "
                "Export it again (torch: external_data=False)."
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if wrong := _wrong(inputs, outputs):
            got, cure = wrong
            raise ValueError(
                f"network: expected one input, float32 (N, C, H, W), and one output, float32 logits (N, K), N free, in "
                f"{path}, got {got}. {cure}"
            )
        self._names = inputs[0].name, outputs[0].name
        self.input_shape: tuple[int, int, int] = tuple(inputs[0].shape[1:])
        self.num_classes: int = outputs[0].shape[1]
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32[N, K], on the CPU.

        Raises
        ------
        ValueError
            If the model does not run on these pixels.
        """
        takes, gives = self._names
        batch = pixels.detach().cpu().contiguous().numpy()
        try:
            logits = self._session.run([gives], {takes: batch})[0]
        except Exception as error:  # as above
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"network: expected an ONNX model that takes a batch of shape {batch.shape}, got {reason}. "
                "Export it with a free batch axis, on more than one image."
            ) from error
        return torch.from_numpy(logits)

    def require_runs(self, device: str, precision: str, compiled: bool) -> None:
        """Raise ValueError unless it would be run as it is: on the CPU, in float32, not through torch.compile."""
        for name, found, only in (("device", device.partition(":")[0], "cpu"), ("precision", precision, "float32")):
            if found != only:
                raise ValueError(f"{name}: expected {only}, which is how an ONNX classifier runs, got {found!r}.")
        if compiled:
            raise ValueError("compile: expected false, which is how an ONNX classifier runs, got true.")


def _wrong(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[str, str] | None:
    """Return what a model takes or gives that a classifier does not, and what to do; None if nothing."""
    for name, entries in (("inputs", inputs), ("outputs", outputs)):
        if len(entries) != 1:
            listed = ", ".join(f"{entry.name} {_shown(entry)}" for entry in entries)
            return f"{len(entries)} {name}: {listed}", "Export the logits of the image alone: one input, one output."
    takes, gives = inputs[0], outputs[0]
    shape = tuple(takes.shape)
    if takes.type != _FLOAT:
        cure = "Let the graph take float32 pixels in [0, 1]; it may cast and scale them inside."
        return f"input {_shown(takes)}", cure
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        return f"input {_shown(takes)}, channels last (NHWC)", "Transpose inside the graph: it gets (N, C, H, W)."
    if len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return f"input {_shown(takes)}", "Export it for images of one size, C, H and W fixed."
    if isinstance(shape[0], int):
        return f"input {_shown(takes)}, of {shape[0]} images only", "Export it with a free batch axis."
    if gives.type != _FLOAT:
        cure = "Export the logits, before argmax, softmax or a cast."
        return f"output {_shown(gives)}", cure
    if len(gives.shape) != 2 or not isinstance(gives.shape[1], int):
        return f"output {_shown(gives)}", "Export one row of K logits for each image, K fixed."
    return None


_FLOAT = "tensor(float)"
_TYPES = {"float": "float32", "double": "float64"}


def _shown(entry: Any) -> str:
    kind = entry.type.removeprefix("tensor(").removesuffix(")")
    return f"{_TYPES.get(kind, kind)} ({', '.join(str(size) for size in entry.shape)})"
