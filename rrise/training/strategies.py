"""What of the surrogate is trained: the head on fixed features, or the whole network on pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rrise.training.architectures import build_network, head
from rrise.training.descent import outputs
from rrise.training.pixels import unit

if TYPE_CHECKING:
    from rrise.training.architectures import NetworkSpec
    from rrise.training.networks import Network


@dataclass(frozen=True)
class Learner:
    """A trainable part of a network and what it is fed.

    Parameters
    ----------
    inputs : tensor [N, ...]
        What the part takes, for all N images.
    fresh : callable
        Gives the part before training, a new copy each time, trainable, on the inputs' device.
    whole : callable
        Gives the whole network, from pixels in [0, 1] to logits, that holds a trained part.
    """

    inputs: torch.Tensor
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


def learner(strategy: str, classifier: Network, spec: NetworkSpec, pixels: torch.Tensor, seed: int) -> Learner:
    """Return what the strategy trains, for images uint8[N, C, H, W]; the classifier is only read.

    ``spec`` is that of the network that is trained from scratch.

    Raises
    ------
    ValueError
        If the strategy is head and the classifier's logits are not the plain output of its last layer.
    """
    if strategy == "head":
        return _head_learner(copy.deepcopy(classifier.module).to(pixels.device).eval(), pixels)

    def fresh() -> nn.Module:
        module = copy.deepcopy(classifier.module).eval() if strategy == "full" else build_network(spec, seed)
        return OnBytes(module.to(pixels.device).requires_grad_(True))

    def whole(part: nn.Module) -> nn.Module:
        assert isinstance(part, OnBytes)
        return part.network

    return Learner(pixels, fresh, whole)


def _head_learner(original: nn.Module, pixels: torch.Tensor) -> Learner:
    # The body is frozen and in evaluation mode, so an image's features never change: they are computed once.
    last = head(original)
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))

    def features(batch: torch.Tensor) -> torch.Tensor:
        seen.clear()
        logits = original(unit(batch))
        if len(seen) != 1 or not torch.equal(last(seen[0]), logits):
            raise ValueError(
                f"strategy: expected a network whose logits are the output of its last layer, {last}, got one that "
                "goes on after it. Use strategy full."
            )
        return seen[0]

    try:
        inputs = outputs(features, pixels)
    finally:
        hook.remove()

    def whole(part: nn.Module) -> nn.Module:
        result = copy.deepcopy(original)
        head(result).load_state_dict(part.state_dict())
        return result

    return Learner(inputs, lambda: copy.deepcopy(last).requires_grad_(True), whole)
