"""The body of a request -> one image as the bundle takes it; whatever else comes is a ValueError of one line."""

from __future__ import annotations

import io
import json

import numpy as np
import numpy.typing as npt
from PIL import Image

from rrise.runtime import prepare_images

PNG, JPEG, NPY = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY"


def decode(body: bytes, input_shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return float32 (1, C, H, W) in [0, 1] of a PNG, JPEG or .npy file, or JSON ``{"pixels": [[0, ...], ...]}``.

    Everything a batch could stumble over is refused here, where it concerns one request only. Images of either type
    leave as float32, so that a batch never mixes two scales.

    Raises
    ------
    ValueError
        In one line, fit to be shown to whoever sent the request.
    """
    if body.startswith((PNG, JPEG)):
        image = _picture(body, input_shape)
    elif body.startswith(NPY):
        image = _array(body)
    elif body.lstrip()[:1] == b"{":
        image = _json(body)
    else:
        raise ValueError("body: expected a PNG, JPEG or .npy file, or JSON with pixels, got something else.")
    try:
        batch = prepare_images(image, input_shape)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if len(batch) != 1:
        raise ValueError(f"body: expected one image a request, got {len(batch)}. Send more requests: they are batched.")
    return batch


def _picture(body: bytes, input_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    _, height, width = input_shape
    try:
        with Image.open(io.BytesIO(body), formats=["PNG", "JPEG"]) as picture:
            if picture.size != (width, height):  # from the header: a huge picture is never unpacked
                raise ValueError(f"body: expected a picture of {width} x {height} pixels, got {picture.size}.")
            if picture.mode not in ("L", "RGB"):
                raise ValueError(f"body: expected an 8-bit grey (L) or RGB picture, got {picture.mode}. Convert it.")
            return np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"body: expected a picture, got a file Pillow cannot read ({error}).") from error


def _array(body: bytes) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    stream = io.BytesIO(body)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("a version other than 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran or dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
            raise ValueError(f"{dtype}{list(shape)} in {'Fortran' if fortran else 'C'} order")
        # Not np.load: it would make room for whatever size the header claims.
        return np.frombuffer(stream.read(), dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(f"body: expected a .npy file of uint8 or float32, C order, got {error}.") from error


def _json(body: bytes) -> npt.NDArray[np.uint8]:
    try:
        pixels = np.array(json.loads(body)["pixels"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f'body: expected JSON {{"pixels": [[0, ...], ...]}}, got one without ({reason}).') from error
    if pixels.dtype.kind not in "iu" or not pixels.size or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError("body: expected pixels that are integers from 0 to 255, got others.")
    return pixels.astype(np.uint8)
