"""Choice among settings by k-fold cross-validation; knows nothing of networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    lr: float
    weight_decay: float
    epochs: int


@dataclass(frozen=True)
class Trial:
    """A setting and its held-out loss in each fold; NaN where training diverged."""

    setting: Setting
    losses: tuple[float, ...]
    loss: float
    """Mean over all held-out examples, infinite if any fold diverged."""

    def row(self) -> dict[str, Any]:
        """Return the trial as plain JSON, None for what is not finite."""
        losses = [loss if math.isfinite(loss) else None for loss in self.losses]
        held_out = self.loss if math.isfinite(self.loss) else None
        return {**vars(self.setting), "held_out_loss": held_out, "fold_losses": losses}


def grid(lr: Sequence[float], weight_decay: Sequence[float], epochs: Sequence[int]) -> list[Setting]:
    """Return every combination, in the order given."""
    return [Setting(*point) for point in itertools.product(lr, weight_decay, epochs)]


def folds(count: int, k: int, seed: int) -> list[tuple[Indices, Indices]]:
    """Return k pairs (training, held-out) of sorted indices; each of 0..count-1 is held out once.

    Raises
    ------
    ValueError
        If there are fewer examples than folds.
    """
    if count < k:
        raise ValueError(f"folds: expected at most {count}, the number of images, got {k}. Use fewer folds.")
    order = np.random.default_rng(seed).permutation(count)
    parts = [np.sort(part) for part in np.array_split(order, k)]
    return [(np.setdiff1d(order, part), part) for part in parts]


def cross_validate(
    settings: Sequence[Setting],
    parts: Sequence[tuple[Indices, Indices]],
    held_out_loss: Callable[[Setting, Indices, Indices], float],
    each: Callable[[], object] = lambda: None,
) -> list[Trial]:
    """Return a trial of every setting.

    Parameters
    ----------
    settings : sequence of Setting
    parts : sequence of (training, held-out) indices
    held_out_loss : callable
        Trains with a setting on the training indices and gives the mean loss over the held-out ones.
    each : callable
        Called after each fold.
    """
    weights = np.array([len(held_out) for _, held_out in parts], dtype=np.float64)
    trials = []
    for setting in settings:
        losses = []
        for training, held_out in parts:
            losses.append(held_out_loss(setting, training, held_out))
            each()
        mean = float(np.average(losses, weights=weights))
        trials.append(Trial(setting, tuple(losses), mean if math.isfinite(mean) else math.inf))
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of least held-out loss, the first among equals.

    Raises
    ------
    ValueError
        If every setting diverged.
    """
    least = min(trials, key=lambda trial: trial.loss)
    if not math.isfinite(least.loss):
        raise ValueError(f"lr: training diverged with every one of {len(trials)} settings. Lower lr.")
    return least
