"""Export of a network to an engine, checked against torch before it may be used."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

    from rrise.training.networks import Network

FORMAT = "rrise-engine/1"
BATCHES = (1, 3)
"""Batch sizes at which the engine is compared with torch, besides all images at once."""
TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "int8": 1.0}
"""Largest difference of a probability from torch's that is accepted by default. Calibration holds for the engine's own
outputs, whatever they are: the check finds graphs that are wrong, and int8 may move a probability a long way."""

Logits = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class Runtime(Protocol):
    """What executes the exported graph; the training room knows none."""

    @property
    def kind(self) -> str:
        """Its name, for engine.json."""

    @property
    def signed_int8(self) -> bool:
        """Whether it takes int8 without zero points only."""

    def build(self, onnx: bytes, precision: str) -> tuple[str, bytes, dict[str, Any]]:
        """Return the engine file's name and bytes, and facts of it."""

    def open(self, engine: bytes, onnx: bytes, precision: str) -> tuple[Logits, str]:
        """Return what computes logits, and which runtime that is."""


@dataclass(frozen=True)
class ExportConfig:
    """How the surrogate becomes an engine."""

    engine: str = field(
        default="onnxruntime",
        metadata={"help": "runtime that will execute it: onnxruntime, openvino, tensorrt or tensorrt-rtx"},
    )
    precision: str = field(default="float32", metadata={"help": "arithmetic: float32, float16 or int8"})
    opset: int = field(
        default=20, metadata={"help": "ONNX operator set; from 23 on TensorRT cannot build fused attention"}
    )
    tolerance: float = field(
        default=0.0,
        metadata={
            "help": "largest difference of a probability from torch that is accepted; 0: 1e-5 for float32, 0.02 for "
            "float16, any for int8"
        },
    )
    quantise_images: int = field(default=256, metadata={"help": "training images that fix the scales of int8"})

    def __post_init__(self) -> None:
        kinds = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
        if self.engine not in kinds:
            raise ValueError(f"engine: expected one of {', '.join(kinds)}, got {self.engine!r}.")
        if self.precision not in TOLERANCES:
            raise ValueError(f"precision: expected one of {', '.join(TOLERANCES)}, got {self.precision!r}.")
        if not 18 <= self.opset <= 24:
            raise ValueError(f"opset: expected 18 to 24, got {self.opset}. 20 is good for every engine.")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance: expected a finite number of at least 0, got {self.tolerance}.")
        if self.quantise_images < 1:
            raise ValueError(f"quantise_images: expected at least 1, got {self.quantise_images}.")


@dataclass(frozen=True)
class Agreement:
    """How far an engine's answers are from torch's in float32.

    Parameters
    ----------
    max_probability_error, mean_probability_error : float
        Of any class's probability, over images and batch sizes; NaN if the engine's logits are not finite.
    same_labels : float
        Share of images with the same label.
    """

    max_probability_error: float
    mean_probability_error: float
    same_labels: float


def export_engine(
    network: Network, folder: str | Path, config: ExportConfig, images: npt.NDArray[np.uint8], runtime: Runtime
) -> dict[str, Any]:
    """Return engine.json of a network now exported: a whole folder or, on any failure, none.

    The folder holds the engine (float32 pixels in [0, 1] [N, C, H, W], N free, to logits float32 [N, K], or [N, S K] of
    S noise levels, all weights inside), engine.json and training_ids.npy. The engine's probabilities on the images were
    within the tolerance of torch's at batches of 1, 3 and all.

    Parameters
    ----------
    network : Network
        Facts named classes, classifier_images, classifier_sha256, counts_sha256, sigma, sigmas and surrogates are
        handed on to engine.json.
    folder : path
    config : ExportConfig
    images : uint8[N, H, W] or uint8[N, H, W, C]
        Real images that calibration will not use, a few hundred at most: they check the engine, and fix int8's scales.
    runtime : Runtime
        What executes it.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If torch cannot export the network, the runtime cannot take it, a probability differs too much, or network or
        engine is no function of one image.
    """
    from rrise.training.artifacts import publish, refuse_existing
    from rrise.training.one_image import LIMIT, probe_pixels, require_alike, require_one_image
    from rrise.training.onnx_graphs import half_precision, onnx_bytes
    from rrise.training.quantisation import quantise

    folder = Path(folder)
    refuse_existing(folder)
    pixels, spec = _pixels(images, network.spec.input_shape), network.spec
    num_classes = spec.num_classes // max(1, len(network.facts.get("sigmas", ())))
    require_one_image(network.module, spec.input_shape, pixels, what="surrogate")
    module = half_precision(network.module) if config.precision == "float16" else network.module
    onnx = onnx_bytes(module, spec.input_shape, config.opset)
    if config.precision == "int8":
        onnx = quantise(onnx, pixels[: config.quantise_images], signed=runtime.signed_int8)
    name, engine, built = runtime.build(onnx, config.precision)
    logits, checked_with = runtime.open(engine, onnx, config.precision)
    agreement = agreement_with_torch(network.module, logits, pixels, num_classes)
    tolerance = config.tolerance or TOLERANCES[config.precision]
    if not agreement.max_probability_error <= tolerance:  # NaN is no agreement
        raise ValueError(
            f"export: expected probabilities within tolerance={tolerance:g} of torch's, got a difference of "
            f"{agreement.max_probability_error:.3g} in {config.precision} by {checked_with}. Raise tolerance if that "
            "is acceptable: calibration uses the engine's own outputs."
        )
    rounding = LIMIT if config.precision == "float32" else TOLERANCES["float16"]
    require_alike(logits, probe_pixels(spec.input_shape, pixels), what="engine", limit=rounding)
    handed_on = ("classifier_images", "classifier_sha256", "counts_sha256", "sigma", "sigmas", "surrogates")
    document = {
        "format": FORMAT,
        "kind": runtime.kind,
        "file": name,
        "sha256": hashlib.sha256(engine).hexdigest(),
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "precision": config.precision,
        "input_shape": list(spec.input_shape),
        "num_classes": num_classes,
        "classes": list(network.facts.get("classes") or map(str, range(num_classes))),
        **vars(agreement),
        "checked_images": len(pixels),
        "checked_with": checked_with,
        "network_sha256": network.sha256,
        "opset": config.opset,
        "versions": _versions(),
        **built,
        **{key: network.facts[key] for key in handed_on if key in network.facts},
    }
    ids = io.BytesIO()
    np.save(ids, network.training_ids.astype("<u8"), allow_pickle=False)
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    publish(folder, {name: engine, "training_ids.npy": ids.getvalue(), "engine.json": text.encode()})
    return document


def agreement_with_torch(
    module: nn.Module, logits: Logits, pixels: npt.NDArray[np.float32], num_classes: int
) -> Agreement:
    """Return how far an engine's probabilities are from torch's, over several batch sizes.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU.
    logits : callable
        float32[N, C, H, W] to float32[N, K], or [N, S K] of S noise levels, each of which is compared by itself.
    pixels : float32[N, C, H, W]
        In [0, 1].
    num_classes : int
        K.
    """
    import torch

    worst, sums, same, images = 0.0, 0.0, 0, 0
    for batch in sorted({*BATCHES, len(pixels)}):
        for start in range(0, min(len(pixels), 8 * batch), batch):  # eight batches of a size show what all would
            part = pixels[start : start + batch]
            with torch.inference_mode():
                expected = module(torch.from_numpy(part)).numpy().reshape(-1, num_classes)
            found = logits(part).reshape(-1, num_classes)
            error = np.abs(_probabilities(found) - _probabilities(expected))
            if not np.isfinite(error).all():
                return Agreement(math.nan, math.nan, 0.0)
            worst, sums = max(worst, float(error.max())), sums + float(error.mean(1).sum())
            same, images = same + int((found.argmax(1) == expected.argmax(1)).sum()), images + len(found)
    return Agreement(worst, sums / images, same / images)


def _probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    scaled = np.exp(wide - wide.max(1, keepdims=True))
    return np.asarray(scaled / scaled.sum(1, keepdims=True))


def _pixels(images: npt.NDArray[np.uint8], input_shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return float32 [N, C, H, W] in [0, 1], rounded once, as the runtime prepares images."""
    from rrise.training.pixels import image_tensor

    return image_tensor(images, input_shape).numpy().astype(np.float32) / np.float32(255)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "timm", "onnx", "onnxscript", "onnxruntime")}
