"""One network that answers for several noise levels: a head for each sigma, on features that are computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rrise.training.architectures import head
from rrise.training.networks import Network
from rrise.training.seen import FACT

_SHARED = ("classifier_sha256", "classes", FACT)


class SideBySide(nn.Module):
    """Several networks on the same pixels, their logits one after the other."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [N, S K] of pixels [N, C, H, W] in [0, 1]."""
        return torch.cat([network(pixels) for network in self.networks], dim=1)


def joined(surrogates: Sequence[Network]) -> Network:
    """Return one network with the logits of all, those of the smallest sigma first.

    Surrogates whose heads alone were trained share all other weights: their heads become one wider layer, and the rest
    runs once. Others run side by side.

    Parameters
    ----------
    surrogates : sequence of S >= 2 Networks
        Of the same classifier, one for each sigma, in any order.

    Returns
    -------
    Network
        Logits [N, S K]. Facts: ``sigmas`` (rising), ``counts_sha256`` and ``surrogates`` (S of each, in that order),
        ``shared`` (whether all but the heads runs once). Its training ids are those of all.

    Raises
    ------
    ValueError
        If they are fewer than two, of different classifiers or images, or two are of one sigma.
    """
    ordered = sorted(surrogates, key=lambda network: float(network.facts["sigma"]))
    sigmas = [float(network.facts["sigma"]) for network in ordered]
    if len(set(sigmas)) < max(2, len(sigmas)):
        raise ValueError(
            f"surrogate: expected two or more, each of another sigma, got sigma = {sigmas}. Name each once."
        )
    first = ordered[0]
    for other in ordered[1:]:
        for name in _SHARED:
            if other.facts.get(name) != first.facts.get(name):
                raise ValueError(
                    f"surrogate: expected all of the same classifier and images, got another {name} at sigma = "
                    f"{other.facts['sigma']:g} than at {sigmas[0]:g}. Fit them to counts of one classifier."
                )
        if other.spec.input_shape != first.spec.input_shape:
            raise ValueError(
                f"surrogate: expected all for images {first.spec.input_shape}, got one for {other.spec.input_shape}."
            )
    modules = [network.module for network in ordered]
    wide = _with_wide_head(ordered)
    facts: dict[str, Any] = {name: first.facts[name] for name in _SHARED if name in first.facts}
    facts |= {
        "kind": "surrogate",
        "sigmas": sigmas,
        "counts_sha256": [network.facts["counts_sha256"] for network in ordered],
        "surrogates": [network.sha256 for network in ordered],
        "shared": wide is not None,
    }
    spec = replace(first.spec, num_classes=len(ordered) * first.spec.num_classes)
    ids = np.unique(np.concatenate([network.training_ids for network in ordered]))
    module = SideBySide(copy.deepcopy(modules)) if wide is None else wide
    return Network.of(spec, module, ids, facts)


def _with_wide_head(networks: Sequence[Network]) -> nn.Module | None:
    """Return the first network with the heads of all in one linear layer, or None if more than heads differ."""
    if any(network.spec != networks[0].spec for network in networks[1:]):
        return None
    module = copy.deepcopy(networks[0].module)
    last = head(module)
    name = next(name for name, layer in module.named_modules() if layer is last)
    if not isinstance(last, nn.Linear):
        return None
    states = [network.module.state_dict() for network in networks]
    trunk = [key for key in states[0] if not key.startswith(f"{name}.")]
    if not all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in trunk):
        return None
    wide = nn.Linear(last.in_features, len(networks) * last.out_features, bias=last.bias is not None)
    with torch.no_grad():
        for key, parameter in wide.named_parameters():
            parameter.copy_(torch.cat([state[f"{name}.{key}"] for state in states]))
    module.get_submodule(name.rpartition(".")[0])._modules[name.rpartition(".")[2]] = wide
    return module
