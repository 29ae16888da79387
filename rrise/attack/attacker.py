"""Both attacks on many images: in batches, and from 8-bit images to 8-bit images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rrise.attack.ascent import Ascent, Logits, margin, runners_up, smoothed
from rrise.attack.ball import to_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.intp]
    Radii = NDArray[np.float64]
    Images = NDArray[np.uint8]
    Progress = Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class Attacker:
    """Certified images before the two networks that can be attacked.

    Parameters
    ----------
    surrogate, classifier : callable
        Pixels float32[M, C, H, W] to logits [M, K], on ``device``, in evaluation mode; torch differentiates them.
    images : uint8[N, C, H, W]
    labels : int64[N]
        The certified labels, that the attacks try to change.
    sigma : float
        Noise level in units of pixels in [0, 1].
    ascent : Ascent
    targets : int
        Classes towards which the surrogate is moved in turn: the likeliest others at the image.
    draws : int
        Noisy copies that estimate one gradient of the smoothed classifier.
    batch_size : int
        Most points, noisy copies included, in one pass.
    seed : int
        Of random starts and noise. An attack is a function of it, the settings and the rows it is called for.
    device : torch.device
    """

    surrogate: Logits
    classifier: Logits
    images: Images
    labels: NDArray[np.int64]
    sigma: float
    ascent: Ascent
    targets: int
    draws: int
    batch_size: int
    seed: int
    device: torch.device

    def on_surrogate(self, rows: Rows, radii: Radii, each: Progress = lambda rows: None) -> Images:
        """Return uint8[M, C, H, W], points within the radii where the surrogate's margin is lowest.

        Parameters
        ----------
        rows : int[M]
        radii : float64[M]
            ℓ2, in units of pixels in [0, 1].
        each : callable
            Gets the number of images after each batch.
        """

        def run(
            centres: torch.Tensor, labels: torch.Tensor, reach: torch.Tensor, generator: torch.Generator
        ) -> torch.Tensor:
            others = runners_up(self.surrogate, centres, labels, self.targets)
            towards = [margin(self.surrogate, labels, other) for other in others]
            return self.ascent.run(towards, margin(self.surrogate, labels), centres, reach, generator)

        return self._attacked(rows, radii, self.batch_size, run, each)

    def on_smoothed(self, rows: Rows, radii: Radii, each: Progress = lambda rows: None) -> Images:
        """Return uint8[M, C, H, W], points within the radii where the smoothed classifier doubts the label most."""

        def run(
            centres: torch.Tensor, labels: torch.Tensor, reach: torch.Tensor, generator: torch.Generator
        ) -> torch.Tensor:
            raised = smoothed(self.classifier, labels, sigma=self.sigma, draws=self.draws, generator=generator)
            return self.ascent.run([raised], raised, centres, reach, generator)

        return self._attacked(rows, radii, max(1, self.batch_size // self.draws), run, each)

    def _attacked(
        self,
        rows: Rows,
        radii: Radii,
        batch: int,
        run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor],
        each: Progress,
    ) -> Images:
        generator = torch.Generator(self.device).manual_seed(self.seed)
        found = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        for first in range(0, len(rows), batch):
            part = slice(first, first + batch)
            images, within = self.images[rows[part]], radii[part]
            centres = torch.from_numpy(images).to(self.device, torch.float32) / 255
            reach = torch.from_numpy(within).to(self.device, torch.float32)
            labels = torch.from_numpy(self.labels[rows[part]]).to(self.device)
            points = run(centres, labels, reach, generator)
            found[part] = to_grid(points.cpu().numpy(), images, within)
            each(len(images))
        return found
