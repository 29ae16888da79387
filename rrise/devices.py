"""The one place where the name of a torch device is taken at its word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def usable_device(name: str | torch.device) -> torch.device:
    """Return a torch device on which a tensor can be made here.

    Raises
    ------
    ValueError
        If torch knows no such device, was not built for it, or finds none; the message holds torch's reason.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # a torch without CUDA asserts it
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"device: expected one that torch can use here, got {str(name)!r} ({reason}). Use cpu: a recipe of the "
            "paper does with --scale."
        ) from error
    return device
