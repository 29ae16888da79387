"""One picture file as 8-bit pixels, upright as viewers show it, or a reason why not that names the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from rrise.images.arrays import Pixels

KINDS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_ORIENTATION = 0x0112
"""Exif's tag that says how a picture is to be turned; 1: not at all."""
_TURNED = range(2, 9)


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels uint8[H, W] or uint8[H, W, 3], and whether they were turned upright by the file's Exif orientation."""

    pixels: Pixels
    turned: bool = False


def read_picture(path: Path) -> Picture:
    """Return the picture of a file, turned as its Exif orientation says; a palette's colours are looked up.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    ValueError
        If the file is no picture, has several frames, transparency, or no 8-bit grey or RGB pixels.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"{path}: reading pictures needs Pillow. pip install pillow, or give .npy files.") from error
    try:
        # As a stream: given a name, Pillow 13 maps an uncompressed TIFF file and misreads the rows of a turned one.
        with path.open("rb") as stream, Image.open(stream) as picture:
            frames = getattr(picture, "n_frames", 1)
            turned = picture.getexif().get(_ORIENTATION) in _TURNED  # before loading, which turns TIFF files by itself
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            pixels = _pixels(upright)
            mode = upright.mode
    except Exception as error:  # Pillow's plugins raise whatever their parsers do
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected a picture, got a file Pillow cannot read ({reason}).") from error
    if frames > 1:
        raise ValueError(f"{path}: expected one picture, got {frames} frames. Save the one that is meant.")
    if pixels is None:
        # Turning alpha or 16 bits into 8-bit RGB changes the picture: the user's choice to make.
        raise ValueError(f"{path}: expected an 8-bit grey (L) or RGB picture, got {mode}. Convert it.")
    return Picture(pixels, turned)


def _pixels(picture: Image) -> Pixels | None:
    """Return the pixels, None where turning them into 8-bit grey or RGB would change the picture."""
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return np.array(picture, dtype=np.uint8)
    if picture.mode != "P" or "transparency" in picture.info:
        return None
    colours = np.array(picture.convert("RGB"), dtype=np.uint8)
    grey = (colours == colours[..., :1]).all()
    return np.ascontiguousarray(colours[..., 0]) if grey else colours
