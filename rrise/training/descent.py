"""The one training loop: AdamW, a short warm-up, then a cosine down to zero; a function of its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rrise.devices import usable_device

if TYPE_CHECKING:
    from rrise.training.checkpoint import Checkpoint

WARM_UP = 0.1
"""Share of the steps in which the learning rate climbs linearly to its peak."""


@dataclass(frozen=True)
class Descent:
    """Length and step sizes of one run of the loop; ``lr`` is the peak of the schedule."""

    lr: float
    weight_decay: float
    epochs: int
    batch_size: int

    def run(
        self,
        module: nn.Module,
        loss: Callable[[torch.Tensor], torch.Tensor],
        count: int,
        generator: torch.Generator,
        each_epoch: Callable[[float], object] = lambda loss: None,
        *,
        before_epoch: Callable[[int], object] = lambda epoch: None,
        checkpoint: Checkpoint | None = None,
    ) -> float:
        """Train the module in place and return the mean loss over the last epoch, NaN if it diverged.

        Parameters
        ----------
        module : torch.nn.Module
            Every parameter that requires a gradient is trained; vectors (biases, norms) are not decayed.
        loss : callable
            From the indices of a batch (int64 tensor on the generator's device) to its mean loss.
        count : int
            Number of examples.
        generator : torch.Generator
            Draws the order of the examples.
        each_epoch : callable
            Gets the mean loss of each epoch.
        before_epoch : callable
            Gets the number of each epoch, from 0 up.
        checkpoint : Checkpoint, optional
            Where the run goes on if it was interrupted, to the same weights; ``each_epoch`` writes its history.
        """
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        decays = {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay}
        keeps = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
        device = generator.device
        optimizer = torch.optim.AdamW([decays, keeps], lr=self.lr, fused=device.type in ("cpu", "cuda"))
        batches = -(-count // self.batch_size)
        if checkpoint:
            checkpoint.restore(module, optimizer, generator)
        done = checkpoint.history if checkpoint else []
        mean = done[-1][0] if done else math.nan
        total, step = self.epochs * batches, len(done) * batches
        for epoch in range(len(done), self.epochs):
            before_epoch(epoch)
            order = torch.randperm(count, generator=generator, device=device)
            losses = torch.zeros((), device=device)
            for indices in order.tensor_split(batches):  # near-equal: a last batch of one would upset batch norms
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * schedule(step, total)
                found = loss(indices)
                optimizer.zero_grad(set_to_none=True)
                found.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses += found.detach() * (len(indices) / count)
                step += 1
            mean = losses.item()
            each_epoch(mean)
            if not math.isfinite(mean):
                return math.nan
            if checkpoint:
                checkpoint.keep(module, optimizer, generator)
        return mean


def schedule(step: int, total: int) -> float:
    """Return the learning rate at a step, 0 to total - 1, as a share of its peak; above 0 and at most 1."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (total - warm + 1)))


@contextmanager
def reproducible(seed: int, device: str, threads: int = 0) -> Iterator[torch.Generator]:
    """Seed everything random within, set the CPU threads (0: leave them), and put both back afterwards.

    Yields
    ------
    torch.Generator
        On the device, freshly seeded.
    """
    target = usable_device(device)
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.manual_seed(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield torch.Generator(device=target).manual_seed(seed)
        finally:
            torch.set_num_threads(before)


@torch.no_grad()
def outputs(function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch: int = 512) -> torch.Tensor:
    """Return the function of all inputs, computed without gradients in batches."""
    parts: Iterable[torch.Tensor] = (function(part) for part in torch.split(inputs, batch))
    return torch.cat(list(parts))
