"""How the surrogate is fitted (:class:`FitConfig`), and what each strategy does where nothing is said."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rrise.training.cross_validation import Setting, grid

STRATEGIES = ("full", "head", "scratch")
LOSSES = ("ce", "js")
FOLDS = 5
"""Folds of the cross-validation that chooses among several settings, where their number is not set."""
HELD_OUT_SHARE = 20
"""One image in so many is held out at most."""
_EPOCHS = 30
_WHOLE: dict[str, tuple[float, ...]] = {"lr": (1e-3,), "weight_decay": (0.01,)}
_TRIED: dict[str, dict[str, tuple[float, ...]]] = {
    "full": _WHOLE,
    "head": {"lr": (3e-3, 3e-2), "weight_decay": (0.0, 0.1)},
    "scratch": _WHOLE,
}
"""What each strategy tries where nothing is set: whole networks one setting, since each fit takes its time."""


@dataclass(frozen=True)
class FitConfig:
    """How the surrogate is fitted; every combination of lr, weight_decay and epochs is tried."""

    strategy: str = field(
        default="full",
        metadata={
            "help": "trained part: full (all weights, from the classifier's, its batch statistics kept), head (last "
            "layer) or scratch (all, from random weights)"
        },
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
    lr: tuple[float, ...] = field(
        default=(), metadata={"help": "peak learning rates of AdamW to try; none: 0.001, or head 0.003 and 0.03"}
    )
    weight_decay: tuple[float, ...] = field(
        default=(), metadata={"help": "weight decays of AdamW to try; none: 0.01, or head 0 and 0.1"}
    )
    epochs: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "numbers of passes over the images to try, each over the next of their views; none: one over each "
            "view, or 30 where there is but one, and head 30 and 100"
        },
    )
    folds: int = field(
        default=-1,
        metadata={
            "help": "folds of the cross-validation that chooses; 0: none, with one setting only; -1: 5 if there are "
            "several settings, else 0"
        },
    )
    held_out: int = field(
        default=2000,
        metadata={
            "help": "without cross-validation: images, at most one in 20, that are not trained on and judge the fit; "
            "0: none"
        },
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
        if not all(0 < lr < math.inf for lr in self.lr):
            raise ValueError(f"lr: expected finite numbers above 0, got {self.lr}.")
        if not all(0 <= decay < math.inf for decay in self.weight_decay):
            raise ValueError(f"weight_decay: expected finite numbers from 0 up, got {self.weight_decay}.")
        if self.epochs and min(self.epochs) < 1:
            raise ValueError(f"epochs: expected numbers from 1 up, got {self.epochs}.")
        if self.folds not in (-1, 0) and self.folds < 2:
            raise ValueError(f"folds: expected 2 or more, 0 for no cross-validation or -1 to choose, got {self.folds}.")
        settings = len(self.settings(1))
        if self.folds == 0 and settings > 1:
            raise ValueError(f"folds: expected 2 or more to choose among {settings} settings, got 0. Give one setting.")
        for name, least in (("held_out", 0), ("batch_size", 1), ("threads", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}.")

    def settings(self, views: int) -> list[Setting]:
        """Return what is tried on images that have so many views."""
        tried = _TRIED[self.strategy]
        passes = (30, 100) if self.strategy == "head" else (views if views > 1 else _EPOCHS,)
        return grid(self.lr or tried["lr"], self.weight_decay or tried["weight_decay"], self.epochs or passes)

    def folds_for(self, settings: int) -> int:
        """Return the folds of the cross-validation among so many settings, 0 for none."""
        return self.folds if self.folds >= 0 else FOLDS * (settings > 1)
