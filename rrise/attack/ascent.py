"""Projected gradient ascent in an ℓ2 ball, on the surrogate's margin or on the smoothed label's probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from rrise.attack.ball import project

Logits = Callable[[torch.Tensor], torch.Tensor]
Objective = Callable[[torch.Tensor], torch.Tensor]
"""From points float32[B, C, H, W] to what the attack raises, float32[B]; row i depends on point i only."""


def margin(network: Logits, labels: torch.Tensor, targets: torch.Tensor | None = None) -> Objective:
    """Return a target class's logit less the label's, or the largest of all others': above 0 where the label changed.

    Parameters
    ----------
    network : callable
        Pixels to logits.
    labels : int64[B]
    targets : int64[B], optional
        Other classes than the labels.
    """

    def found(points: torch.Tensor) -> torch.Tensor:
        logits = network(points)
        own = logits.gather(1, labels[:, None])[:, 0]
        if targets is not None:
            return logits.gather(1, targets[:, None])[:, 0] - own
        return _without(logits, labels).amax(1) - own

    return found


def runners_up(network: Logits, points: torch.Tensor, labels: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Return the ``count`` (at most all) other classes of the largest logits: int64[B] each, the likeliest first."""
    with torch.no_grad():
        others = _without(network(points), labels)
    return list(others.topk(min(count, others.shape[1] - 1), dim=1).indices.unbind(1))


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
        Starts: the first at the image itself, others at random points of the ball.
    """

    steps: int
    step: float
    restarts: int

    def run(
        self,
        objectives: Sequence[Objective],
        score: Objective,
        centres: torch.Tensor,
        radii: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Return float32[B, C, H, W], of the points of ball and box in which an ascent ended those of highest score.

        Parameters
        ----------
        objectives : sequence of callable
            Each is raised from every start. Towards one class each, they find what an ascent of the largest margin
            misses, since that follows the class which is ahead at the start (Gowal et al. 2019, multi-targeted).
        score : callable
        centres : float32[B, C, H, W]
            Images, pixels in [0, 1].
        radii : float32[B]
            ℓ2, in units of pixels in [0, 1].
        generator : torch.Generator
            Of the random starts, on the device of the centres.
        """
        best, highest = centres, torch.full_like(radii, -math.inf)
        for objective, start in product(objectives, range(self.restarts)):
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
                reached = score(points)
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


def _without(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return logits with -inf in each row's label."""
    return logits.scatter(1, labels[:, None], -math.inf)


def _each(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
