"""Images as users hold them -> the float32 batch a network takes; anything doubtful is refused by name.

A certificate is a statement about pixels in [0,1]. An image that was normalised, scaled twice or transposed would get
a radius that means nothing, so nothing is guessed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rrise import _C

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ONE = np.float32(1).view(np.uint32)


def prepare_images(images: NDArray[Any], input_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the images as a float32 (N,C,H,W) batch in [0,1].

    Parameters
    ----------
    images : uint8 (H,W), (H,W,C), (N,H,W) or (N,H,W,C), or float32 (N,C,H,W) in [0,1]
        (H,W) and (N,H,W) are grey images, for C = 1. uint8 v becomes float32(v)/255, rounded once.
    input_shape : (C, H, W)
        What the network takes.

    Raises
    ------
    TypeError
        If `images` is no uint8 or float32 array.
    ValueError
        If the shape does not fit, or a float lies outside [0,1] or is NaN.
    """
    return scale(as_batch(images, input_shape))


def scale(batch: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 (N,C,H,W) in [0,1] from a batch of `as_batch`."""
    if batch.dtype != np.uint8:
        return batch
    count, height, width, channels = batch.shape
    planes = np.empty((count, channels, height, width), np.float32)
    scale_into(batch, planes)
    return planes


def scale_into(batch: NDArray[np.uint8], planes: NDArray[np.float32]) -> None:
    """Write uint8 (N,H,W,C) as float32 (N,C,H,W) in [0,1], each value rounded once; crops are read in place."""
    _, _, width, channels = batch.shape
    step, next_channel = batch.strides[2:]
    if (channels > 1 and next_channel != 1) or (width > 1 and step != channels):
        batch = np.ascontiguousarray(batch)
    _C.pixels_to_planes(batch, planes)


def as_batch(images: NDArray[Any], input_shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return the checked images, not yet scaled, as uint8 (N,H,W,C) or float32 (N,C,H,W), without a copy.

    Raises
    ------
    TypeError, ValueError
        As `prepare_images`.
    """
    if not isinstance(images, np.ndarray) or isinstance(images, np.ma.MaskedArray):
        cure = (
            "Stack the images with numpy.stack." if isinstance(images, (list, tuple)) else "Use numpy.asarray(image)."
        )
        raise TypeError(f"images: expected a numpy array of uint8 or float32, got {type(images).__name__}. {cure}")
    if images.dtype == np.uint8:
        return _pixels(images, input_shape)
    if images.dtype == np.float32:
        return _floats(images, input_shape)
    raise TypeError(f"images: expected uint8, or float32 in [0,1], got {images.dtype}. {_converted(images)}")


def _converted(images: NDArray[Any]) -> str:
    """Return how to convert pixels of another dtype, by the range that they have."""
    if images.dtype.kind not in "fiub" or not images.size:
        return "Give 8-bit pixels as uint8."
    low, high = float(images.min()), float(images.max())
    whole = images.dtype.kind in "iub"
    if images.dtype.kind == "b" or (whole and low >= 0 and high <= 1):
        return "If 1 is white, use images.astype(numpy.uint8) * 255."
    if low >= 0 and high <= 1:
        return "They lie in [0,1]: use images.astype(numpy.float32)."
    if low >= 0 and high <= 255:
        return f"They lie in [0,255]: use {'images' if whole else 'numpy.rint(images)'}.astype(numpy.uint8)."
    return f"They lie in [{low:.6g}, {high:.6g}]: give the 8-bit pixels themselves, as uint8."


def _pixels(images: NDArray[np.uint8], input_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = input_shape
    one, shape = (height, width, channels), images.shape
    if shape[1:] == one:
        return images
    if shape == one:
        return images[None]
    if channels == 1 and shape == (height, width):
        return images[None, :, :, None]
    if channels == 1 and shape[1:] == (height, width):
        return images[..., None]
    expected = f"uint8 images of shape (N,{height},{width},{channels}) or ({height},{width},{channels})"
    if channels == 1:
        expected += f", (N,{height},{width}) or ({height},{width})"
    if shape[-3:] == tuple(input_shape):
        advice = "uint8 images carry their channels last: use numpy.moveaxis(images, -3, -1)."
    elif shape[-3:-1] == (height, width) or (shape[-2:] == (height, width) and len(shape) < 4):
        advice = f"The bundle was calibrated on images of {channels} channel(s); convert the colours."
    else:
        advice = f"Resize the images to {height} x {width} as the calibration images were."
    raise ValueError(f"images: expected {expected}, got shape {shape}. {advice}")


def _floats(images: NDArray[np.float32], input_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    channels, height, width = input_shape
    if images.ndim != 4 or images.shape[1:] != tuple(input_shape):
        advice = "Resize or convert the images as the calibration images were."
        if images.shape == tuple(input_shape):
            advice = "Add the batch axis: images[None]."
        elif images.shape[-3:] == (height, width, channels):
            advice = "float32 images carry their channels first: use numpy.moveaxis(images, -1, -3)."
        raise ValueError(
            f"images: expected float32 images of shape (N,{channels},{height},{width}), "
            f"got shape {images.shape}. {advice}"
        )
    # As an integer, a float32 that is above 1, negative, infinite or NaN (or -0.0) exceeds 1.0: one pass clears most.
    if images.size and images.view(np.uint32).max() > _ONE:
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):  # false for NaN, which min and max hand on
            if np.isnan(low):
                raise ValueError("images: expected pixels in [0,1], got NaN. Check how the images were read.")
            raise ValueError(
                f"images: expected pixels in [0,1], got min {_shown(low)} and max {_shown(high)}. "
                "Undo any normalisation (the network does its own) or give 8-bit pixels as uint8."
            )
    return images


def _shown(pixel: np.float32) -> str:
    return f"{float(str(pixel)):.9g}"  # as short as float32 allows, and never 1 for what is above it
