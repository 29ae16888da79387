"""The surrogate: a network fitted, on clean images, to the class frequencies of a base classifier under noise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rrise.training.cross_validation import Setting, best, cross_validate, folds, grid

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from rrise.training.architectures import NetworkSpec
    from rrise.training.networks import Network

STRATEGIES = ("head", "full", "scratch")
LOSSES = ("ce", "js")


@dataclass(frozen=True)
class FitConfig:
    """How the surrogate is fitted; every combination of lr, weight_decay and epochs is tried."""

    strategy: str = field(
        default="head",
        metadata={"help": "trained part: head (last layer), full (all) or scratch (all, from random weights)"},
    )
    network: str = field(
        default="",
        metadata={"help": "scratch: another network than the classifier's, a timm model or module:callable"},
    )
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "keyword arguments of that network, as JSON"}
    )
    mean: tuple[float, ...] = field(
        default=(0.5,), metadata={"help": "subtracted from pixels in [0, 1] inside that network; one, or one a channel"}
    )
    std: tuple[float, ...] = field(
        default=(0.5,), metadata={"help": "pixels are divided by it after the mean; one, or one a channel"}
    )
    loss: str = field(default="ce", metadata={"help": "ce (soft cross-entropy) or js (Jensen-Shannon)"})
    lr: tuple[float, ...] = field(default=(3e-3, 3e-2), metadata={"help": "peak learning rates of AdamW to try"})
    weight_decay: tuple[float, ...] = field(default=(0.0, 0.1), metadata={"help": "weight decays of AdamW to try"})
    epochs: tuple[int, ...] = field(default=(30, 100), metadata={"help": "numbers of passes over the images to try"})
    tune_epochs: int = field(
        default=0, metadata={"help": "head: passes that then tune all weights, from the fitted head on; 0: none"}
    )
    tune_lr: float = field(default=5e-4, metadata={"help": "peak learning rate of that"})
    folds: int = field(
        default=5, metadata={"help": "folds of the cross-validation that chooses; 0: none, with one setting only"}
    )
    batch_size: int = field(default=256, metadata={"help": "images a step"})
    seed: int = field(default=0, metadata={"help": "seed of the folds, the order and, from scratch, the weights"})
    device: str = field(default="cpu", metadata={"help": "torch device that trains"})
    threads: int = field(default=1, metadata={"help": "CPU threads; weights depend on it; 0: torch's own choice"})

    def __post_init__(self) -> None:
        for name, known in (("strategy", STRATEGIES), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.network and self.strategy != "scratch":
            raise ValueError(
                f"strategy: expected scratch for a network other than the classifier's, got {self.strategy!r}: there "
                "are no weights to start from."
            )
        if self.options and not self.network:
            raise ValueError(f"network: expected a name for the options {self.options}, got none.")
        if not self.lr or not all(0 < lr < math.inf for lr in self.lr):
            raise ValueError(f"lr: expected one or more finite numbers above 0, got {self.lr}.")
        if not self.weight_decay or not all(0 <= decay < math.inf for decay in self.weight_decay):
            raise ValueError(f"weight_decay: expected one or more finite numbers from 0 up, got {self.weight_decay}.")
        if not self.epochs or min(self.epochs) < 1:
            raise ValueError(f"epochs: expected one or more numbers from 1 up, got {self.epochs}.")
        if self.tune_epochs < 0 or (self.tune_epochs and self.strategy != "head"):
            raise ValueError(
                f"tune_epochs: expected 0, or a number of passes with strategy head, got {self.tune_epochs} with "
                f"{self.strategy}: other strategies train all weights anyway."
            )
        if not 0 < self.tune_lr < math.inf:
            raise ValueError(f"tune_lr: expected a finite number above 0, got {self.tune_lr}.")
        if self.folds != 0 and self.folds < 2:
            raise ValueError(f"folds: expected 2 or more, or 0 for no cross-validation, got {self.folds}.")
        settings = len(self.lr) * len(self.weight_decay) * len(self.epochs)
        if self.folds == 0 and settings > 1:
            raise ValueError(f"folds: expected 2 or more to choose among {settings} settings, got 0. Give one setting.")
        for name, least in (("batch_size", 1), ("threads", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted surrogate.

    Parameters
    ----------
    spec : NetworkSpec
        The classifier's, unless the settings name a network.
    module : torch.nn.Module
        On the CPU, in evaluation mode, frozen.
    training_ids : uint64[M]
        Sorted ids of the images that trained the classifier or this.
    facts : dict
        fit (the settings asked for), cross_validation (a row a setting), chosen, training_loss (of the chosen loss),
        and, as soft cross-entropy: held_out_loss, classifier_loss (the classifier itself as a surrogate) and
        target_entropy (which no surrogate can go below on these targets).
    """

    spec: NetworkSpec
    module: nn.Module
    training_ids: npt.NDArray[np.uint64]
    facts: dict[str, Any]

    def save(self, folder: str | Path, *, overwrite: bool = False, **facts: Any) -> str:
        """Return the sha256 of the surrogate now saved as :func:`rrise.training.networks.save_network` does."""
        from rrise.training.networks import save_network

        every = {"kind": "surrogate", **self.facts, **facts}
        return save_network(folder, self.spec, self.module, self.training_ids, overwrite=overwrite, **every)

    def network(self, **facts: Any) -> Network:
        """Return it as a network that can be exported without being saved first."""
        from rrise.training.networks import Network

        return Network.of(self.spec, self.module, self.training_ids, {"kind": "surrogate", **self.facts, **facts})

    def summary(self) -> str:
        """Return one line: what was chosen, and its held-out loss between the classifier's and the least possible."""
        chosen, facts = self.facts["chosen"], self.facts
        held_out = "not held out" if facts["held_out_loss"] is None else f"held-out loss {facts['held_out_loss']:.4f}"
        tuned = facts["fit"].get("tune_epochs", 0)
        after = f"; then {tuned} epochs of all weights, loss {facts['training_loss']:.4f}" if tuned else ""
        return (
            f"lr {chosen['lr']:g}, weight decay {chosen['weight_decay']:g}, {chosen['epochs']} epochs, {held_out} "
            f"(classifier {facts['classifier_loss']:.4f}, entropy of the targets {facts['target_entropy']:.4f}){after}"
        )


def fit_surrogate(
    classifier: Network,
    images: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.integer[Any]],
    config: FitConfig,
    *,
    training_ids: npt.NDArray[np.uint64],
    progress: bool = False,
) -> Surrogate:
    """Return a network q(x) = softmax(logits) near the class frequencies counts/n, a function of the arguments.

    The setting of least held-out soft cross-entropy, over the folds, is fitted once more to all images. With
    ``tune_epochs`` all weights are then trained from there on, batch statistics apart: a head that fits first keeps the
    features from being distorted (Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022). On the CPU,
    the same number of threads and the same torch give the same weights to the bit. The classifier is not changed.

    Parameters
    ----------
    classifier : Network
        The base classifier that was sampled.
    images : uint8[N, H, W] or uint8[N, H, W, C]
        Clean images.
    counts : int[N, K]
        How often the classifier gave each class to each image; every image weighs the same, whatever its draws.
    config : FitConfig
    training_ids : uint64[N]
        Ids of the images.
    progress : bool
        Show a bar of folds on a terminal.

    Raises
    ------
    ValueError
        If the arrays do not fit each other or the classifier, the head cannot be trained alone, or all settings
        diverge.
    """
    import torch
    from tqdm import tqdm

    from rrise.training.descent import outputs, reproducible
    from rrise.training.losses import soft_cross_entropy
    from rrise.training.pixels import image_tensor, unit
    from rrise.training.strategies import learner

    ids = np.asarray(training_ids, dtype=np.uint64)
    spec = surrogate_spec(config, classifier)
    targets = torch.from_numpy(_frequencies(np.asarray(counts), len(images), classifier.spec.num_classes, ids))
    settings = grid(config.lr, config.weight_decay, config.epochs)
    parts = folds(len(images), config.folds, config.seed) if config.folds else []
    pixels = image_tensor(images, classifier.spec.input_shape)
    with (
        reproducible(config.seed, config.device, config.threads),
        tqdm(total=len(settings) * len(parts) + 1, desc="fit", unit="fit", disable=None if progress else True) as bar,
    ):
        student = learner(config.strategy, classifier, spec, pixels.to(config.device), config.seed)
        goal = targets.to(config.device)

        def held_out_loss(setting: Setting, training: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]) -> float:
            module, _ = _fitted(student.fresh(), student.inputs[training], goal[training], setting, config)
            logits = outputs(module, student.inputs[held_out])
            return float(soft_cross_entropy(logits.double(), goal[held_out].double()))

        trials = cross_validate(settings, parts, held_out_loss, bar.update) if parts else []
        chosen = best(trials).setting if trials else settings[0]
        fitted, training_loss = _fitted(student.fresh(), student.inputs, goal, chosen, config)
        bar.update()
        if not math.isfinite(training_loss):
            raise ValueError(f"lr: training diverged with lr={chosen.lr}. Lower it.")
        whole = student.whole(fitted)
        if config.tune_epochs:
            whole, training_loss = _tuned(whole, pixels.to(config.device), goal, config)
        own = outputs(lambda part: classifier.module(unit(part)), pixels)
    exact = targets.double()
    facts = {
        "fit": asdict(config),
        "cross_validation": [trial.row() for trial in trials],
        "chosen": asdict(chosen),
        "training_loss": training_loss,
        "held_out_loss": best(trials).loss if trials else None,
        "classifier_loss": float(soft_cross_entropy(own.double(), exact)),
        "target_entropy": -float(torch.xlogy(exact, exact).sum(1).mean()),
    }
    module = whole.cpu().eval().requires_grad_(False)
    return Surrogate(spec, module, np.union1d(classifier.training_ids, ids), facts)


def surrogate_spec(config: FitConfig, classifier: Network) -> NetworkSpec:
    """Return the specification of the surrogate: the classifier's, or that of the network that is named.

    Raises
    ------
    ValueError
        If none is named and the classifier is an ONNX file, or what is named does not fit the images.
    """
    from rrise.training.networks import NetworkSpec, OnnxNetwork

    own = classifier.spec
    if not config.network:
        if isinstance(classifier.module, OnnxNetwork):
            raise ValueError(
                "network: expected the surrogate's own network, since an ONNX classifier has no weights to start from, "
                "got none. Give --strategy scratch --network NAME."
            )
        return own
    channels = own.input_shape[0]
    mean, std = (values * channels if len(values) == 1 else values for values in (config.mean, config.std))
    return NetworkSpec(config.network, dict(config.options), own.num_classes, own.input_shape, mean, std)


def _fitted(
    module: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    setting: Setting,
    config: FitConfig,
    *,
    tuning: bool = False,
) -> tuple[nn.Module, float]:
    """Return the module, trained in place, and its mean loss over the last epoch; tuned in evaluation mode."""
    from rrise.training.descent import Descent, reproducible
    from rrise.training.losses import jensen_shannon, soft_cross_entropy

    loss = soft_cross_entropy if config.loss == "ce" else jensen_shannon
    descent = Descent(setting.lr, setting.weight_decay, setting.epochs, config.batch_size)
    if not tuning:
        module.train()
    with reproducible(config.seed, config.device, config.threads) as generator:
        found = descent.run(module, lambda batch: loss(module(inputs[batch]), targets[batch]), len(inputs), generator)
    return module.eval(), found


def _tuned(
    module: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, config: FitConfig
) -> tuple[nn.Module, float]:
    """Return the network with all its weights trained, its batch statistics as they were, and its mean loss.

    The statistics are those under noise; clean images in batches would shift them from step to step.
    """
    from rrise.training.strategies import OnBytes

    part = OnBytes(module.to(pixels.device).eval().requires_grad_(True))
    setting = Setting(config.tune_lr, 0.0, config.tune_epochs)
    _, loss = _fitted(part, pixels, targets, setting, config, tuning=True)
    if not math.isfinite(loss):
        raise ValueError(f"tune_lr: training diverged with tune_lr={config.tune_lr}. Lower it.")
    return module, loss


def _frequencies(
    counts: npt.NDArray[Any], images: int, num_classes: int, ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float32]:
    """Return each image's class frequencies."""
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts: expected integers [N, K], got {counts.dtype}{list(counts.shape)}.")
    if not len(counts) == images == len(ids):
        lengths = f"{len(counts)} rows of counts, {images} images and {len(ids)} training_ids"
        raise ValueError(f"counts: expected one row and one id an image, got {lengths}.")
    if counts.shape[1] != num_classes:
        raise ValueError(
            f"counts: expected {num_classes} columns, the classifier's classes, got {counts.shape[1]}. "
            "Sample with this classifier."
        )
    totals = counts.sum(1, dtype=np.int64)
    if images == 0 or counts.min() < 0 or totals.min() < 1:
        raise ValueError("counts: expected images with at least one draw each, got none for some. Sample them first.")
    return np.asarray(counts / totals[:, None], dtype=np.float32)
