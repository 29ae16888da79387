"""Images from where users keep them, and seeded splits that share no picture."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrise.image_files import class_folders, npz_arrays, read_images, require_pixels
from rrise.image_set import Ids, ImageSet, image_ids, positions

__all__ = ["DataConfig", "ImageSet", "Splits", "image_ids", "load_images", "load_splits", "positions", "read_images"]

_TORCHVISION = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FEWEST_SHAPING, MOST_SHAPING = 200, 1000
"""Training images that shape the curve by default: fewer give a coarse shape, more would hardly change it."""
_SOURCES = "digits, FILE.npz, FOLDER (of class folders), " + ", ".join(f"{name}[-test]:ROOT" for name in _TORCHVISION)


def load_images(source: str) -> ImageSet:
    """Return the images of a source.

    Parameters
    ----------
    source : str
        ``digits`` (scikit-learn's handwritten digits); ``FILE.npz`` with uint8 ``x``, integer ``y`` and perhaps the
        class names ``classes``; a folder of class folders of PNG or JPEG files; ``fashion_mnist:ROOT``,
        ``cifar10:ROOT`` or ``cifar100:ROOT`` (``fashion_mnist-test:ROOT`` ... for the test part), ROOT being a folder
        torchvision has downloaded them to. Nothing is downloaded.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the source is not there, or does not hold what is said above.
    """
    if source == "digits":
        return _digits()
    if match := re.fullmatch(rf"({'|'.join(_TORCHVISION)})(-test)?:(.+)", source):
        return _torchvision(match[1], match[3], train=not match[2])
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"source: {source!r} is no file or folder here, in {Path.cwd()}. Expected one of: {_SOURCES}. Put it there "
            "or name yours (data.source, data.test_source): rrise downloads nothing."
        )
    if path.is_dir():
        images, labels, names = class_folders(path)
        return ImageSet.from_arrays(images, labels, names)
    if path.suffix != ".npz":
        raise ValueError(f"source: expected one of: {_SOURCES}, got {source!r}.")
    arrays = npz_arrays(path, required=("x", "y"))
    named = arrays.get("classes")
    require_pixels(arrays["x"], f"{path}: x")
    return ImageSet.from_arrays(arrays["x"], arrays["y"], None if named is None else [str(name) for name in named])


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # A pixel counts the inked dots of a 4 × 4 block, 0..16; the 8-bit grid is 0..255.
    return ImageSet.from_arrays(np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target)


def _torchvision(name: str, root: str, *, train: bool) -> ImageSet:
    from torchvision import datasets

    try:
        # CIFAR's files are pickles; torchvision opens them only when their MD5 is the published one.
        found = getattr(datasets, _TORCHVISION[name])(root, train=train, download=False)
    except RuntimeError as error:
        advice = f"torchvision.datasets.{_TORCHVISION[name]}({root!r}, download=True) on a machine with a network"
        raise FileNotFoundError(f"{name}: {root!r} does not hold it ({error}). Fetch it by {advice}.") from error
    return ImageSet.from_arrays(np.asarray(found.data), np.asarray(found.targets), found.classes)


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how many go into each split."""

    source: str = field(default="digits", metadata={"help": f"images to split: {_SOURCES}"})
    test_source: str = field(default="", metadata={"help": "images to test on; none: test images come from source"})
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
            raise ValueError(f"source: expected one of: {_SOURCES}, got none.")
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

    ``config`` says how they can be loaded again, elsewhere; None if they were made from arrays.
    """

    train: ImageSet
    calibration: ImageSet
    test: ImageSet
    dropped: int = 0
    config: DataConfig | None = None

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

    Images are taken in the order of SHA-256(seed, id): first train, then calibration, then test. With a ``test_source``
    the test images come from there, less those that occur in ``source``.

    Raises
    ------
    ValueError
        If there are too few images, or the two sources do not fit each other; and as :func:`load_images`.
    """
    images = load_images(config.source)
    wanted = config.train + config.calibration + (0 if config.test_source else config.test)
    if wanted > len(images):
        raise ValueError(
            f"source: the splits ask for {wanted} images, {config.source!r} holds {len(images)} distinct ones. "
            "Lower train, calibration or test."
        )
    order = _seeded_order(images.ids, config.seed)
    train, calibration, rest = np.split(order, [config.train, config.train + config.calibration])
    if not config.test_source:
        test = rest[: config.test]
        return Splits(images.take(train), images.take(calibration), images.take(test), images.dropped, config)
    other = load_images(config.test_source)
    for what in ("classes", "input_shape"):
        if getattr(other, what) != getattr(images, what):
            raise ValueError(
                f"test_source: expected the {what} of source, {getattr(images, what)}, got {getattr(other, what)}."
            )
    fresh = other.take(np.flatnonzero(~np.isin(other.ids, images.ids)))
    if config.test > len(fresh):
        raise ValueError(
            f"test_source: test asks for {config.test} images, {config.test_source!r} holds {len(fresh)} distinct ones "
            "that are not in source. Lower test."
        )
    test = _seeded_order(fresh.ids, config.seed)[: config.test]
    dropped = images.dropped + other.dropped + len(other) - len(fresh)
    return Splits(images.take(train), images.take(calibration), fresh.take(test), dropped, config)


def _seeded_order(ids: Ids, seed: int) -> npt.NDArray[np.intp]:
    keys = [hashlib.sha256(b"%d,%d" % (seed, image)).digest() for image in ids.tolist()]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)
