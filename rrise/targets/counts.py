"""Class counts by image id: whole numbers that merge by addition, so that no order of work can change them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrise.images.image_set import positions

_LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class CountTable:
    """How often a classifier gave each class to each image under noise.

    Parameters
    ----------
    ids : uint64[N]
        Image ids, none twice.
    labels : int64[N]
        True classes of the images.
    n : int64[N]
        Noisy draws of each image.
    counts : int32[N, K]
        Draws of each class; row i sums to n[i].

    Raises
    ------
    ValueError, TypeError
        If the arrays do not fit each other, or a row does not sum to its n.
    """

    ids: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int64]
    n: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, kind, axes in (("ids", "u8", 1), ("labels", "i8", 1), ("n", "i8", 1), ("counts", "i4", 2)):
            array: npt.NDArray[Any] = getattr(self, name)
            if array.dtype != np.dtype(kind):
                raise TypeError(f"{name}: expected {np.dtype(kind)}, got {array.dtype}.")
            if array.ndim != axes or len(array) != len(self.ids):
                raise ValueError(f"{name}: expected {axes} axes, {len(self.ids)} long, got shape {array.shape}.")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("ids: expected no image twice. Tables of the same images merge by +.")
        if self.counts.size and self.counts.min() < 0:
            raise ValueError(f"counts: expected 0 or more, got {self.counts.min()}.")
        wrong = np.flatnonzero(self.counts.sum(axis=1, dtype=np.int64) != self.n)
        if len(wrong):
            row = wrong[0]
            total = self.counts[row].sum(dtype=np.int64)
            raise ValueError(f"counts: expected image {self.ids[row]} to sum to its n={self.n[row]}, got {total}.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.counts.shape[1])

    @property
    def proportions(self) -> npt.NDArray[np.float64]:
        """Shares of the draws, counts / n : float64[N, K]."""
        return self.counts / self.n[:, None].astype(np.float64)

    @property
    def sha256(self) -> str:
        """Digest of the content in the order of the ids: the same however the table was put together."""
        order = np.argsort(self.ids)
        digest = hashlib.sha256(b"rrise-counts/1,%d,%d|" % self.counts.shape)
        for array, kind in ((self.ids, "<u8"), (self.labels, "<i8"), (self.n, "<i8"), (self.counts, "<i4")):
            digest.update(array[order].astype(kind).tobytes())
        return digest.hexdigest()

    def __add__(self, other: CountTable) -> CountTable:
        """Return the table of all images of both, sorted by id; of an image in both, counts and n add up.

        The draws of the two must be different ones (another stream, or a later first_draw), or they count twice.

        Raises
        ------
        ValueError
            If the numbers of classes or an image's labels differ, or a count leaves int32.
        """
        if not isinstance(other, CountTable):
            return NotImplemented
        if self.num_classes != other.num_classes:
            raise ValueError(f"counts: expected {self.num_classes} classes in both tables, got {other.num_classes}.")
        both = np.concatenate([self.ids, other.ids])
        ids, first, place = np.unique(both, return_index=True, return_inverse=True)
        labels = np.concatenate([self.labels, other.labels])
        if (clash := both[labels[first][place] != labels]).size:
            raise ValueError(f"labels: expected one label an image, got two for {clash[0]} and {len(clash) - 1} more.")
        n = np.zeros(len(ids), dtype=np.int64)
        counts = np.zeros((len(ids), self.num_classes), dtype=np.int64)
        np.add.at(n, place, np.concatenate([self.n, other.n]))
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        if counts.size and counts.max() > _LARGEST:
            raise ValueError(f"counts: expected sums up to {_LARGEST}, got {counts.max()}.")
        return CountTable(ids, labels[first], n, counts.astype(np.int32))

    def rows(self, ids: npt.ArrayLike) -> CountTable:
        """Return the rows of these images, in that order; ValueError says how many are missing."""
        try:
            at = positions(self.ids, ids)
        except ValueError as error:
            raise ValueError(f"counts: the table does not hold every image asked for ({error}).") from error
        return CountTable(self.ids[at], self.labels[at], self.n[at], self.counts[at])
