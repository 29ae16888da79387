"""Labelled 8-bit images that carry their own names: an id is made from the pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrise.class_names import require_class_names
from rrise.images.arrays import Pixels, require_pixels

Ids = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.int64]
_SHOWN = 10


def image_ids(images: Pixels) -> Ids:
    """Return each picture's own name: equal pixels have equal ids, whatever file or order they come in.

    Parameters
    ----------
    images : uint8[N, H, W] or uint8[N, H, W, C]

    Returns
    -------
    uint64[N]
        First 7 bytes (big endian) of SHA-256 over ``b"H,W,C|"`` and the picture's H×W×C bytes; below 2^56.
    """
    height, width, channels = (*images.shape[1:], 1)[:3]
    head = b"%d,%d,%d|" % (height, width, channels)
    names = (hashlib.sha256(head + image.tobytes()).digest()[:7] for image in images)
    return np.fromiter((int.from_bytes(name, "big") for name in names), dtype=np.uint64, count=len(images))


def group_digests(names: Sequence[object]) -> Ids:
    """Return uint64[N], digests of group names as they print: equal names have equal ones, in any source."""
    digests = (hashlib.sha256(str(name).encode()).digest()[:8] for name in names)
    return np.fromiter((int.from_bytes(each, "big") for each in digests), dtype=np.uint64, count=len(names))


def positions(ids: Ids, wanted: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Return where each wanted id stands among ids; ValueError says how many stand nowhere."""
    names = np.asarray(wanted, dtype=np.uint64)
    order = np.argsort(ids)
    places = np.searchsorted(ids, names, sorter=order)
    known = places < len(ids)
    known[known] = ids[order[places[known]]] == names[known]
    if not known.all():
        missing = np.count_nonzero(~known)
        raise ValueError(f"ids: expected ids that are here, got {missing} of {len(names)} that are not.")
    return order[places]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled 8-bit images with ids that are unique and made from the pixels.

    Parameters
    ----------
    ids : uint64[N]
    images : uint8[N, H, W] or uint8[N, H, W, C]
    labels : int64[N]
        Each in 0..len(classes)-1.
    classes : tuple of str
        Class names in the order of the labels.
    dropped : int
        Images left out on loading because their pixels had occurred before.
    groups : uint64[N], optional
        Digests of the names of scenes, patients or films that images belong to; splits never share one.
    """

    ids: Ids
    images: Pixels
    labels: Labels
    classes: tuple[str, ...]
    dropped: int = 0
    groups: Ids | None = None

    def __post_init__(self) -> None:
        require_pixels(self.images, "images")
        if not len(self.ids) == len(self.images) == len(self.labels):
            lengths = f"{len(self.ids)} ids, {len(self.images)} images and {len(self.labels)} labels"
            raise ValueError(f"images: expected one id and one label an image, got {lengths}.")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("ids: expected no repeats. Build the set by ImageSet.from_arrays, which drops them.")
        if self.groups is not None and self.groups.shape != self.ids.shape:
            raise ValueError(f"groups: expected one an image, got {self.groups.shape} of {len(self.ids)} images.")
        _require_labels(self.labels, len(self.classes))
        require_class_names(self.classes)

    @classmethod
    def from_arrays(
        cls,
        images: Pixels,
        labels: npt.ArrayLike,
        classes: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
    ) -> ImageSet:
        """Return the set of distinct images of two arrays; of equal pictures the first is kept.

        Repeats are counted in ``dropped``; a warning says how many pictures have several labels.

        Parameters
        ----------
        images : uint8[N, H, W] or uint8[N, H, W, C]
        labels : integer[N]
        classes : sequence of str, optional
            Default: the labels themselves, which must then leave no class empty.
        groups : sequence of N names, optional
            Of the scene, patient or film of each image.

        Raises
        ------
        ValueError, TypeError
            If the pixels are not 8-bit, or the labels do not fit them.
        """
        require_pixels(images, "images")
        classes_of = np.asarray(labels)
        if classes_of.shape != (len(images),):
            raise ValueError(f"y: expected shape ({len(images)},), one label an image, got {classes_of.shape}.")
        if not np.issubdtype(classes_of.dtype, np.integer):
            raise TypeError(f"y: expected integers, got {classes_of.dtype}. Number the classes from 0 up.")
        classes_of = classes_of.astype(np.int64)
        if classes is None:
            _require_labels(classes_of, None)
            if classes_of.size and classes_of.max() >= len(classes_of):
                raise ValueError(
                    f"y: expected an image in each class from 0 up, got class {classes_of.max()} of {len(classes_of)} "
                    "images. Renumber the labels: y = np.unique(y, return_inverse=True)[1]."
                )
            empty = np.flatnonzero(np.bincount(classes_of) == 0)
            if len(empty):
                raise ValueError(
                    f"y: expected an image in each class 0..{classes_of.max()}, got none in class {empty[0]}. "
                    "Renumber the labels, or give the class names as `classes`."
                )
            classes = [str(label) for label in range(int(classes_of.max()) + 1)]
        _require_labels(classes_of, len(classes))
        ids = image_ids(images)
        _, places, which = np.unique(ids, return_index=True, return_inverse=True)
        keep = np.sort(places)
        if several := int(np.unique(which[classes_of != classes_of[places][which]]).size):
            example = int(np.flatnonzero(classes_of != classes_of[places][which])[0])
            first = int(places[which[example]])
            warnings.warn(
                f"{several} of {len(keep)} distinct pictures stand under several labels; the first is kept. Image "
                f"{example} is image {first} again: {classes[int(classes_of[first])]!r} and "
                f"{classes[int(classes_of[example])]!r}. Remove those that are wrong.",
                stacklevel=2,
            )
        named = None if groups is None else group_digests(groups)[keep]
        return cls(ids[keep], images[keep], classes_of[keep], tuple(classes), len(images) - len(keep), named)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W): the shape of one image as networks see it."""
        height, width, channels = (*self.images.shape[1:], 1)[:3]
        return channels, height, width

    @property
    def sha256(self) -> str:
        """Digest of the images in their order, the labels and the class names."""
        head = json.dumps(["rrise-images/1", self.images.shape[1:], self.classes]).encode()
        content = self.ids.astype("<u8").tobytes() + self.labels.astype("<i8").tobytes()
        return hashlib.sha256(head + content).hexdigest()

    def named_as(self, classes: Sequence[str] | None) -> ImageSet:
        """Return the set with the class names of a classifier, in their order; ``None`` leaves it as it is.

        The same names in another order are mapped, labels with them. Where one side has numbers only ("0", "1", ...),
        the other's names stand.

        Raises
        ------
        ValueError
            If the names differ: a certificate would carry a wrong one.
        """
        own, given = self.classes, tuple(classes) if classes is not None else self.classes
        if own == given or len(own) != len(given) or _numbers(given):
            return self
        if _numbers(own):
            return dataclasses.replace(self, classes=given)
        if sorted(own) != sorted(given):
            strangers = [name for name in own if name not in given]
            raise ValueError(
                f"classes: expected the classifier's, {', '.join(given[:_SHOWN])}{' ...' * (len(given) > _SHOWN)}, got "
                f"{', '.join(strangers[:_SHOWN])} in the images. Name the images' classes as the classifier's."
            )
        places = np.array([given.index(name) for name in own])
        return dataclasses.replace(self, labels=places[self.labels], classes=given)

    def take(self, indices: npt.ArrayLike) -> ImageSet:
        """Return the images at these positions, in that order."""
        at = np.asarray(indices, dtype=np.intp)
        groups = None if self.groups is None else self.groups[at]
        return ImageSet(self.ids[at], self.images[at], self.labels[at], self.classes, groups=groups)

    def select(self, ids: npt.ArrayLike) -> ImageSet:
        """Return the images with these ids, in that order; an id that is not here raises ValueError."""
        return self.take(positions(self.ids, ids))


def _numbers(classes: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(classes))


def _require_labels(labels: npt.NDArray[Any], num_classes: int | None) -> None:
    if len(labels) and labels.min() < 0:
        raise ValueError(f"y: expected labels from 0 up, got {labels.min()}. Number the classes from 0 up.")
    if num_classes is not None and len(labels) and labels.max() >= num_classes:
        raise ValueError(f"y: expected labels below {num_classes}, the number of classes, got {labels.max()}.")
