"""Monte Carlo certifiers that draw for themselves, and only what they need.

A forward pass always holds a whole batch of draws of one image, and a thread that is free takes the next image: passes
stay full while images stop at different times. Draws are named (:mod:`rrise.targets.noise`), so the certificates are
those that the same draws, made beforehand, would give to the functions of counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rrise.evaluation.adaptive_stopping import Looks, checked_stopping
from rrise.evaluation.baselines import checked_alpha, cohen_certify, cohen_select
from rrise.evaluation.input_specific import budget_map, input_specific_budget, input_specific_certify
from rrise.targets.noise import ESTIMATION, SELECTION
from rrise.targets.sampling import sample_counts

if TYPE_CHECKING:
    import torch

    from rrise.runtime.certificates import Certificates
    from rrise.targets.passes import Classifier


@dataclass(frozen=True, eq=False)
class NoisyImages:
    """Images before a base classifier under named noise, with what every draw has in common.

    Parameters
    ----------
    classifier, images, ids
        As :func:`rrise.targets.sampling.sample_counts` takes them, and the others too.
    sigma : float
        Noise level in units of pixels in [0, 1].
    seed, sampler, device, threads
        As for `sample_counts`.
    batch : int
        Draws of one forward pass, between two looks, and the unit of a budget.
    """

    classifier: Classifier
    images: NDArray[Any]
    ids: NDArray[np.uint64]
    sigma: float
    seed: int = 0
    sampler: str = "grid"
    batch: int = 100
    device: str | torch.device = "cpu"
    threads: int | None = None

    def counts(
        self, n: int, stream: int, first_draw: int = 0, rows: NDArray[Any] | slice = slice(None)
    ) -> NDArray[np.int64]:
        """Return int64[B, K], the class counts of n draws of each image, or of the images of some rows."""
        found = sample_counts(
            self.classifier,
            self.images[rows],
            self.ids[rows],
            sigma=self.sigma,
            n=n,
            seed=self.seed,
            sampler=self.sampler,
            stream=stream,
            batch_size=self.batch,
            first_draw=first_draw,
            device=self.device,
            threads=self.threads,
        )
        return found.astype(np.int64)


def certify_fixed(
    noisy: NoisyImages,
    *,
    n: int,
    alpha: float,
    n_selection: int = 100,
) -> Certificates:
    """Return certificates from ``n`` draws of every image (B1), see :func:`cohen_certify`."""
    selection = noisy.counts(n_selection, SELECTION)
    return cohen_certify(selection, noisy.counts(n, ESTIMATION), alpha=alpha, sigma=noisy.sigma)


def certify_input_specific(
    noisy: NoisyImages,
    *,
    n_max: int,
    alpha: float,
    n_selection: int = 100,
    decline: float = 0.01,
    relative: bool = True,
) -> Certificates:
    """Return certificates from as many draws as a pilot of ``n_selection`` asks for (B2).

    See :func:`rrise.evaluation.input_specific.budget_map` for the arguments.
    """
    budgets = budget_map(
        n_max=n_max, batch=noisy.batch, alpha=alpha, sigma=noisy.sigma, decline=decline, relative=relative
    )
    pilot = noisy.counts(n_selection, SELECTION)
    draws = input_specific_budget(pilot, budgets, alpha=alpha)
    fresh = np.zeros_like(pilot)
    for n in np.unique(draws[draws > 0]).tolist():
        rows = draws == n
        fresh[rows] = noisy.counts(n, ESTIMATION, rows=rows)
    return input_specific_certify(pilot, fresh, alpha=alpha, sigma=noisy.sigma)


def certify_adaptive(
    noisy: NoisyImages,
    *,
    n_max: int,
    alpha: float,
    n_selection: int = 100,
    tolerance: float = 0.01,
    target: float = math.inf,
) -> Certificates:
    """Return certificates from draws until the radius is known well enough, ``n_max`` at most (B3).

    An image is looked at after every batch; see :func:`rrise.evaluation.adaptive_stopping.known_enough`.
    """
    checked_alpha(alpha)
    checked_stopping(n_max, alpha, tolerance)
    selection = noisy.counts(n_selection, SELECTION)
    guess = cohen_select(selection)
    k, drawn = np.zeros(len(guess), dtype=np.int64), 0
    looked = Looks(len(guess), alpha=alpha, sigma=noisy.sigma, tolerance=tolerance, target=target, bound="mixture")
    while looked.active.size and drawn < n_max:
        rows, draws = looked.active, min(noisy.batch, n_max - drawn)
        counts = noisy.counts(draws, ESTIMATION, drawn, rows)
        k[rows] += counts[np.arange(len(rows)), guess[rows]]
        drawn += draws
        looked.look(k[rows], drawn)
    return looked.certificates(selection)
