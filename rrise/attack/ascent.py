"""Projected gradient ascent in an ℓ2 ball, on the surrogate's margin or on the smoothed label's probability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rrise.attack.ball import project

Logits = Callable[[torch.Tensor], torch.Tensor]
Objective = Callable[[torch.Tensor], torch.Tensor]
"""From points float32[B, C, H, W] to what the attack raises, float32[B]; row i depends on point i only."""


def margin(network: Logits, labels: torch.Tensor) -> Objective:
    """Return the largest logit of another class less the label's: above 0 where the network's label has changed."""

    def found(points: torch.Tensor) -> torch.Tensor:
        logits = network(points)
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        return logits.masked_fill(own, -math.inf).amax(1) - logits[own]

    return found


def smoothed(
    classifier: Logits, labels: torch.Tensor, *, sigma: float, draws: int, generator: torch.Generator
) -> Objective:
    """Return the log-odds of any other label, of softmax probabilities averaged over fresh noise at every call.

    With p̄ the label's mean probability that is log((1 − p̄) / p̄): it rises where SmoothAdv's −log p̄ rises, and its
    gradient has the same direction, but does not vanish in float32 where every draw is certain of the label. p̄ is the
    soft smoothed classifier, which has a gradient, in place of the counted votes.

    Parameters
    ----------
    classifier : callable
        Base classifier, pixels to logits.
    labels : int64[B]
    sigma : float
        Noise level in units of pixels in [0, 1].
    draws : int
        Noisy copies of each point a call.
    generator : torch.Generator
        Of the noise, on the device of the points. The judge's noise is other noise.

    References
    ----------
    Salman et al., "Provably robust deep learning via adversarially trained smoothed classifiers", NeurIPS 2019
    (SmoothAdv).
    """

    def found(points: torch.Tensor) -> torch.Tensor:
        copies = points.repeat_interleave(draws, 0)
        noise = torch.randn(copies.shape, generator=generator, device=points.device)
        log = classifier(copies + sigma * noise).log_softmax(1).view(len(points), draws, -1)
        own = torch.nn.functional.one_hot(labels, log.shape[2]).bool()[:, None]
        others, label = log.masked_fill(own, -math.inf), log.masked_fill(~own, -math.inf)
        return others.flatten(1).logsumexp(1) - label.flatten(1).logsumexp(1)

    return found


@dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent with normalised steps that shrink linearly to zero.

    Parameters
    ----------
    steps : int
    step : float
        Length of the first step as a share of the radius.
    restarts : int
        Starts: the first at the image itself, others at random points of the ball. The best end is kept.
    """

    steps: int
    step: float
    restarts: int

    def run(
        self, objective: Objective, centres: torch.Tensor, radii: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return float32[B, C, H, W], the points of ball and box at which the objective was highest at an end.

        Parameters
        ----------
        objective : callable
        centres : float32[B, C, H, W]
            Images, pixels in [0, 1].
        radii : float32[B]
            ℓ2, in units of pixels in [0, 1].
        generator : torch.Generator
            Of the random starts, on the device of the centres.
        """
        best, highest = centres, torch.full_like(radii, -math.inf)
        for start in range(self.restarts):
            points = centres
            if start:
                towards = _unit(torch.randn(centres.shape, generator=generator, device=centres.device))
                share = torch.rand(radii.shape, generator=generator, device=centres.device)
                points = project(centres + _each(share * radii) * towards, centres, radii)
            for step in range(self.steps):
                points = points.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(objective(points).sum(), points)
                length = self.step * (1 - step / self.steps) * radii
                points = project(points.detach() + _each(length) * _unit(gradient), centres, radii)
            with torch.no_grad():
                reached = objective(points)
            better = reached > highest
            highest = torch.where(better, reached, highest)
            best = torch.where(_each(better), points, best)
        return best.detach()


def _unit(direction: torch.Tensor) -> torch.Tensor:
    """Return directions of length 1; one of length 0, or one that is not finite, becomes 0."""
    largest = direction.flatten(1).abs().amax(1)  # first: squares of small gradients would be 0
    scaled = direction / _each(largest)
    found = scaled / _each(scaled.flatten(1).norm(dim=1))
    return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def _each(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
