"""What a surrogate learns from: the views of images and the classifier's frequencies on them, one view at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrise.training.descent import outputs
from rrise.views import Views, moved

Counts = npt.NDArray[np.integer[Any]]
"""int[N, K]: how often the classifier gave each class to each image; every row has at least one draw."""


class Examples:
    """Inputs and targets of N images in the view that is selected; the pixels of a view are made batch by batch.

    Parameters
    ----------
    pixels : uint8[N, C, H, W]
        The images, on the device that trains.
    ids : uint64[N]
    views : Views
        How views are made of them.
    counts : callable
        From the number of a view to its counts int[N, K], in the order of the images.
    num_classes : int
    prepare : callable
        From 8-bit pixels to what the trained part of the network takes.

    Raises
    ------
    ValueError
        If counts do not fit.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        ids: npt.NDArray[np.uint64],
        views: Views,
        counts: Callable[[int], Counts],
        num_classes: int,
        prepare: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.pixels, self.ids, self.views, self._counts = pixels, ids, views, counts
        self._num_classes, self._prepare = num_classes, prepare
        self._view = -1
        # Of one view, inputs are made once; of several, an epoch sees each but once.
        self._kept = outputs(prepare, pixels) if views.count == 1 else None
        self.select(0)

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, view: int) -> None:
        """Turn to a view: its targets are read, its pixels are made when they are asked for."""
        if view == self._view:
            return
        counts = np.asarray(self._counts(view))
        device = self.pixels.device
        self.counts = torch.from_numpy(checked_counts(counts, self.ids, self._num_classes)).to(device)
        self.targets = (self.counts / self.counts.sum(1, keepdim=True)).float()
        self._moves = torch.from_numpy(self.views.moves(self.ids, view)).to(device) if view else None
        self._view = view

    def shown(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the 8-bit pixels of rows of the images, in the selected view."""
        pixels = self.pixels[rows]
        return pixels if self._moves is None else moved(pixels, self._moves[rows])

    def inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what the trained part takes for rows of the images, in the selected view."""
        return self._prepare(self.shown(rows)) if self._kept is None else self._kept[rows]


def checked_counts(counts: Counts, ids: npt.NDArray[np.uint64], num_classes: int) -> npt.NDArray[np.float64]:
    """Return counts as float64[N, K] if they fit the images and the classes; ValueError says what is wrong."""
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts: expected integers [N, K], got {counts.dtype}{list(counts.shape)}.")
    if len(counts) != len(ids):
        raise ValueError(f"counts: expected one row an image, got {len(counts)} rows of counts and {len(ids)} images.")
    if counts.shape[1] != num_classes:
        raise ValueError(
            f"counts: expected {num_classes} columns, the classifier's classes, got {counts.shape[1]}. "
            "Sample with this classifier."
        )
    if not len(counts) or counts.min() < 0 or counts.sum(1, dtype=np.int64).min() < 1:
        raise ValueError("counts: expected images with at least one draw each, got none for some. Sample them first.")
    return counts.astype(np.float64)
