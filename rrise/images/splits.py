"""Seeded splits of images that share no picture, and the settings that make them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rrise.images.image_set import ImageSet
from rrise.images.sources import SOURCES, load_images

Rows = npt.NDArray[np.intp]
FEWEST_SHAPING, MOST_SHAPING = 200, 1000
"""Training images that shape the curve by default: fewer give a coarse shape, more would hardly change it."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how many go into each split."""

    source: str = field(default="digits", metadata={"help": f"images to split: {SOURCES}"})
    calibration_source: str = field(
        default="", metadata={"help": "images to calibrate on; none: calibration images come from source"}
    )
    test_source: str = field(default="", metadata={"help": "images to test on; none: test images come from source"})
    groups: str = field(
        default="",
        metadata={
            "help": "what names the scene, patient or film of an image, which is never in two splits: an array of the "
            ".npz, or of class folders / (the folder below the class) or a regular expression of the path below it"
        },
    )
    train: int = field(default=900, metadata={"help": "images that train the classifier and the surrogate"})
    targets: int = field(
        default=0,
        metadata={"help": "training images, the first ones, that the surrogate is fitted to; 0: all but the profile"},
    )
    profile: int = field(
        default=-1,
        metadata={
            "help": "training images after those, to which no surrogate is fitted and whose counts only shape the "
            f"scaled curve; -1: a tenth of the training images, {FEWEST_SHAPING} to {MOST_SHAPING}, or 0 where that "
            "is over a quarter of them, or more than are left of the targets; 0: the targets do"
        },
    )
    calibration: int = field(default=500, metadata={"help": "images that calibrate; neither network ever sees them"})
    test: int = field(default=397, metadata={"help": "images that the report is made from"})
    seed: int = field(default=0, metadata={"help": "seed of the splits"})

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"source: expected one of: {SOURCES}, got none.")
        for name in ("train", "calibration", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 image, got {getattr(self, name)}.")
        if not 0 <= self.targets <= self.train:
            raise ValueError(f"targets: expected 0 (all) to train={self.train} images, got {self.targets}.")
        if self.profile < -1 or self.profile > self.train - max(self.targets, 1):
            raise ValueError(
                f"profile: expected -1, 0, or images beside targets={self.targets or 'all others'} among "
                f"train={self.train}, got {self.profile}. Lower one of them."
            )

    @property
    def shaping(self) -> int:
        """How many training images only shape the curve; 0: the targets do."""
        if self.profile >= 0:
            return self.profile
        wanted = min(MOST_SHAPING, max(FEWEST_SHAPING, self.train // 10))
        return wanted if wanted <= min(self.train // 4, self.train - self.targets) else 0

    @property
    def fitted(self) -> int:
        """How many training images the surrogate is fitted to."""
        return self.targets or self.train - self.shaping


@dataclass(frozen=True)
class Splits:
    """Three image sets that share no picture; ``dropped`` counts the repeats that were left out to make it so.

    ``config`` says how they can be loaded again, elsewhere; None if they were made from arrays. ``repeats`` of the
    ``pictures`` of the source of the calibration images were repeats of others.
    """

    train: ImageSet
    calibration: ImageSet
    test: ImageSet
    dropped: int = 0
    config: DataConfig | None = None
    repeats: int = 0
    pictures: int = 0

    @property
    def targets(self) -> ImageSet:
        """The training images that are sampled and that the surrogate is fitted to: the first ones, or all."""
        count = self.config.fitted if self.config else len(self.train)
        return self.train.take(np.arange(count)) if count < len(self.train) else self.train

    @property
    def profile(self) -> ImageSet:
        """The training images whose counts shape the scaled curve: some without part in the fit, or the targets."""
        if not (self.config and self.config.shaping):
            return self.targets
        first = self.config.fitted
        return self.train.take(np.arange(first, first + self.config.shaping))

    def named_as(self, classes: Sequence[str] | None) -> Splits:
        """Return the splits with the class names of a classifier, as :meth:`ImageSet.named_as` says."""
        parts = {name: getattr(self, name).named_as(classes) for name in ("train", "calibration", "test")}
        return dataclasses.replace(self, **parts)

    def summary(self) -> str:
        """Return one line that says what there is."""
        shape = "×".join(str(side) for side in self.train.input_shape)
        parts = [f"{len(self.targets)} of them targets"] if len(self.targets) < len(self.train) else []
        parts += [f"{self.config.shaping} for the curve's shape"] if self.config and self.config.shaping else []
        targets = f" ({', '.join(parts)})" if parts else ""
        return (
            f"{len(self.train)} training{targets}, {len(self.calibration)} calibration and {len(self.test)} test "
            f"images of {shape} in {len(self.train.classes)} classes ({self.dropped} repeats dropped)"
        )


def load_splits(config: DataConfig) -> Splits:
    """Return splits that share no picture and depend only on the seed and the pictures, not on files or their order.

    Images are taken in the order of SHA-256(seed, id): first train, then calibration, then test. With a
    ``calibration_source`` or ``test_source`` those come from there, less what occurs in the splits before.

    Raises
    ------
    ValueError
        If there are too few images, or the two sources do not fit each other; and as :func:`load_images`.
    """
    images = load_images(config.source, config.groups)
    asked = {"calibration": config.calibration_source, "test": config.test_source}
    wanted = config.train + sum(getattr(config, name) for name, source in asked.items() if not source)
    if wanted > len(images):
        raise ValueError(
            f"source: the splits ask for {wanted} images, {config.source!r} holds {len(images)} distinct ones. "
            "Lower train, calibration or test."
        )
    source = images.dropped, len(images) + images.dropped
    first, rest = _cut("train", images, _seeded_order(images, config.seed), config.train)
    train, dropped = images.take(first), images.dropped
    parts, taken = {}, [images]
    for name, place in asked.items():
        count = getattr(config, name)
        if place:
            other = load_images(place, config.groups)
            parts[name], left_out = _from_elsewhere(name, other, place, count, images, taken, config.seed)
            taken, dropped = [*taken, parts[name]], dropped + left_out
            source = (other.dropped, len(other) + other.dropped) if name == "calibration" else source
        else:
            rows, rest = _cut(name, images, rest, count)
            parts[name] = images.take(rows)
    return Splits(train, parts["calibration"], parts["test"], dropped, config, *source)


def _from_elsewhere(
    name: str, other: ImageSet, place: str, count: int, images: ImageSet, taken: Sequence[ImageSet], seed: int
) -> tuple[ImageSet, int]:
    """Return a split from a source of its own, without images that are in others, and how many were left out."""
    if sorted(other.classes) == sorted(images.classes):
        other = other.named_as(images.classes)
    for what in ("classes", "input_shape"):
        if getattr(other, what) != getattr(images, what):
            raise ValueError(
                f"{name}_source: expected the {what} of source, {getattr(images, what)}, got {getattr(other, what)}."
            )
    strange = np.ones(len(other), dtype=np.bool_)
    for each in taken:
        strange &= ~np.isin(other.ids, each.ids)
        if other.groups is not None and each.groups is not None:
            strange &= ~np.isin(other.groups, each.groups)
    fresh = other.take(np.flatnonzero(strange))
    if count > len(fresh):
        raise ValueError(
            f"{name}_source: {name} asks for {count} images, {place!r} holds {len(fresh)} distinct ones that are in "
            f"neither source nor another split. Lower {name}."
        )
    rows, _ = _cut(name, fresh, _seeded_order(fresh, seed), count)
    return fresh.take(rows), other.dropped + len(other) - len(fresh)


def _cut(name: str, images: ImageSet, order: Rows, count: int) -> tuple[Rows, Rows]:
    """Return the first rows of an order, and those of the rest that are of other groups."""
    rows, rest = order[:count], order[count:]
    if len(rows) < count:
        raise ValueError(
            f"{name}: expected {count} images of groups that are in no other split, got {len(rows)}. Lower it, or give "
            "more groups."
        )
    if images.groups is not None:
        rest = rest[~np.isin(images.groups[rest], images.groups[rows])]
    return rows, rest


def _seeded_order(images: ImageSet, seed: int) -> Rows:
    """Return all rows in the order of SHA-256(seed, id), group by group: a group stands where its first image does."""
    keys = [hashlib.sha256(b"%d,%d" % (seed, image)).digest() for image in images.ids.tolist()]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if images.groups is not None:
        groups, first = images.groups.tolist(), dict[int, int]()
        for place, row in enumerate(order):
            first.setdefault(groups[row], place)
        order.sort(key=lambda row: first[groups[row]])  # stable
    return np.array(order, dtype=np.intp)
