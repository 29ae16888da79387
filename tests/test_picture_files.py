"""Pictures as people keep them: what is turned, left out or in parts is said; what cannot be meant is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rrise.__main__ import main
from rrise.images import load_images, read_images

GREY = np.random.default_rng(0).integers(0, 256, (60, 4, 5), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(16) * 9, np.arange(24) * 4).astype(np.uint8)
UPRIGHT = {  # Exif orientation -> how the pixels of a file that has it are turned upright
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: lambda x: np.rot90(x, 1),
}


def picture(path: Path, pixels: np.ndarray = GREY[0], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def classes(root: Path, count: int = 3, names: tuple[str, ...] = ("a", "b"), suffix: str = "png") -> Path:
    for number in range(count * len(names)):
        picture(root / names[number % len(names)] / f"{number}.{suffix}", GREY[number])
    return root


# Orientation


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_read_as_viewers_show_it(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "webp" else {}
    path = picture(tmp_path / f"one.{kind}", SMOOTH, exif=exif, **lossless)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (_, images) = read_images([path])
    stored = np.asarray(Image.open(picture(tmp_path / f"plain.{kind}", SMOOTH, **lossless)).convert("L"))
    found = images[0] if images.ndim == 3 else images[0, ..., 0]
    assert found.shape == ((24, 16) if orientation > 4 else (16, 24))
    np.testing.assert_array_equal(found, UPRIGHT[orientation](stored))
    told = [str(one.message) for one in said]
    assert told == (
        [] if orientation == 1 else [f"{path}: 1 picture was turned upright by the Exif orientation in the file."]
    )


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_images([picture(tmp_path / "a.png", SMOOTH, exif=exif)])[1][0], SMOOTH)


@pytest.mark.filterwarnings("default")
def test_a_verb_says_how_many_pictures_it_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    root = classes(tmp_path / "set", 20)
    for number in range(4):
        picture(root / "a" / f"turned{number}.png", GREY[50 + number], exif=exif)
    flags = ["--data.source", str(root), "--data.train", "20", "--data.calibration", "5", "--data.test", "5"]
    assert main(["train", "--out", str(tmp_path / "c"), "--epochs", "1", *flags]) == 0
    assert "4 pictures were turned upright by the Exif orientation" in capsys.readouterr().err


# Kinds of files


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "gif", "PNG"])
def test_every_lossless_kind_is_read_to_the_pixel(tmp_path: Path, suffix: str) -> None:
    found = load_images(str(classes(tmp_path, suffix=suffix)))
    assert len(found) == 6
    np.testing.assert_array_equal(found.images, np.concatenate([GREY[:6:2], GREY[1:6:2]]))


def test_jpeg_by_another_name_is_read(tmp_path: Path) -> None:
    classes(tmp_path, suffix="jpg")
    for file in list(tmp_path.rglob("*.jpg")):
        file.rename(file.with_suffix(".jfif"))
    assert len(load_images(str(tmp_path))) == 6


def test_a_palette_is_looked_up_and_transparency_refused(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 4, (4, 5, 3), dtype=np.uint8) * 80
    paletted = Image.fromarray(colour).quantize(64)
    paletted.save(tmp_path / "colour.png")
    exact = np.asarray(paletted.convert("RGB"))
    np.testing.assert_array_equal(read_images([tmp_path / "colour.png"])[1][0], exact)
    paletted.save(tmp_path / "clear.png", transparency=0)
    with pytest.raises(
        ValueError, match=r"clear\.png: expected an 8-bit grey \(L\) or RGB picture, got P\. Convert it"
    ):
        read_images([tmp_path / "clear.png"])


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY[number]) for number in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"film\.gif: expected one picture, got 3 frames"):
        read_images([tmp_path / "film.gif"])


def test_files_that_are_no_pictures_are_counted_by_kind(tmp_path: Path) -> None:
    classes(tmp_path)
    for name in ("labels.csv", "a/1.txt", "a/2.txt", "b/3.HEIC", "b/README", "Thumbs.db", "a/desktop.ini"):
        (tmp_path / name).write_text("x")
    said = r"left out 5 other files \(\.txt 2, .*\.heic 1.*\); 6 pictures are read"
    with pytest.warns(UserWarning, match=said):
        assert len(load_images(str(tmp_path))) == 6
    with pytest.warns(UserWarning, match=said):
        assert len(read_images([tmp_path])[0]) == 6


def test_pictures_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    picture(classes(tmp_path) / "cover.png", GREY[20])
    with pytest.warns(UserWarning, match=r"left out 1 other files \(\.png 1\); 6 pictures are read"):
        assert len(load_images(str(tmp_path))) == 6


@pytest.mark.parametrize(
    "litter", ["a/._0.png", "__MACOSX/a/._0.png", "a/.ipynb_checkpoints/0.png", ".cache/0.png", ".0.png"]
)
def test_what_systems_leave_behind_is_no_picture(tmp_path: Path, litter: str) -> None:
    path = classes(tmp_path) / litter
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0\5\x16\7" + bytes(100))
    with pytest.warns(UserWarning, match="left out 1 hidden or system files that look like pictures; 6 pictures"):
        found = load_images(str(tmp_path))
    assert (len(found), found.classes) == (6, ("a", "b"))


def test_a_clean_folder_says_nothing(tmp_path: Path) -> None:
    (classes(tmp_path) / ".DS_Store").write_bytes(b"x")  # warnings are errors here
    assert load_images(str(tmp_path)).classes == ("a", "b")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "Test"), ("training", "validation")])
@pytest.mark.parametrize("nested", [True, False], ids=["of classes", "of pictures"])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, ...], nested: bool) -> None:
    for name in names:
        classes(tmp_path / name) if nested else picture(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"got the parts of a data set.*Name one: data\.source=.*/[tT]rain"):
        load_images(str(tmp_path))


def test_a_class_may_be_called_like_a_part_beside_others(tmp_path: Path) -> None:
    assert load_images(str(classes(tmp_path, names=("plane", "train")))).classes == ("plane", "train")


# Bad pictures


def test_all_bad_pictures_are_named_in_one_run(tmp_path: Path) -> None:
    classes(tmp_path)
    Image.fromarray(GREY[0]).convert("LA").save(tmp_path / "a" / "alpha.png")
    (tmp_path / "b" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(ValueError, match=r"^2 of 8 pictures cannot be read: .*alpha\.png.*got LA.*cut\.jpg"):
        load_images(str(tmp_path))


def test_huge_pictures_and_texts_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a" * 2_000_000, zip=True)
    path = picture(tmp_path / "texts.png", pnginfo=info)
    with pytest.raises(ValueError, match=r"texts\.png: expected a picture, got a file Pillow cannot read \(Decom"):
        read_images([path])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(ValueError, match=r"big\.png: expected a picture, got a file Pillow cannot read \(Image"):
        read_images([picture(tmp_path / "big.png")])


def test_one_size_is_asked_for_with_a_way_to_get_it(tmp_path: Path) -> None:
    picture(classes(tmp_path) / "b" / "large.png", SMOOTH)
    with pytest.raises(ValueError, match=r"large\.png: .*got \(16, 24\)\. Bring all .*ImageOps\.fit\(.*\(5, 4\)\)"):
        load_images(str(tmp_path))


# Arrays


def test_one_picture_under_two_labels_is_said(tmp_path: Path) -> None:
    y = np.arange(60) % 3
    np.savez(tmp_path / "two.npz", x=np.concatenate([GREY, GREY[:7]]), y=np.concatenate([y, y[:7] + np.arange(7) % 2]))
    with pytest.warns(UserWarning, match=r"3 of 60 distinct pictures stand under several labels; .*'1' and '2'"):
        found = load_images(str(tmp_path / "two.npz"))
    assert (found.dropped, found.labels.tolist()) == (7, y.tolist())


@pytest.mark.parametrize(
    "names", [("train_images train_labels", "test_images test_labels"), ("x_train y_train", "x_test y_test")]
)
def test_parts_of_medmnist_and_keras_files_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays, y = {}, (np.arange(30) % 3).astype(np.uint8)[:, None]
    for (images, labels), rows in zip((name.split() for name in names), (slice(30), slice(30, 60)), strict=True):
        arrays |= {images: GREY[rows], labels: y}
    np.savez(tmp_path / "set.NPZ", **arrays, meta=np.array([{}], dtype=object))
    (path,) = tmp_path.iterdir()
    with pytest.warns(UserWarning, match=r"of its parts train is read .*set\.NPZ.*:test names another"):
        found = load_images(str(path))
    np.testing.assert_array_equal(found.images, GREY[:30])
    assert found.labels.tolist() == y[:, 0].tolist()
    np.testing.assert_array_equal(load_images(f"{path}:test").images, GREY[30:])
    with pytest.raises(ValueError, match=r"expected one of its parts \(train, test\), got 'val'"):
        load_images(f"{path}:val")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.array([b"cat", "hündin".encode(), b"fox"]), ("cat", "hündin", "fox")),
        (np.array([["cat"], ["dog"], ["fox"]]), ("cat", "dog", "fox")),
        (np.array("cat,dog,fox"), r"classes: expected a name for each class, .* of shape \(\)"),
        (np.array([1, 2, 3]), r"classes: expected a name for each class, .* got int64"),
        (np.array(["crane", "crane", "fox"]), r"classes: expected different names, got 'crane' twice"),
        (np.array(["", "dog", "fox"]), r"classes: expected names of one printable line each, got ''"),
        (np.array(["a\nb", "dog", "fox"]), r"classes: expected names of one printable line each, got 'a\\nb'"),
        (np.array([b"caf\xe9", b"dog", b"fox"]), r"classes: expected names in UTF-8"),
    ],
)
def test_class_names_are_read_as_written_or_refused(tmp_path: Path, names: np.ndarray, expected: object) -> None:
    np.savez(tmp_path / "a.npz", x=GREY, y=np.arange(60) % 3, classes=names)
    if isinstance(expected, tuple):
        assert load_images(str(tmp_path / "a.npz")).classes == expected
        return
    with pytest.raises(ValueError, match=f"a\\.npz: {expected}"):
        load_images(str(tmp_path / "a.npz"))


def test_a_folder_whose_name_no_bundle_could_store_is_refused_when_it_is_read(tmp_path: Path) -> None:
    classes(tmp_path, names=("a", "caf\udce9"))
    with pytest.raises(ValueError, match=r"classes: expected names of one printable line each, got 'caf\\udce9'"):
        load_images(str(tmp_path))
