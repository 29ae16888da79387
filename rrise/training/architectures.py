"""Networks by name: any timm model, or any importable ``module:callable``, on pixels in [0, 1]."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network, except its weights.

    Parameters
    ----------
    network : str
        A timm model's name, or ``module:callable`` of something that returns a torch module.
    options : dict
        Keyword arguments of the timm model or the callable; what JSON can hold.
    num_classes : int
        K, the number of logits.
    input_shape : (C, H, W)
        Shape of one image.
    mean, std : tuple of C floats
        The network proper gets ``(pixel - mean) / std`` of pixels in [0, 1].

    Raises
    ------
    ValueError
        If a field is out of range, the field named.
    """

    network: str
    options: dict[str, Any]
    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.network:
            raise ValueError("network: expected a timm model's name or module:callable, got none.")
        if self.num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2 classes, got {self.num_classes}.")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(f"input_shape: expected (C, H, W), each at least 1, got {self.input_shape}.")
        channels = self.input_shape[0]
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != channels or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name}: expected {channels} finite numbers, one a channel, got {values}.")
        if min(self.std) <= 0:
            raise ValueError(f"std: expected numbers above 0, got {self.std}.")


@final
class PixelNormalised(nn.Module):
    """A network on pixels in [0, 1]: normalisation is its first step, so noise and radii keep the unit of pixels."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [N, K] of pixels [N, C, H, W]."""
        logits: torch.Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def build_network(spec: NetworkSpec, seed: int = 0, *, initial: bool = True) -> PixelNormalised:
    """Return the network with random weights that depend on the seed only, in evaluation mode.

    timm models get ``num_classes`` and ``in_chans``; so does a ``module:callable`` whose signature names them or takes
    any keyword. Options come on top; timm's that fetch weights (``pretrained``, ``checkpoint_path`` and the like) act
    only if the weights are ``initial``: a network that is loaded brings its own.

    Raises
    ------
    ValueError
        If there is no such network, it does not take the options, one pass over one image fails or does not give
        logits of shape (1, K), or its state holds more than tensors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _made(spec, initial)
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: expected {spec.network} to return a torch module, got {type(network).__name__}.")
    module = PixelNormalised(network, spec.mean, spec.std).float().eval()
    _check_state(module, spec)
    _check_logits(module, spec)
    return module


def head(module: nn.Module) -> nn.Module:
    """Return the layer that gives the logits: what timm calls the classifier, else the last linear layer.

    Raises
    ------
    ValueError
        If there is no such layer with weights.
    """
    network = module.network if isinstance(module, PixelNormalised) else module
    named = getattr(network, "get_classifier", None)
    found = named() if callable(named) else None
    if not isinstance(found, nn.Module):  # timm gives a tuple for networks with two heads
        found = next((layer for layer in reversed(list(network.modules())) if isinstance(layer, nn.Linear)), None)
    if found is None or not any(True for _ in found.parameters()):
        raise ValueError(
            f"network: expected a linear layer that gives the logits, found none in {type(network).__name__}. "
            "Use strategy full or scratch."
        )
    return found


_FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict")
"""Options of timm that fetch weights from elsewhere."""
_TIMM_SCHEMES = ("hf_hub", "hf-hub", "local-dir")
"""What stands before the colon of timm's own names of models elsewhere."""


def _made(spec: NetworkSpec, initial: bool) -> object:
    options: dict[str, object] = {"num_classes": spec.num_classes, "in_chans": spec.input_shape[0]}
    create: Callable[..., object]
    scheme, colon, _ = spec.network.partition(":")
    timms = not colon or scheme in _TIMM_SCHEMES
    if timms:
        create = _timm_model(spec.network)
    else:
        create = _imported(spec.network)
        try:
            parameters = dict(inspect.signature(create).parameters)
        except ValueError:  # some compiled callables have no signature
            parameters = {}
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
            options = {name: value for name, value in options.items() if name in parameters}
    options |= {name: v for name, v in spec.options.items() if initial or not (timms and name in _FETCHING)}
    try:
        return create(**options)
    except Exception as error:  # whatever a constructor raises, it was these options it did not take
        raise ValueError(
            f"network: expected {spec.network} to take the options {options}, got {_said(error)}. "
            "See its signature for the options it knows."
        ) from error


def _imported(name: str) -> Callable[..., object]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"network: expected an importable module:callable, got {name!r} ({error}). "
            "A file of yours must be on PYTHONPATH."
        ) from error
    if not callable(found):
        raise ValueError(f"network: expected {name} to be a class or function, got {type(found).__name__}.")
    result: Callable[..., object] = found
    return result


def _timm_model(name: str) -> Callable[..., object]:
    import timm

    if name.partition(":")[0] in _TIMM_SCHEMES:
        return lambda **options: timm.create_model(name, **options)
    if not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them."
        raise ValueError(f"network: expected a timm model or module:callable, got {name!r}. {hint}")
    return lambda **options: timm.create_model(name, **options)


def _check_state(module: PixelNormalised, spec: NetworkSpec) -> None:
    others = [name for name, value in module.state_dict().items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"network: expected {spec.network} to keep tensors only in its state_dict, got {', '.join(others)}. Drop "
            "get_extra_state, or keep that state in a buffer: it could not be saved."
        )


def _check_logits(module: PixelNormalised, spec: NetworkSpec) -> None:
    shape = (1, *spec.input_shape)
    try:
        with torch.no_grad():
            logits = module(torch.zeros(shape))
    except Exception as error:  # the network is the user's: anything can be raised
        cure = "Set its options (img_size, patch_size, in_chans, ...) for these images."
        if "more than 1 value per channel" in str(error):
            cure = "It uses statistics of the batch in evaluation mode: use running ones."
        raise ValueError(
            f"network: expected {spec.network} to take images of shape {shape}, got {_said(error)}. {cure}"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (1, spec.num_classes):
        raise ValueError(
            f"network: expected {spec.network} to give logits of shape (1, {spec.num_classes}) for an image of shape "
            f"{shape}, got {found}. Set num_classes in its options, or use a network with one output."
        )


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
