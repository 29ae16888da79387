"""Training of the base classifier under Gaussian noise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from rrise.images.image_set import ImageSet
    from rrise.training.architectures import NetworkSpec


def _digits_options() -> dict[str, Any]:
    return {"dim": 48, "depth": 4, "kernel_size": 3, "patch_size": 2}


@dataclass(frozen=True)
class TrainConfig:
    """How the base classifier is built and trained; the defaults are for 8×8 digits."""

    network: str = field(
        default="timm.models.convmixer:ConvMixer",
        metadata={"help": "timm model, or module:callable; gets num_classes and in_chans"},
    )
    options: dict[str, Any] = field(
        default_factory=_digits_options, metadata={"help": "keyword arguments of the network, as JSON"}
    )
    mean: tuple[float, ...] = field(
        default=(0.5,), metadata={"help": "subtracted from pixels in [0, 1] inside the network; one, or one a channel"}
    )
    std: tuple[float, ...] = field(
        default=(0.5,), metadata={"help": "pixels are divided by it after the mean; one, or one a channel"}
    )
    sigma: float = field(default=0.5, metadata={"help": "training noise in units of pixels in [0, 1]; 0: none"})
    epochs: int = field(default=150, metadata={"help": "passes over the training images"})
    batch_size: int = field(default=100, metadata={"help": "images a step"})
    lr: float = field(default=3e-3, metadata={"help": "peak learning rate of AdamW"})
    weight_decay: float = field(default=1.0, metadata={"help": "weight decay of AdamW"})
    shift: int = field(default=0, metadata={"help": "move training images at random by up to this many pixels"})
    flip: bool = field(default=False, metadata={"help": "mirror training images left to right at random"})
    seed: int = field(default=0, metadata={"help": "seed of the weights, the order, the noise and the augmentation"})
    device: str = field(default="cpu", metadata={"help": "torch device that trains"})
    threads: int = field(default=1, metadata={"help": "CPU threads; weights depend on it; 0: torch's own choice"})

    def __post_init__(self) -> None:
        if not self.network:
            raise ValueError("network: expected a timm model's name or module:callable, got none.")
        for name, least in (("sigma", 0), ("weight_decay", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name}: expected a finite number of at least {least}, got {value}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a finite number above 0, got {self.lr}.")
        for name, least in (("epochs", 1), ("batch_size", 1), ("shift", 0), ("threads", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}.")


def train_classifier(
    images: ImageSet, config: TrainConfig, num_classes: int, *, progress: bool = False
) -> tuple[NetworkSpec, nn.Module, dict[str, Any]]:
    """Return (spec, module, facts) of a classifier trained on noisy images, a function of the images and the config.

    Each step sees its images once, under fresh noise of standard deviation ``config.sigma``. On the CPU, the same
    number of threads and the same torch give the same weights to the bit.

    Parameters
    ----------
    images : ImageSet
    config : TrainConfig
    num_classes : int
        K; labels are 0..K-1.
    progress : bool
        Show a bar of epochs on a terminal.

    Raises
    ------
    ValueError
        If there is no such network, it does not fit the images, a label is not below K, or training diverges.
    """
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    from rrise.training.architectures import NetworkSpec, build_network
    from rrise.training.descent import Descent, reproducible
    from rrise.training.one_image import require_one_image
    from rrise.training.pixels import image_tensor, moved_at_random, unit

    height, width, channels = (*images.images.shape[1:], 1)[:3]
    _require_labels(images.labels, num_classes)
    mean, std = (values * channels if len(values) == 1 else values for values in (config.mean, config.std))
    spec = NetworkSpec(config.network, dict(config.options), num_classes, (channels, height, width), mean, std)
    with (
        reproducible(config.seed, config.device, config.threads) as generator,
        tqdm(total=config.epochs, desc="train", unit="epoch", disable=None if progress else True, leave=False) as bar,
    ):
        built = build_network(spec, config.seed)
        require_one_image(built, spec.input_shape, what="network")
        module = built.to(config.device).train()
        pixels = image_tensor(images.images, spec.input_shape).to(config.device)
        labels = torch.from_numpy(images.labels.astype(np.int64)).to(config.device)

        def noisy_loss(indices: torch.Tensor) -> torch.Tensor:
            clean = unit(moved_at_random(pixels[indices], config.shift, config.flip, generator))
            noise = torch.randn(clean.shape, generator=generator, device=clean.device)
            return F.cross_entropy(module(clean + config.sigma * noise), labels[indices])

        def show(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        descent = Descent(config.lr, config.weight_decay, config.epochs, config.batch_size)
        loss = descent.run(module, noisy_loss, len(pixels), generator, show)
    if not math.isfinite(loss):
        raise ValueError(f"lr: training diverged with lr={config.lr}. Lower it.")
    module = module.cpu().eval().requires_grad_(False)
    return spec, module, {"training": asdict(config), "training_loss": loss}


def _require_labels(labels: np.ndarray[Any, Any], num_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels: expected 0 to {num_classes - 1}, one of the {num_classes} classes, "
            f"got {labels.min()} to {labels.max()}. Give num_classes as the number of classes."
        )
