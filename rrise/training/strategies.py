"""What of the surrogate is trained: the head on fixed features, or the whole network on pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rrise.training.architectures import build_network, head
from rrise.training.pixels import unit

if TYPE_CHECKING:
    from rrise.training.architectures import NetworkSpec
    from rrise.training.networks import Network


@dataclass(frozen=True)
class Learner:
    """A trainable part of a network and what it is fed.

    Parameters
    ----------
    prepare : callable
        From 8-bit pixels [N, C, H, W] to what the part takes.
    fresh : callable
        Gives the part before training, a new copy each time, trainable, on its device, in the mode it is trained in.
    whole : callable
        Gives the whole network, from pixels in [0, 1] to logits, that holds a trained part.
    """

    prepare: Callable[[torch.Tensor], torch.Tensor]
    fresh: Callable[[], nn.Module]
    whole: Callable[[nn.Module], nn.Module]


class OnBytes(nn.Module):
    """A network fed with 8-bit pixels, which take a quarter of the memory of floats."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the network's logits of uint8[N, C, H, W]."""
        logits: torch.Tensor = self.network(unit(pixels))
        return logits


def learner(strategy: str, classifier: Network, spec: NetworkSpec, device: str, seed: int) -> Learner:
    """Return what the strategy trains; the classifier is only read.

    ``full`` trains in evaluation mode: the classifier's batch statistics are those under noise, and clean images in
    batches would shift them from step to step. ``spec`` is that of the network that is trained from scratch.

    Raises
    ------
    ValueError
        From ``prepare``, if the strategy is head and the classifier's logits are not the plain output of its last
        layer.
    """
    if strategy == "head":
        return _head_learner(copy.deepcopy(classifier.module).to(device).eval())

    def fresh() -> nn.Module:
        full = strategy == "full"
        module = copy.deepcopy(classifier.module) if full else build_network(spec, seed)
        return OnBytes(module.to(device).requires_grad_(True)).train(not full)

    def whole(part: nn.Module) -> nn.Module:
        assert isinstance(part, OnBytes)
        return part.network

    return Learner(lambda pixels: pixels, fresh, whole)


def _head_learner(original: nn.Module) -> Learner:
    # The body is frozen and in evaluation mode, so a picture's features never change.
    last = head(original)

    @torch.no_grad()
    def features(batch: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = last.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        try:
            logits = original(unit(batch))
        finally:
            hook.remove()
        if len(seen) != 1 or not torch.equal(last(seen[0]), logits):
            raise ValueError(
                f"strategy: expected a network whose logits are the output of its last layer, {last}, got one that "
                "goes on after it. Use strategy full."
            )
        return seen[0]

    def whole(part: nn.Module) -> nn.Module:
        result = copy.deepcopy(original)
        head(result).load_state_dict(part.state_dict())
        return result

    return Learner(features, lambda: copy.deepcopy(last).requires_grad_(True), whole)
