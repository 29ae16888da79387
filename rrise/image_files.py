"""8-bit pixels from files: PNG and JPEG through Pillow, .npy and .npz through numpy. What is not 8-bit is refused."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

PICTURES = (".png", ".jpg", ".jpeg")


def require_pixels(images: npt.NDArray[Any], what: str) -> None:
    """Raise unless an array holds at least one 8-bit picture, channels last.

    Raises
    ------
    TypeError
        If the pixels are not uint8; the message says how to convert them.
    ValueError
        If the array is empty, channels-first, or not (N, H, W) or (N, H, W, C).
    """
    if images.dtype != np.uint8:
        raise TypeError(_not_8bit(images, what))
    if images.ndim not in (3, 4):
        raise ValueError(f"{what}: expected shape (N, H, W) or (N, H, W, C), got {images.shape}.")
    if 0 in images.shape:
        raise ValueError(f"{what}: expected at least one image, got shape {images.shape}.")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
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
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return f"{start}. Convert by np.rint(x * 255).astype(np.uint8)."
    if low >= 0 and high <= 255:
        return f"{start}. Convert by np.rint(x).astype(np.uint8)."
    return f"{start}, which looks normalised. Undo that: rrise takes raw pixels and normalises inside the network."


def npz_arrays(path: Path, required: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file, of which the required ones must be there; pickled objects are refused."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected an .npz of plain arrays, got one numpy cannot read ({error}).") from error
    for name in required:
        if name not in arrays:
            raise ValueError(f"{path}: expected arrays {', '.join(required)}, got {', '.join(arrays) or 'none'}.")
    return arrays


def class_folders(root: Path) -> tuple[Pixels, npt.NDArray[np.int64], list[str]]:
    """Return the pictures, labels and class names of a folder of class folders, both in sorted order.

    Grey pictures among colour ones, as ImageNet has some, get three equal channels.

    Raises
    ------
    ValueError
        If there is no class folder, one is empty, or the pictures differ in shape.
    """
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{root}: expected a folder of class folders, got no folder in it.")
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = _pictures(folder)
        if not found:
            raise ValueError(f"{folder}: expected {', '.join(PICTURES)} files, got none. Remove the empty class.")
        files += found
        labels += [label] * len(found)
    pictures = [_picture(file) for file in files]
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [np.repeat(each[..., None], 3, axis=-1) if each.ndim == 2 else each for each in pictures]
    pixels = _stack((str(file), picture[None]) for file, picture in zip(files, pictures, strict=True))
    return pixels, np.array(labels, dtype=np.int64), [folder.name for folder in folders]


def read_images(paths: Iterable[str | Path]) -> tuple[list[str], Pixels]:
    """Return the names and pictures of files and folders, in the order given (a folder's own in sorted order).

    Parameters
    ----------
    paths : iterable of str or Path
        PNG or JPEG files; ``.npy`` files and ``.npz`` files (array ``x``) of uint8 (H, W), (H, W, C), (N, H, W) or
        (N, H, W, C), three axes being one picture when the last has 1 or 3 entries; folders of PNG or JPEG files,
        searched through.

    Returns
    -------
    names : list of str, N long
        The file of each picture; ``FILE[3]`` for the fourth picture of an array.
    images : uint8[N, H, W] or uint8[N, H, W, C]
        Grey pictures stay grey and colour ones colour.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If a path is missing, holds no pictures or no 8-bit pixels, or the pictures differ in shape.
    ImportError
        If a PNG or JPEG file is given and Pillow is not installed.
    """
    batches = [(str(file), _arrays(file)) for path in paths for file in _files(Path(path))]
    names = [
        file if len(batch) == 1 else f"{file}[{number}]" for file, batch in batches for number in range(len(batch))
    ]
    return names, _stack(batches)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if not path.is_dir():
        return [path]
    if found := _pictures(path):
        return found
    raise ValueError(f"{path}: expected {', '.join(PICTURES)} files in the folder, got none.")


def _pictures(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _arrays(path: Path) -> Pixels:
    if path.suffix.lower() in PICTURES:
        return _picture(path)[None]
    if path.suffix == ".npz":
        array = npz_arrays(path, required=("x",))["x"]
    elif path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: expected a plain .npy array, got a file numpy cannot read ({error}).") from error
    else:
        raise ValueError(f"{path}: expected {', '.join(PICTURES)}, .npy or .npz, got {path.suffix or 'no suffix'!r}.")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3)):
        array = array[None]
    require_pixels(array, f"{path}: x" if path.suffix == ".npz" else str(path))
    return np.asarray(array, dtype=np.uint8)


def _picture(path: Path) -> Pixels:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{path}: reading pictures needs Pillow. pip install pillow, or give .npy files.") from error
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "RGB"):
                # Turning alpha, palettes or 16 bits into 8-bit RGB changes the picture: the user's choice to make.
                raise ValueError(f"{path}: expected an 8-bit grey (L) or RGB picture, got {picture.mode}. Convert it.")
            return np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: expected a picture, got a file Pillow cannot read ({error}).") from error


def _stack(batches: Iterable[tuple[str, Pixels]]) -> Pixels:
    first: tuple[str, Pixels] | None = None
    found = []
    for name, batch in batches:
        first = first or (name, batch)
        if batch.shape[1:] != first[1].shape[1:]:
            raise ValueError(f"{name}: expected shape {first[1].shape[1:]}, that of {first[0]}, got {batch.shape[1:]}.")
        found.append(batch)
    if not found:
        raise ValueError("images: expected at least one file, got none.")
    return np.concatenate(found)
