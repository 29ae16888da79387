"""Images that a fit does not train on, and how well it does on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from rrise.training.descent import outputs
from rrise.training.fit_config import HELD_OUT_SHARE
from rrise.training.losses import soft_cross_entropy

if TYPE_CHECKING:
    from rrise.training.examples import Examples

    Function = Callable[[torch.Tensor], torch.Tensor]


def held_out_rows(ids: npt.NDArray[np.uint64], most: int) -> npt.NDArray[np.int64]:
    """Return the sorted rows of at most ``most`` images, one in 20 at most: those of the smallest ids.

    An id is a digest of its image's pixels, so they are as good as drawn at random, and the same in every fit.
    """
    return np.sort(np.argsort(ids)[: min(most, len(ids) // HELD_OUT_SHARE)]).astype(np.int64)


@dataclass(frozen=True)
class Judgement:
    """How well a network answers for images and views, each weighing the same.

    Parameters
    ----------
    loss : float
        Soft cross-entropy.
    agreement : float
        Share of cases whose class by the network is one of those that most draws gave.
    probit_error : float
        See :func:`probit_errors`.
    classifier_loss : float
        Soft cross-entropy of the classifier itself, on clean images.
    entropy : float
        Mean entropy of the frequencies: no network can have a smaller loss on these draws. That of the probabilities
        behind them is larger, with few draws much larger.
    """

    loss: float
    agreement: float
    probit_error: float
    classifier_loss: float
    entropy: float


def judge(
    network: Function, classifier: Function, examples: Examples, rows: npt.NDArray[np.int64], views: range
) -> Judgement:
    """Return how well a network answers for rows of the images in some views; both map 8-bit pixels to logits."""
    at = torch.from_numpy(rows).to(examples.pixels.device)
    sums = torch.zeros(5, dtype=torch.float64, device=at.device)
    for view in views:
        examples.select(view)
        targets, counts = examples.targets[at].double(), examples.counts[at]
        logits, own = (
            outputs(lambda part, run=run: run(examples.shown(part)), at).to(at.device).double()  # type: ignore[misc]
            for run in (network, classifier)
        )
        top = counts.gather(1, logits.argmax(1, keepdim=True))
        sums += torch.stack(
            [
                soft_cross_entropy(logits, targets),
                (top[:, 0] == counts.max(1).values).double().mean(),
                probit_errors(logits, counts).mean(),
                soft_cross_entropy(own, targets),
                -torch.xlogy(targets, targets).sum(1).mean(),
            ]
        )
    return Judgement(*(sums / len(views)).tolist())


def probit_errors(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return |Φ⁻¹(q) − Φ⁻¹(p̂)| of each row, q and p̂ of the network's class; σ times it is an error in radius.

    With k of n draws, p̂ = (k + ½)/(n + 1), and q is clipped to the least and the largest that p̂ can be: neither is
    then 0 or 1, where Φ⁻¹ has no value. Of few draws the figure is mostly their own scatter, and what is large is cut
    off: compare it among fits to counts of the same n.

    Parameters
    ----------
    logits : float64[N, K]
    counts : float64[N, K]
    """
    label = logits.argmax(1, keepdim=True)
    n = counts.sum(1, keepdim=True)
    p = (counts.gather(1, label) + 0.5) / (n + 1)
    q = torch.softmax(logits, 1).gather(1, label)
    q = torch.minimum(torch.maximum(q, 0.5 / (n + 1)), (n + 0.5) / (n + 1))
    errors: torch.Tensor = (torch.special.ndtri(q) - torch.special.ndtri(p)).abs()[:, 0]
    return errors
