"""A base classifier that exists as an ONNX file only: good for sampling, since that needs no gradient."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import torch


@final
class OnnxNetwork:
    """A callable from a torch tensor of pixels in [0, 1] to a torch tensor of logits, by ONNX Runtime on the CPU.

    Parameters
    ----------
    path : path
        ONNX file with one float32 input (N, C, H, W), N free, that does its own normalisation, and one output (N, K).
    threads : int
        CPU threads of one call.

    Attributes
    ----------
    input_shape : (C, H, W)
    num_classes : int
    sha256 : str
        Digest of the file.
    training : bool
        Always false.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no such network.
    """

    training = False

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        import onnxruntime

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
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no class below Exception
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"network: expected an ONNX model in {path}, got {reason}. Export it again.") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        takes, gives = [tuple(entry.shape) for entry in inputs], [tuple(entry.shape) for entry in outputs]
        if not (
            len(takes) == len(gives) == 1
            and len(takes[0]) == 4
            and len(gives[0]) == 2
            and all(isinstance(size, int) for size in (*takes[0][1:], gives[0][1]))
            and not isinstance(takes[0][0], int)
            and inputs[0].type == outputs[0].type == "tensor(float)"
        ):
            raise ValueError(
                f"network: expected float32 (N, C, H, W) to float32 (N, K) with N free in {path}, "
                f"got {takes} to {gives}. Export it with a free batch axis."
            )
        self._names = inputs[0].name, outputs[0].name
        self.input_shape: tuple[int, int, int] = takes[0][1:]
        self.num_classes: int = gives[0][1]
        self.sha256 = hashlib.sha256(content).hexdigest()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32[N, K], on the CPU."""
        import torch

        takes, gives = self._names
        batch = pixels.detach().cpu().contiguous().numpy()
        return torch.from_numpy(self._session.run([gives], {takes: batch})[0])
