"""Which arrays are images, and that all others are refused by a message that says what to do."""

import numpy as np
import pytest
from reference_engines import divided_by_255

from rrise.runtime import prepare_images

GREY, COLOUR = (1, 4, 6), (3, 4, 6)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "input_shape", "hwc"),
    [
        pytest.param((4, 6), GREY, (1, 4, 6, 1), id="H,W"),
        pytest.param((4, 6, 1), GREY, (1, 4, 6, 1), id="H,W,1"),
        pytest.param((4, 6, 3), COLOUR, (1, 4, 6, 3), id="H,W,C"),
        pytest.param((5, 4, 6), GREY, (5, 4, 6, 1), id="N,H,W"),
        pytest.param((1, 4, 6), GREY, (1, 4, 6, 1), id="1,H,W"),
        pytest.param((5, 4, 6, 1), GREY, (5, 4, 6, 1), id="N,H,W,1"),
        pytest.param((5, 4, 6, 3), COLOUR, (5, 4, 6, 3), id="N,H,W,C"),
        pytest.param((0, 4, 6, 3), COLOUR, (0, 4, 6, 3), id="none"),
        pytest.param((3, 3, 3), (3, 3, 3), (1, 3, 3, 3), id="H,W,C even if C,H,W would fit"),
        pytest.param((1, 1), (1, 1, 1), (1, 1, 1, 1), id="one pixel"),
    ],
)
def test_uint8_layouts(shape: tuple, input_shape: tuple, hwc: tuple) -> None:
    images = pixels(*shape)
    batch = prepare_images(images, input_shape)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    expected = np.moveaxis(images.reshape(hwc), -1, 1).astype(np.float64) / 255
    assert batch.shape == expected.shape
    np.testing.assert_allclose(batch, expected, rtol=6e-8, atol=0)


def test_every_pixel_value_is_divided_by_255_and_rounded_once() -> None:
    batch = prepare_images(np.arange(256, dtype=np.uint8).reshape(16, 16), (1, 16, 16))
    expected = np.array([divided_by_255(pixel) for pixel in range(256)], np.float32)
    np.testing.assert_array_equal(batch.ravel(), expected)
    assert (batch.ravel() != np.arange(256, dtype=np.float32) * np.float32(1 / 255)).any()  # not the same thing


def test_float32_in_range_passes_without_a_copy() -> None:
    images = np.random.default_rng(0).random((2, *COLOUR), dtype=np.float32)
    images[0, 0, 0, :3] = 0.0, 1.0, -0.0
    assert prepare_images(images, COLOUR) is images
    assert prepare_images(images[:0], COLOUR).shape == (0, *COLOUR)


def test_a_strided_view_is_read_as_what_it_shows() -> None:
    images = pixels(5, 8, 12, 3)[:, ::2, ::-2]
    np.testing.assert_array_equal(prepare_images(images, COLOUR), prepare_images(images.copy(), COLOUR))


def floats(*shape: int, **corner: float) -> np.ndarray:
    images = np.full(shape, 0.5, np.float32)
    images.flat[: len(corner)] = list(corner.values())
    return images


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        pytest.param([[0, 1], [2, 3]], TypeError, "got list. Stack", id="list"),
        pytest.param([], TypeError, "got list", id="empty list"),
        pytest.param(np.ma.masked_array(pixels(4, 6, 3)), TypeError, "got MaskedArray", id="masked"),
        pytest.param(
            np.zeros((1, *COLOUR)),
            TypeError,
            r"got float64\. They lie in \[0,1\]: use images\.astype\(numpy\.float32\)",
            id="float64",
        ),
        pytest.param(200 * np.ones((4, 6, 3)), TypeError, r"\[0,255\]: use numpy\.rint\(images\)\.ast", id="8 bits"),
        pytest.param(np.full((4, 6, 3), 999), TypeError, r"in \[999, 999\]: give the 8-bit pixels", id="16 bits"),
        pytest.param(np.full((4, 6, 3), 7), TypeError, r"in \[0,255\]: use images\.astype\(numpy\.uint8", id="whole"),
        pytest.param(memoryview(b"x"), TypeError, r"got memoryview\. Use numpy\.asarray", id="another kind of array"),
        pytest.param(np.zeros((4, 6, 3), np.int64), TypeError, "got int64. If 1 is white, use images", id="int64"),
        pytest.param(np.zeros((1, *COLOUR), np.float16), TypeError, "got float16", id="float16"),
        pytest.param(np.zeros((4, 6, 3), bool), TypeError, "got bool", id="bool"),
        pytest.param(np.zeros((1, *COLOUR), ">f4"), TypeError, "got >f4", id="other endianness"),
        pytest.param(floats(2, *COLOUR, a=-2.1179, b=2.64), ValueError, r"min -2.1179 and max 2.64. Undo", id="normal"),
        pytest.param(floats(2, *COLOUR, a=255), ValueError, "max 255. Undo any normalisation", id="0 to 255"),
        pytest.param(floats(2, *COLOUR, a=-1e-7), ValueError, "min -1e-07", id="just below 0"),
        pytest.param(floats(2, *COLOUR, a=1 + 2e-7), ValueError, "max 1", id="just above 1"),
        pytest.param(floats(2, *COLOUR, a=np.nan), ValueError, "got NaN", id="NaN"),
        pytest.param(floats(2, *COLOUR, a=np.inf), ValueError, "max inf", id="infinity"),
        pytest.param(floats(2, *COLOUR, a=np.nan, b=np.inf), ValueError, "got NaN", id="NaN and infinity"),
        pytest.param(floats(*COLOUR), ValueError, r"Add the batch axis: images\[None\]", id="float C,H,W"),
        pytest.param(
            floats(2, 4, 6, 3), ValueError, r"channels first: use numpy.moveaxis\(images, -1, -3\)", id="NHWC"
        ),
        pytest.param(floats(2, 3, 5, 6), ValueError, "got shape .2, 3, 5, 6.. Resize", id="float size"),
        pytest.param(pixels(3, 4, 6), ValueError, r"channels last: use numpy.moveaxis\(images, -3, -1\)", id="C,H,W"),
        pytest.param(pixels(2, 3, 4, 6), ValueError, "channels last", id="N,C,H,W"),
        pytest.param(pixels(4, 6), ValueError, "images of 3 channel", id="grey for colour"),
        pytest.param(pixels(2, 4, 6), ValueError, "images of 3 channel", id="N grey for colour"),
        pytest.param(pixels(4, 6, 4), ValueError, "images of 3 channel", id="RGBA"),
        pytest.param(pixels(2, 4, 6, 1), ValueError, "images of 3 channel", id="N,H,W,1 for colour"),
        pytest.param(pixels(6, 4, 3), ValueError, "Resize the images to 4 x 6", id="W,H,C"),
        pytest.param(pixels(2, 5, 6, 3), ValueError, "Resize the images to 4 x 6", id="size"),
        pytest.param(pixels(72), ValueError, "got shape .72,.", id="flat"),
        pytest.param(pixels(1, 2, 4, 6, 3), ValueError, "expected uint8 images of shape", id="5 axes"),
        pytest.param(np.array(3, np.uint8), ValueError, r"got shape \(\)", id="scalar"),
    ],
)
def test_refusals(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        prepare_images(images, COLOUR)
    text = str(caught.value)
    assert text.startswith("images: expected ")
    assert ", got " in text
    assert text.endswith(".")
    assert "\n" not in text


def test_colour_images_for_a_grey_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N,4,6\) or \(4,6\), got shape \(4, 6, 3\). .* 1 channel"):
        prepare_images(pixels(4, 6, 3), GREY)


def test_a_float_just_above_1_is_shown_as_such() -> None:
    pixels = np.full((1, 1, 2, 2), np.nextafter(np.float32(1), np.float32(2)), np.float32)
    with pytest.raises(ValueError, match=r"got min 1\.0000001 and max 1\.0000001"):
        prepare_images(pixels, (1, 2, 2))
