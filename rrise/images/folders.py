"""Folders of pictures: which files count, which are left out and said, and what classes the folders are."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrise.images.arrays import Pixels, npz_arrays, require_pixels
from rrise.images.pictures import KINDS, Picture, read_picture

_LITTER = ("__MACOSX",)
_SILENT = ("Thumbs.db", "desktop.ini")
"""What Windows writes into every folder that was looked at; macOS's own is hidden."""
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
"""Names of folders that are parts of a data set, not classes."""
_SHOWN = 10


def class_folders(
    root: Path, groups: str = ""
) -> tuple[Pixels, npt.NDArray[np.int64], list[str], Sequence[object] | None]:
    """Return the pictures, labels and class names of a folder of class folders, both in sorted order, and their groups.

    With ``groups`` "/" the folder directly below the class names the group of a picture, else a regular expression, of
    the path below the class, whose first group (or whole match) does.

    Grey pictures among colour ones, as ImageNet has some, get three equal channels. Hidden files and folders are no
    pictures; they, files of other kinds and what was turned upright are counted in a warning.

    Raises
    ------
    ValueError
        If there is no class folder, one is empty, the folders are the parts of a data set, or pictures cannot be read
        (all that cannot are named) or differ in shape.
    """
    inside = sorted(root.iterdir())
    folders = [entry for entry in inside if entry.is_dir() and not _hidden(entry.name)]
    if not folders:
        raise ValueError(f"{root}: expected a folder of class folders, got no folder in it.")
    _refuse_parts(root, folders)
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = _pictures(folder)
        if not found:
            raise ValueError(
                f"{folder}: expected picture files ({' '.join(KINDS)}), got none. Remove the empty class, or convert "
                "its files."
            )
        files += found
        labels += [label] * len(found)
    _say_left_out(root, set(files))
    pixels = _stack([(str(file), each.pixels[None]) for file, each in zip(files, _read(root, files), strict=True)])
    names = (
        None
        if not groups
        else [_group(folders[label], file, groups) for file, label in zip(files, labels, strict=True)]
    )
    return pixels, np.array(labels, dtype=np.int64), [folder.name for folder in folders], names


def read_images(paths: Iterable[str | Path]) -> tuple[list[str], Pixels]:
    """Return the names and pictures of files and folders, in the order given (a folder's own in sorted order).

    Parameters
    ----------
    paths : iterable of str or Path
        Picture files (PNG, JPEG, WebP, BMP, TIFF, GIF), turned as their Exif orientation says; ``.npy`` files and
        ``.npz`` files (array ``x``) of uint8 (H, W), (H, W, C), (N, H, W) or (N, H, W, C), three axes being one picture
        when the last has 1 or 3 entries; folders of picture files, searched through, in which files of other kinds and
        hidden ones are left out and counted in a warning.

    Returns
    -------
    names : list of str, N long
        The file of each picture; ``FILE[3]`` for the fourth picture of an array.
    images : uint8[N, H, W] or uint8[N, H, W, C]
        Grey pictures among colour ones have three equal channels.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If a path is missing, holds no pictures or no 8-bit pixels, or the pictures differ in shape.
    ImportError
        If a picture file is given and Pillow is not installed.
    """
    batches: list[tuple[str, Pixels]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder.")
        if path.is_dir():
            if not (files := _pictures(path)):
                raise ValueError(f"{path}: expected picture files ({' '.join(KINDS)}) in the folder, got none.")
            _say_left_out(path, set(files))
        else:
            files = [path]
        arrays = [file for file in files if file.suffix.lower() not in KINDS]
        batches += [(str(file), _array(file)) for file in arrays]
        pictures = [file for file in files if file.suffix.lower() in KINDS]
        batches += [(str(file), each.pixels[None]) for file, each in zip(pictures, _read(path, pictures), strict=True)]
    names = [
        file if len(batch) == 1 else f"{file}[{number}]" for file, batch in batches for number in range(len(batch))
    ]
    return names, _stack(batches)


def _group(folder: Path, file: Path, groups: str) -> str:
    """Return the name of a picture's group; ValueError if it has none."""
    below = file.relative_to(folder).as_posix()
    if groups == "/":
        first, slash, _ = below.partition("/")
        if slash:
            return first
        raise ValueError(
            f"groups: expected a folder for each group in {folder}, got the picture {below}. Put it in one."
        )
    found = re.search(groups, below)
    if found is None:
        raise ValueError(f"groups: expected {groups!r} to match each picture's path, got {below} in {folder}.")
    return found[1] if found.re.groups else found[0]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _visible(folder: Path, file: Path) -> bool:
    return not any(_hidden(part) for part in file.relative_to(folder).parts)


def _pictures(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.suffix.lower() in KINDS and file.is_file())
    return sorted(
        (file for file in found if _visible(folder, file)), key=lambda file: file.relative_to(folder).as_posix()
    )


def _say_left_out(root: Path, taken: set[Path]) -> None:
    """Warn of what lies beside the pictures that are read: hidden pictures, other files, pictures outside classes."""
    others = [file for file in root.rglob("*") if file not in taken and file.name not in _SILENT and file.is_file()]
    hidden = [file for file in others if not _visible(root, file)]
    looks = [file for file in hidden if file.suffix.lower() in KINDS]
    rest = Counter(file.suffix.lower() or "no suffix" for file in others if _visible(root, file))
    said = [f"{len(looks)} hidden or system files that look like pictures"] if looks else []
    if rest:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in rest.most_common(_SHOWN))
        said.append(f"{sum(rest.values())} other files ({kinds})")
    if said:
        warnings.warn(f"{root}: left out {' and '.join(said)}; {len(taken)} pictures are read.", stacklevel=3)


def _refuse_parts(root: Path, folders: Sequence[Path]) -> None:
    names = [folder.name for folder in folders]
    nested = any(entry.is_dir() for folder in folders for entry in folder.iterdir())
    if {name.casefold() for name in names} <= _PARTS and (len(names) > 1 or nested):
        first, last = (next((f for f in folders if f.name.casefold().startswith(n)), folders[0]) for n in ("tr", "te"))
        raise ValueError(
            f"{root}: expected a folder of class folders, got the parts of a data set, {', '.join(names)}. Name one: "
            f"data.source={first}" + (f", data.test_source={last}" if last != first else "") + "."
        )


def _read(root: Path, files: Sequence[Path]) -> list[Picture]:
    """Return the pictures of files; ValueError names all that cannot be read, a warning counts those turned upright."""
    found, bad = [], []
    for file in files:
        try:
            found.append(read_picture(file))
        except ValueError as error:
            bad.append(str(error))
    if len(bad) == 1:
        raise ValueError(bad[0])
    if bad:
        more = f" And {len(bad) - _SHOWN} more." if len(bad) > _SHOWN else ""
        raise ValueError(f"{len(bad)} of {len(files)} pictures cannot be read: {' '.join(bad[:_SHOWN])}{more}")
    if turned := sum(picture.turned for picture in found):
        many = f"{turned} pictures were" if turned > 1 else "1 picture was"
        warnings.warn(f"{root}: {many} turned upright by the Exif orientation in the file.", stacklevel=3)
    return found


def _array(path: Path) -> Pixels:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = npz_arrays(path, ("x",))
        if "x" not in arrays:
            raise ValueError(f"{path}: expected an array x, got none of that name. Save the pictures as x.")
        array = arrays["x"]
    elif suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: expected a plain .npy array, got a file numpy cannot read ({error}).") from error
    else:
        known = ", ".join(KINDS)
        raise ValueError(f"{path}: expected {known}, .npy or .npz, got {suffix or 'no suffix'!r}.")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3)):
        array = array[None]
    require_pixels(array, f"{path}: x" if suffix == ".npz" else str(path))
    return np.asarray(array, dtype=np.uint8)


def _stack(batches: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Return all pictures of named batches in one array; grey ones among colour ones get three equal channels."""
    if not batches:
        raise ValueError("images: expected at least one file, got none.")
    if len({batch.ndim for _, batch in batches}) > 1:
        batches = [(name, np.repeat(b[..., None], 3, axis=-1) if b.ndim == 3 else b) for name, b in batches]
    first, shape = batches[0][0], batches[0][1].shape[1:]
    for name, batch in batches:
        if batch.shape[1:] != shape:
            raise ValueError(
                f"{name}: expected shape {shape}, that of {first}, got {batch.shape[1:]}. Bring all pictures to one "
                f"size and colour first, e.g. by Pillow: ImageOps.fit(picture.convert('RGB'), {shape[1::-1]})."
            )
    return np.concatenate([batch for _, batch in batches])
