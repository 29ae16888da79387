"""Arrays of 8-bit pixels, labels and class names, as people save them; what is not 8-bit is refused with a cure."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
_PARTS = ("train", "val", "test")
_LAYOUTS = ("{part}_images {part}_labels", "x_{part} y_{part}")
"""Names of pictures and labels of a part, as MedMNIST has them, and Keras."""


def require_pixels(images: npt.NDArray[Any], what: str) -> None:
    """Raise unless an array holds at least one 8-bit picture, channels last.

    Raises
    ------
    TypeError
        If the pixels are not uint8; the message says how to convert them, by the range that was found.
    ValueError
        If the array is empty, channels-first, or not (N, H, W) or (N, H, W, C).
    """
    if images.dtype != np.uint8:
        raise TypeError(_not_8bit(images, what))
    if images.ndim not in (3, 4):
        raise ValueError(f"{what}: expected shape (N, H, W) or (N, H, W, C), got {images.shape}.")
    if 0 in images.shape:
        raise ValueError(f"{what}: expected at least one image, got shape {images.shape}.")
    if (
        images.ndim == 4
        and images.shape[3] > 4
        and (images.shape[1] in (1, 3) or images.shape[1] < min(images.shape[2:]))
    ):
        raise ValueError(
            f"{what}: expected channels last, (N, H, W, C), got {images.shape}, which looks channels-first. "
            "Use transpose(0, 2, 3, 1)."
        )


def _not_8bit(images: npt.NDArray[Any], what: str) -> str:
    start = f"{what}: expected uint8 pixels in 0..255, got {images.dtype}"
    if images.dtype.kind not in "fiub" or not images.size:
        return f"{start}. rrise smooths over the 8-bit grid: save the raw pixels as uint8."
    low, high = images.min(), images.max()
    start = f"{start} in [{low:.6g}, {high:.6g}]" if images.dtype.kind == "f" else f"{start} in [{low}, {high}]"
    if images.dtype.kind == "b" or (images.dtype.kind in "iu" and low >= 0 and high <= 1):
        return f"{start}. If 1 is white, convert by x.astype(np.uint8) * 255."
    if low >= 0 and high <= 1:
        return f"{start}. Convert by np.rint(x * 255).astype(np.uint8)."
    if low >= 0 and high <= 255:
        return f"{start}. Convert by np.rint(x).astype(np.uint8)."
    if images.dtype.kind in "iu" and low >= 0:
        most = 2 ** int(high).bit_length() - 1
        return (
            f"{start}, more than 8 bits. rrise smooths over the 8-bit grid: if white is {most}, convert by "
            f"np.rint(x * (255 / {most})).astype(np.uint8)."
        )
    return f"{start}, which looks normalised. Undo that: rrise takes raw pixels and normalises inside the network."


def npz_arrays(path: Path, wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return those of the wanted arrays that an .npz file has, and look at no other; pickled objects are refused."""
    name = ""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found = {}
            for name in (each for each in archive.files if each in wanted):
                found[name] = archive[name]
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        what = f"one whose {name!r} numpy cannot read" if name else "one numpy cannot read"
        raise ValueError(f"{path}: expected an .npz of plain arrays, got {what} ({error}).") from error


def npz_names(path: Path) -> list[str]:
    """Return the names of an .npz file's arrays, none of a file that is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return []


def labelled_arrays(
    path: Path, part: str = "", groups: str = ""
) -> tuple[Pixels, npt.NDArray[Any], list[str] | None, Sequence[object] | None]:
    """Return pictures, labels and perhaps class names of an .npz file, and its array of group names if that is named.

    Its pictures and labels are called ``x`` and ``y``; or ``train_images`` and ``train_labels`` (MedMNIST), ``x_train``
    and ``y_train`` (Keras), and so with ``val`` and ``test``, of which ``part`` is read.

    Raises
    ------
    ValueError, TypeError
        If there are no such arrays, no such part, or they are not what they are called.
    """
    names = npz_names(path)
    layouts = {each: layout for layout in _LAYOUTS for each in _PARTS if set(_named(layout, each)) <= set(names)}
    if part and part not in layouts:
        raise ValueError(f"{path}: expected one of its parts ({', '.join(layouts) or 'none'}), got {part!r}.")
    if layouts and not {"x", "y"} <= set(names):
        chosen = part or ("train" if "train" in layouts else next(iter(layouts)))
        x, y = _named(layouts[chosen], chosen)
        if others := [each for each in layouts if each != chosen]:
            more = " or ".join(f"{path}:{each}" for each in others)
            if not part:
                warnings.warn(f"{path}: of its parts {chosen} is read ({x}, {y}); {more} names another.", stacklevel=2)
    else:
        x, y = "x", "y"
    arrays = npz_arrays(path, (x, y, "classes", *filter(None, (groups,))))
    if groups and groups not in arrays:
        raise ValueError(f"{path}: expected an array {groups!r} of group names, got {', '.join(names)}. Name it so.")
    if missing := {x, y} - arrays.keys():
        raise ValueError(
            f"{path}: expected arrays x, y, got {', '.join(names) or 'none'}. Save pictures as x and labels as y "
            f"({', '.join(sorted(missing))} missing)."
        )
    require_pixels(arrays[x], f"{path}: {x}")
    classes = _class_names(arrays["classes"], path) if "classes" in arrays else None
    return arrays[x], _labels(arrays[y]), classes, _labels(arrays[groups]).tolist() if groups else None


def source_part(source: str) -> tuple[str, str]:
    """Return the file and the part that ``FILE.npz:PART`` names; no part of any other text.

    >>> source_part("pathmnist.npz:test"), source_part("pathmnist.npz")
    (('pathmnist.npz', 'test'), ('pathmnist.npz', ''))
    """
    found = re.fullmatch(r"(.+\.npz):(\w+)", source, re.IGNORECASE)
    return (found[1], found[2]) if found else (source, "")


def _named(layout: str, part: str) -> tuple[str, str]:
    x, y = layout.format(part=part).split()
    return x, y


def _labels(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels as a row; a column holds the same."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and len(labels) and ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
        raise ValueError(f"y: expected a class number an image, got one-hot rows {labels.shape}. Use y.argmax(axis=1).")
    return labels


def _class_names(names: npt.NDArray[Any], path: Path) -> list[str]:
    if names.ndim == 2 and 1 in names.shape:
        names = names.ravel()
    if names.ndim != 1 or names.dtype.kind not in "SU":
        raise ValueError(
            f"{path}: classes: expected a name for each class, an array of K texts, got {names.dtype} of shape "
            f"{names.shape}. Save np.array(['first', 'second', ...])."
        )
    try:
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: classes: expected names in UTF-8, got {error.object!r}. Decode them first."
        ) from error
