"""Static quantisation of an ONNX graph to int8, by ONNX Runtime's own tool.

Only convolutions and matrix products become integers: quantising normalisations, GELU and softmax as well flipped 72%
of a vision transformer's labels in a trial, and no engine runs them faster. Biases stay float32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrise.training.onnx_graphs import INPUT

OPERATORS = ["Conv", "Gemm", "MatMul"]


def quantise(onnx: bytes, pixels: npt.NDArray[np.float32], *, signed: bool) -> bytes:
    """Return the graph with explicit QuantizeLinear/DequantizeLinear pairs round its products.

    Weights are int8, symmetric, one scale a channel; activations have one scale each, from their extremes on the
    images, and are uint8 with a zero point (what ONNX Runtime and OpenVINO run fast on x86-64) or, if ``signed``, int8
    without (what TensorRT takes). Beside uint8 activations, weights keep to 7 bits, [-64, 64]: a processor without VNNI
    adds two products in 16 bits, and with 8-bit weights the sum saturates, which changed nine labels in ten of a small
    convolutional network.

    Parameters
    ----------
    onnx : bytes
        A float32 graph by `onnx_bytes`.
    pixels : float32[N, C, H, W]
        In [0, 1]; images that calibration will not use, since the scales are fitted to them.
    signed : bool
        See above.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.rest = iter(range(len(pixels)))

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            index = next(self.rest, None)
            return None if index is None else {INPUT: pixels[index : index + 1]}

    options = {"QuantizeBias": False} | ({"ActivationSymmetric": True, "WeightSymmetric": True} if signed else {})
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, quantised = (Path(folder) / name for name in ("plain", "prepared", "quantised"))
        plain.write_bytes(onnx)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantised),
            Images(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not signed,
            op_types_to_quantize=OPERATORS,
            extra_options=options,
        )
        return quantised.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tool's advice on the root logger, for as long as it runs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
