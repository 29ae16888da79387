"""Pixels to planes: numpy's own division to the bit, whatever the shape and the strides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rrise import _C


def planes_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    n, h, w, c = images.shape
    out = np.full((n, c, h, w), np.nan, dtype=np.float32)
    _C.pixels_to_planes(images, out)
    return out


def divided_by_numpy(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.divide(images, np.float32(255), dtype=np.float32).transpose(0, 3, 1, 2))


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 256, 1),
        (2, 28, 28, 1),
        (3, 32, 32, 3),
        (1, 224, 224, 3),
        (2, 5, 7, 3),
        (2, 3, 67, 3),
        (1, 9, 8, 2),
        (1, 4, 33, 4),
        (2, 3, 4, 11),
        (1, 1, 1, 1),
        (0, 2, 2, 3),
        (2, 0, 3, 3),
    ],
)
def test_equal_to_numpy_to_the_bit(shape: tuple[int, int, int, int]) -> None:
    images = pixels(*shape)
    if images.size == 256:
        images = np.arange(256, dtype=np.uint8).reshape(shape)  # every value there is
    assert planes_of(images).tobytes() == divided_by_numpy(images).tobytes()


def test_a_crop_of_a_camera_s_frame_is_read_where_it_lies() -> None:
    frames = pixels(6, 40, 50, 3)
    for crop in (frames[:, 3:35, 7:39], frames[::2, 1::3], frames[:, ::-1], frames[1:2, :1, 4:9], frames[:, :, 5:6]):
        assert planes_of(crop).tobytes() == divided_by_numpy(np.ascontiguousarray(crop)).tobytes()
    read_only = frames[:1]
    read_only.flags.writeable = False
    planes_of(read_only)


FRAME = np.zeros((2, 4, 5, 3), dtype=np.uint8)
OUT = np.zeros((2, 3, 4, 5), dtype=np.float32)
FROZEN = OUT.copy()
FROZEN.flags.writeable = False


@pytest.mark.parametrize(
    ("images", "out", "error", "message"),
    [
        (FRAME.tolist(), OUT, TypeError, "images: expected an array of uint8.N, H, W, C., got list"),
        (FRAME[0], OUT, ValueError, r"images: expected shape of uint8.N, H, W, C., got \(4, 5, 3\)"),
        (FRAME.astype(np.int8), OUT, TypeError, "images: expected uint8.N, H, W, C., got int8"),
        (FRAME[:, :, ::2], OUT[..., :3].copy(), ValueError, "images: expected the pixels of a row side by side"),
        (FRAME[:, :, ::-1], OUT, ValueError, "images: expected the pixels of a row side by side"),
        (FRAME[..., ::-1], OUT, ValueError, "images: expected the pixels of a row side by side"),
        (FRAME[..., :2], OUT[:, :2].copy(), ValueError, "images: expected the pixels of a row side by side"),
        (FRAME, OUT.astype(np.float64), TypeError, "out: expected float32.N, C, H, W., got float64"),
        (FRAME, OUT[:, :, ::2], ValueError, "out: expected C-contiguous memory"),
        (FRAME, FROZEN, ValueError, "out: expected a writable array"),
        (FRAME, OUT[:1], ValueError, r"out: expected float32.N, C, H, W. for images.N, H, W, C., got \(1, 3, 4, 5\)"),
        (FRAME, np.zeros((2, 4, 5, 3), dtype=np.float32), ValueError, "out: expected float32.N, C, H, W."),
    ],
)
def test_refuses_by_name(images: object, out: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _C.pixels_to_planes(images, out)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
