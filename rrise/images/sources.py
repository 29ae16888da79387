"""Images from where users keep them: files, folders, torchvision's folders, scikit-learn's digits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrise.images.arrays import Pixels, labelled_arrays, source_part
from rrise.images.folders import class_folders
from rrise.images.image_set import ImageSet

_TORCHVISION = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_DOWNLOADED = ", ".join(f"{name}[-test]:ROOT" for name in _TORCHVISION)
SOURCES = f"digits, FILE.npz[:PART], FOLDER (of class folders), {_DOWNLOADED}"


def load_images(source: str, groups: str = "") -> ImageSet:
    """Return the images of a source.

    Parameters
    ----------
    source : str
        ``digits`` (scikit-learn's handwritten digits); ``FILE.npz`` with uint8 ``x``, integer ``y`` and perhaps the
        class names ``classes``, or with parts as MedMNIST and Keras name them, ``FILE.npz:train`` and ``:test``; a
        folder of class folders of pictures; ``fashion_mnist:ROOT``,
        ``cifar10:ROOT`` or ``cifar100:ROOT`` (``fashion_mnist-test:ROOT`` ... for the test part), ROOT being a folder
        torchvision has downloaded them to. Nothing is downloaded.
    groups : str
        What names the scene, patient or film of an image: an array of an ``.npz`` file; in class folders "/" (the
        folder below the class) or a regular expression of the path below it. Empty: nothing.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the source is not there, or does not hold what is said above.
    """
    if groups and (source == "digits" or re.fullmatch(rf"({'|'.join(_TORCHVISION)})(-test)?:(.+)", source)):
        raise ValueError(f"groups: expected none of {source!r}, which says nothing of groups, got {groups!r}.")
    if source == "digits":
        return _digits()
    if match := re.fullmatch(rf"({'|'.join(_TORCHVISION)})(-test)?:(.+)", source):
        return _torchvision(match[1], match[3], train=not match[2])
    name, part = source_part(source)
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"source: {source!r} is no file or folder here, in {Path.cwd()}. Expected one of: {SOURCES}. Put it there "
            "or name yours (--data.source, --data.test-source; in a recipe data.source): rrise downloads nothing."
        )
    if path.is_dir():
        return _made(source, *class_folders(path, groups))
    if path.suffix.lower() != ".npz":
        raise ValueError(f"source: expected one of: {SOURCES}, got {source!r}.")
    return _made(source, *labelled_arrays(path, part, groups))


def _made(
    source: str,
    images: Pixels,
    labels: npt.NDArray[Any],
    classes: Sequence[str] | None,
    groups: Sequence[object] | None,
) -> ImageSet:
    try:
        return ImageSet.from_arrays(images, labels, classes, groups)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{source}: {error}") from error


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
