"""Class counts of a classifier under named noise: the one place where the base classifier is evaluated many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rrise.images.arrays import require_pixels
from rrise.targets.noise import TARGETS
from rrise.targets.passes import noisy_copies
from rrise.targets.settings import batch_geometry, require_sampling

if TYPE_CHECKING:
    import torch

    from rrise.targets.passes import Classifier


def sample_counts(
    classifier: Classifier,
    images: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    *,
    sigma: float,
    n: int,
    seed: int,
    sampler: str = "grid",
    stream: int = TARGETS,
    batch_size: int = 250,
    first_draw: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    images_per_pass: int = 1,
    progress: bool = False,
) -> npt.NDArray[np.uint32]:
    """Return how often the classifier gives each class to each image under n named draws of noise.

    One forward pass holds draws of one image only, so an image's counts are a function of (classifier, image, sigma,
    seed, id, first_draw, n, stream, batch) and of nothing else: not of the other images, their order or number. With
    ``images_per_pass`` several share a pass, the same noise as before and at the same cost an evaluation however few
    the draws: a bound should not be made of such counts, since the logits' last bits may depend on the company.

    Parameters
    ----------
    classifier : callable
        float32[M, C, H, W] of noisy pixels (on ``device``) to logits [M, K]; in evaluation mode.
    images : uint8[B, H, W] or uint8[B, H, W, C]; the gaussian sampler also takes float32[B, C, H, W] in [0, 1]
    ids : uint64[B]
        Names of the images, below 2^56: they name the noise.
    sigma : float
        Noise level in units of pixels in [0, 1].
    n, first_draw : int
        Draws first_draw .. first_draw+n-1 are counted.
    seed, stream : int
        Name the noise further; draws of different streams are independent.
    sampler : str
        ``grid``: exact on the 8-bit grid. ``gaussian``: float32 noise, which carries fingerprints of the image.
    batch_size : int
        Most draws in one forward pass, see :func:`batch_geometry`.
    threads : int, optional
        On a CPU: images evaluated at a time, each on one thread, which needs a classifier that may be called from
        several threads. 0: one a core. Default: one image at a time, on as many threads as torch was set to use.

    images_per_pass : int
        Images, in the order given, whose draws share a forward pass, ``batch`` of each; the last pass is filled up.

    Returns
    -------
    uint32[B, K]
        Each row sums to n.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, an image is not what the sampler takes, or the classifier gives non-finite
        logits or another shape than [M, K].
    """
    import torch
    from tqdm import tqdm

    require_sampling(sigma, n, seed, sampler, batch_size, stream, first_draw)
    rows, shape = _rows(np.asarray(images), sampler)
    names = _names(ids, len(rows))
    if getattr(classifier, "training", False):
        raise ValueError("classifier: expected evaluation mode, got training mode. Call classifier.eval() first.")
    target = torch.device(device)
    batch, _ = batch_geometry(n, batch_size)
    if images_per_pass < 1:
        raise ValueError(f"images_per_pass: expected at least 1, got {images_per_pass}.")
    together = images_per_pass
    copies = noisy_copies(
        sampler, sigma, rows, names, shape, batch, together=together, seed=seed, stream=stream, device=target
    )
    ones = torch.ones((together, batch), dtype=torch.int64, device=target)

    @torch.inference_mode()
    def count(first: int) -> torch.Tensor:
        counts, own = None, min(together, len(rows) - first)
        at = np.minimum(np.arange(first, first + together), len(rows) - 1)
        for drawn in range(0, n, batch):
            logits = classifier(copies(at, first_draw + drawn))
            counts = _no_counts(logits, own, target) if counts is None else counts
            _require_logits(logits, together * batch, counts.shape[1] - 1)
            label = _labels(logits).reshape(together, batch)[:own, : n - drawn]
            counts.scatter_add_(1, label, ones[:own, : label.shape[1]])
        assert counts is not None  # n >= 1
        return counts

    found: list[torch.Tensor] = []
    bar = tqdm(total=len(rows), unit="image", disable=None if progress else True, leave=False)
    with bar, _evaluator(target, threads) as evaluate:
        for counts in evaluate(count, range(0, len(rows), together)):
            if not found:  # a broken classifier is found at once, without a wait for the device at every image
                _require_finite(counts, names)
            found.append(counts)
            bar.update(len(counts))
    table = torch.cat(found)
    _require_finite(table, names)
    return table[:, :-1].cpu().numpy().astype(np.uint32)


@contextmanager
def _evaluator(device: torch.device, threads: int | None) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a map over images: in this thread, or in a pool whose threads each run a forward pass alone.

    Several passes of one thread each finish more images than one pass of several threads, which wait for each other
    after every layer; and beside other busy processes that wait is what makes the latter slow down many times over.
    """
    import torch

    workers = available_cores() if threads == 0 else threads
    if device.type != "cpu" or workers is None:
        yield map
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rows(images: npt.NDArray[Any], sampler: str) -> tuple[npt.NDArray[Any], tuple[int, int, int]]:
    """Return the images flattened in the order of (C, H, W), and that shape."""
    if images.dtype == np.float32 and sampler == "gaussian":
        if images.ndim != 4 or not images.size:
            raise ValueError(f"images: expected float32 of shape (B, C, H, W), got {images.shape}.")
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images: expected pixels in [0, 1], got {low} to {high}. Normalise in the classifier.")
        channels, height, width = images.shape[1:]
        return np.ascontiguousarray(images).reshape(len(images), -1), (channels, height, width)
    if images.dtype != np.uint8 and sampler == "grid":
        raise TypeError(
            f"images: expected uint8 for the grid sampler, got {images.dtype}. Give the raw 8-bit pixels, or use "
            "sampler='gaussian', whose certificate is not exact in floating point."
        )
    require_pixels(images, "images")
    pixels = images[..., None] if images.ndim == 3 else images
    height, width, channels = pixels.shape[1:]
    rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)
    return rows if sampler == "grid" else rows.astype(np.float32) / np.float32(255), (channels, height, width)


def _names(ids: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.uint64]:
    names = np.ascontiguousarray(ids)
    if names.dtype != np.uint64 or names.shape != (count,):
        raise ValueError(f"ids: expected uint64[{count}], one an image, got {names.dtype}{list(names.shape)}.")
    if names.max() >= 2**56:
        raise ValueError(f"ids: expected ids below 2^56, got {names.max()}. Use rrise.images.image_ids.")
    return names


def _no_counts(logits: torch.Tensor, images: int, device: torch.device) -> torch.Tensor:
    """Return zero counts of images for each class and, in the last column, for draws whose logits are not finite."""
    import torch

    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"classifier: expected logits [M, K] with K >= 2, got shape {tuple(logits.shape)}.")
    return torch.zeros((images, logits.shape[1] + 1), dtype=torch.int64, device=device)


def _require_logits(logits: torch.Tensor, batch: int, num_classes: int) -> None:
    if logits.shape != (batch, num_classes):
        raise ValueError(f"classifier: expected logits {(batch, num_classes)}, got shape {tuple(logits.shape)}.")


def _labels(logits: torch.Tensor) -> torch.Tensor:
    """Return each row's first largest class, or K where a logit is not finite."""
    import torch

    return torch.where(torch.isfinite(logits).all(1), logits.argmax(1), logits.shape[1])


def _require_finite(counts: torch.Tensor, names: npt.NDArray[np.uint64]) -> None:
    lost, draws = counts[:, -1].cpu().numpy(), counts.sum(1).cpu().numpy()
    if lost.any():
        worst = int(lost.argmax())
        others = np.count_nonzero(lost) - 1
        raise ValueError(
            f"classifier: expected finite logits, got NaN or inf in {lost[worst]} of {draws[worst]} draws of image "
            + str(names[worst])
            + (f" and in draws of {others} more images." if others else ".")
        )
