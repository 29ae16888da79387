"""Forward passes over noisy copies of images: where the noise is made, and how the classifier is run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from rrise.devices import usable_device
from rrise.targets.noise import make_sampler

if TYPE_CHECKING:
    import torch
    from torch import nn

    Classifier = Callable[[torch.Tensor], torch.Tensor]


def prepare_classifier(
    module: nn.Module, device: str | torch.device, precision: str = "float32", compiled: bool = False
) -> Classifier:
    """Return a module on its device as the classifier that is sampled: float32 pixels to float32 logits.

    On a GPU it runs in channels_last. ``bfloat16`` runs it under autocast and ``compiled`` through torch.compile; both
    can change logits in their last bits, and so counts.

    Raises
    ------
    ValueError
        If the module is in training mode, or the device cannot be used here.
    """
    import torch

    if module.training:
        raise ValueError("classifier: expected evaluation mode, got training mode. Call classifier.eval() first.")
    kind = usable_device(device).type
    module = module.to(device)
    if kind == "cuda":
        module = module.to(memory_format=torch.channels_last)
    run: Classifier = torch.compile(module) if compiled else module
    if precision == "float32":
        return run

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(kind, dtype=getattr(torch, precision)):
            return run(pixels).float()

    return classify


class Noisy(Protocol):
    """Gives noisy copies of images, ready for the classifier."""

    def __call__(self, at: npt.NDArray[np.intp], first_draw: int) -> torch.Tensor:
        """Return float32[len(at) * batch, C, H, W] on the device, valid until the next call.

        Draws first_draw … of the first image, those of the second, and so on; always of the same number of images.
        """


def noisy_copies(
    sampler: str,
    sigma: float,
    rows: npt.NDArray[Any],
    names: npt.NDArray[np.uint64],
    shape: tuple[int, int, int],
    batch: int,
    *,
    together: int = 1,
    seed: int,
    stream: int,
    device: torch.device,
) -> Noisy:
    """Return the source of noisy copies of images: grid noise of a GPU is made there, all else on the CPU.

    Parameters
    ----------
    sampler, sigma, seed, stream
        Name the noise.
    rows : uint8[B, P] or float32[B, P]
        Pixels in the order of (C, H, W) = ``shape``.
    names : uint64[B]
    batch, together : int
        Copies of an image, and images, a call.
    device : torch.device
    """
    import torch

    if device.type == "cuda" and sampler == "grid":
        from rrise.targets.device_noise import DeviceGridNoise

        on_device = DeviceGridNoise(sigma, device)
        pixels = torch.from_numpy(rows).to(device)
        copies = torch.empty((together * batch, *shape), device=device).to(memory_format=torch.channels_last)

        def make(at: npt.NDArray[np.intp], first_draw: int) -> torch.Tensor:
            these = pixels[torch.from_numpy(at).to(device)]
            on_device.fill(these, names[at], first_draw=first_draw, draws=batch, seed=seed, stream=stream, out=copies)
            return copies

        return make

    noise = make_sampler(sampler, sigma)
    own = threading.local()  # each thread of a pool runs passes of its own

    def fill(at: npt.NDArray[np.intp], first_draw: int) -> torch.Tensor:
        if not hasattr(own, "noisy"):
            size = (together * batch, *shape)
            own.noisy = torch.empty(size, dtype=torch.float32, pin_memory=device.type == "cuda")
        room = own.noisy.numpy().reshape(together, batch, -1)
        noise.fill(rows[at], names[at], first_draw=first_draw, draws=batch, seed=seed, stream=stream, out=room)
        moved: torch.Tensor = own.noisy.to(device)
        return moved.to(memory_format=torch.channels_last) if device.type == "cuda" else moved

    return fill
