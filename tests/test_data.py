from __future__ import annotations

import hashlib
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rrise.images import DataConfig, ImageSet, image_ids, load_images, load_splits, positions, read_images

GREY = np.random.default_rng(0).integers(0, 256, (60, 4, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)


def save_npz(path: Path, x: np.ndarray = GREY, y: object = None, **arrays: np.ndarray) -> str:
    np.savez(path, x=x, y=np.arange(len(x)) % 3 if y is None else y, **arrays)
    return str(path)


def save_folders(root: Path, images: np.ndarray, classes: tuple[str, ...] = ("cat", "ant"), suffix: str = "png") -> str:
    for number, image in enumerate(images):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.{suffix}")
    return str(root)


# -- ids


def test_an_id_is_seven_bytes_of_the_documented_hash():
    expected = int.from_bytes(hashlib.sha256(b"4,5,3|" + COLOUR[0].tobytes()).digest()[:7], "big")
    assert image_ids(COLOUR[:1]).tolist() == [expected]
    assert image_ids(COLOUR).dtype == np.uint64
    assert image_ids(COLOUR).max() < 2**56


def test_an_id_tells_shapes_with_equal_bytes_apart():
    flat = np.zeros(12, dtype=np.uint8)
    shapes = [(1, 3, 4), (1, 4, 3), (1, 2, 6), (1, 2, 2, 3)]
    assert len({int(image_ids(flat.reshape(shape))[0]) for shape in shapes}) == len(shapes)


def test_an_id_does_not_depend_on_memory_layout_or_a_trailing_grey_axis():
    fortran = np.asfortranarray(COLOUR)
    assert not fortran.flags.c_contiguous
    assert np.array_equal(image_ids(fortran), image_ids(COLOUR))
    assert np.array_equal(image_ids(GREY[..., None]), image_ids(GREY))


@given(hnp.arrays(np.uint8, (2, 2, 2), elements=st.integers(0, 3)))
def test_ids_are_equal_exactly_when_pictures_are(images):
    first, second = image_ids(images).tolist()
    assert (first == second) == np.array_equal(images[0], images[1])


# -- sets


def test_repeats_are_dropped_and_counted_keeping_the_first():
    images = np.concatenate([GREY[:3], GREY[:2], GREY[3:4]])
    found = ImageSet.from_arrays(images, [0, 1, 2, 0, 1, 0])
    assert np.array_equal(found.images, GREY[:4])
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.dropped == 2


def test_select_returns_the_asked_order_and_counts_strangers():
    found = ImageSet.from_arrays(GREY, np.zeros(60, dtype=int))
    wanted = found.ids[[7, 3, 7 + 1]]
    assert np.array_equal(found.select(wanted).ids, wanted)
    assert np.array_equal(found.select(wanted).images, GREY[[7, 3, 8]])
    with pytest.raises(ValueError, match=r"got 2 of 3 that are not"):
        found.select([found.ids[0], 5, 2**56])
    with pytest.raises(ValueError, match=r"got 1 of 1 that are not"):
        positions(np.array([], dtype=np.uint64), [1])


def test_the_digest_names_pixels_labels_classes_and_order():
    base = ImageSet.from_arrays(GREY, np.arange(60) % 3)
    changed = GREY.copy()
    changed[-1, -1, -1] ^= 1
    others = [
        ImageSet.from_arrays(changed, np.arange(60) % 3),
        ImageSet.from_arrays(GREY, (np.arange(60) + 1) % 3),
        ImageSet.from_arrays(GREY, np.arange(60) % 3, ["a", "b", "c"]),
        base.take(np.arange(60)[::-1]),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 5
    assert ImageSet.from_arrays(GREY.copy(), np.arange(60) % 3).sha256 == base.sha256


def test_a_set_of_repeated_ids_or_unequal_lengths_cannot_be_made():
    ids = image_ids(GREY[:2])
    labels = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="no repeats"):
        ImageSet(ids[[0, 0]], GREY[:2], labels, ("a",))
    with pytest.raises(ValueError, match="2 ids, 2 images and 1 labels"):
        ImageSet(ids, GREY[:2], labels[:1], ("a",))
    with pytest.raises(ValueError, match="labels below 1"):
        ImageSet(ids, GREY[:2], labels + 1, ("a",))


def test_input_shape_is_channels_first():
    assert ImageSet.from_arrays(COLOUR, np.zeros(12, dtype=int)).input_shape == (3, 4, 5)
    assert ImageSet.from_arrays(GREY, np.zeros(60, dtype=int)).input_shape == (1, 4, 5)


# -- bad pixels and labels


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (GREY / 255.0, TypeError, r"got float64 in \[0, 1\]\. Convert by np\.rint\(x \* 255\)"),
        (GREY.astype(np.float32), TypeError, r"got float32 in \[0, 255\]\. Convert by np\.rint\(x\)"),
        ((GREY / 255.0 - 0.5) / 0.25, TypeError, r"in \[-2, 2\], which looks normalised"),
        (GREY.astype(np.int64), TypeError, r"got int64 in \[0, 255\]"),
        (
            GREY.astype(np.uint16) * 2,
            TypeError,
            r"got uint16 in \[0, 510\], more than 8 bits.*if white is 511, convert by np",
        ),
        (
            GREY > 200,
            TypeError,
            r"got bool in \[False, True\]\. If 1 is white, convert by x\.astype\(np\.uint8",
        ),
        ((GREY > 200).astype(np.int32), TypeError, r"got int32 in \[0, 1\]\. If 1 is white"),
        (GREY.astype(np.int16) - 128, TypeError, r"got int16 in \[-128, 127\], which looks normalised"),
        (np.zeros((2, 13, 32, 32), np.uint8), ValueError, r"looks channels-first"),
        (GREY.astype(str), TypeError, r"expected uint8 pixels"),
        (np.full((3, 4, 5), np.nan), TypeError, r"float64 in \[nan, nan\]"),
        (GREY[:0], ValueError, r"at least one image"),
        (GREY[0], ValueError, r"expected shape \(N, H, W\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), ValueError, r"looks channels-first"),
    ],
)
def test_what_is_not_8_bit_is_refused_with_its_range(tmp_path, x, error, message):
    with pytest.raises(error, match=message):
        load_images(save_npz(tmp_path / "bad.npz", x, np.zeros(len(x), dtype=int)))


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.arange(59) % 3, ValueError, r"y: expected shape \(60,\), one label an image, got \(59,\)"),
        (np.zeros((60, 2), int), ValueError, r"expected shape \(60,\)"),
        (np.arange(60) % 3 - 1, ValueError, r"labels from 0 up, got -1"),
        (np.zeros(60), TypeError, r"expected integers, got float64"),
        (np.arange(60) % 2 * 2, ValueError, r"class 0\.\.2, got none in class 1"),
        (
            np.where(np.arange(60) % 3 == 2, 2**40, 0),
            ValueError,
            r"y: .* got class 1099511627776 of 60 images\. R",
        ),
        (np.eye(3, dtype=int)[np.arange(60) % 3], ValueError, r"y: .* got one-hot rows \(60, 3\)\. Use y\.argmax"),
    ],
)
def test_bad_labels_are_refused(tmp_path, y, error, message):
    with pytest.raises(error, match=message):
        load_images(save_npz(tmp_path / "bad.npz", y=y))


def test_named_classes_may_be_empty_but_must_cover_the_labels(tmp_path):
    found = load_images(save_npz(tmp_path / "a.npz", classes=np.array(["a", "b", "c", "d"])))
    assert found.classes == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match=r"labels below 2, the number of classes, got 2"):
        load_images(save_npz(tmp_path / "b.npz", classes=np.array(["a", "b"])))


# -- sources


def test_digits_are_8_bit_and_whole():
    digits = load_images("digits")
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.min() == 0
    assert digits.images.max() == 255
    # Each level v of 0..16 is stored as the nearest of 0..255 to 255 v / 16.
    assert set(np.unique(digits.images)) == {round(255 * v / 16) for v in range(17)}
    assert digits.classes == tuple("0123456789")
    assert digits.dropped == 0


def test_grey_pictures_among_colour_ones_get_three_equal_channels(tmp_path):
    for name, pixels in (("a/1", COLOUR[0]), ("a/2", GREY[0]), ("b/1", COLOUR[1])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = load_images(str(tmp_path))
    assert found.images.shape == (3, *COLOUR.shape[1:])
    np.testing.assert_array_equal(found.images[1], np.stack([GREY[0]] * 3, axis=-1))
    np.testing.assert_array_equal(found.images[2], COLOUR[1])


@pytest.mark.parametrize("images", [GREY[:6], COLOUR[:6]], ids=["grey", "colour"])
def test_a_folder_of_class_folders_keeps_every_pixel(tmp_path, images):
    found = load_images(save_folders(tmp_path, images))
    assert found.classes == ("ant", "cat")
    assert np.array_equal(found.images, np.concatenate([images[1::2], images[::2]]))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_jpeg_files_are_read_as_pillow_decodes_them(tmp_path):
    found = load_images(save_folders(tmp_path, COLOUR[:2], suffix="jpg"))
    assert np.array_equal(found.images[1], np.asarray(Image.open(tmp_path / "cat" / "000.jpg")))


def test_folders_that_are_not_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got no folder in it"):
        load_images(str(tmp_path))
    save_folders(tmp_path, GREY[:4])
    (tmp_path / "bee").mkdir()
    with pytest.raises(ValueError, match=r"bee: expected .*got none\. Remove the empty class"):
        load_images(str(tmp_path))
    Image.fromarray(GREY[5, :3]).save(tmp_path / "bee" / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: expected shape \(4, 5\).*got \(3, 5\)"):
        load_images(str(tmp_path))
    Image.fromarray(GREY[5]).convert("LA").save(tmp_path / "bee" / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: expected an 8-bit grey \(L\) or RGB picture, got LA"):
        load_images(str(tmp_path))
    (tmp_path / "bee" / "small.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ValueError, match=r"small\.png: expected a picture"):
        load_images(str(tmp_path))


def test_missing_and_unreadable_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz' is no file or folder.*digits, FILE\.npz"):
        load_images(str(tmp_path / "nowhere.npz"))
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected one of: digits.*a\.csv"):
        load_images(str(tmp_path / "a.csv"))
    whole = Path(save_npz(tmp_path / "whole.npz")).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz: expected an \.npz of plain arrays"):
        load_images(str(tmp_path / "cut.npz"))
    np.save(tmp_path / "bare.npy", GREY)
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(ValueError, match=r"bare\.npz: expected an \.npz of plain arrays"):
        load_images(str(tmp_path / "bare.npz"))
    np.savez(tmp_path / "objects.npz", x=GREY, y=np.array([{}] * 60, dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz: expected an \.npz of plain arrays, got one whose 'y' numpy"):
        load_images(str(tmp_path / "objects.npz"))
    np.savez(tmp_path / "names.npz", images=GREY)
    with pytest.raises(ValueError, match=r"expected arrays x, y, got images"):
        load_images(str(tmp_path / "names.npz"))


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.tobytes())


def test_fashion_mnist_root_is_read_in_both_parts(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, images in (("train", GREY[:8]), ("t10k", GREY[8:11])):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8))
    found = load_images(f"fashion_mnist:{tmp_path}")
    assert np.array_equal(found.images, GREY[:8])
    assert found.labels.tolist() == list(range(8))
    assert found.classes[0] == "T-shirt/top"
    assert np.array_equal(load_images(f"fashion_mnist-test:{tmp_path}").images, GREY[8:11])


@pytest.mark.parametrize(
    ("source", "name", "key"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar_roots_are_read_channels_last(tmp_path, monkeypatch, source, name, key):
    from torchvision import datasets

    kind = getattr(datasets, name)
    images = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    names = {kind.meta["key"]: [f"class {label}" for label in range(10)]}
    rows = images.transpose(0, 3, 1, 2).reshape(4, -1)
    files = {"part": {"data": rows[:3], key: [4, 0, 9]}, "held_out": {"data": rows[3:], key: [2]}, "names": names}
    for file, content in files.items():
        (folder / file).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(kind, "train_list", [("part", None)])
    monkeypatch.setattr(kind, "test_list", [("held_out", None)])
    monkeypatch.setattr(kind, "meta", {"filename": "names", "key": kind.meta["key"], "md5": None})
    found = load_images(f"{source}:{tmp_path}")
    assert np.array_equal(found.images, images[:3])
    assert found.labels.tolist() == [4, 0, 9]
    assert found.classes[3] == "class 3"
    assert np.array_equal(load_images(f"{source}-test:{tmp_path}").images, images[3:])


@pytest.mark.parametrize("name", ["fashion_mnist", "fashion_mnist-test", "cifar10", "cifar100"])
def test_a_missing_torchvision_root_says_how_to_fetch_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"does not hold it .*torchvision\.datasets\..*download=True"):
        load_images(f"{name}:{tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


# -- splits


def npz_config(path: Path, **fields: object) -> DataConfig:
    return DataConfig(**{"source": str(path), "train": 30, "calibration": 20, "test": 10} | fields)


def test_splits_are_disjoint_and_independent_of_file_order(tmp_path):
    save_npz(tmp_path / "a.npz")
    order = np.random.default_rng(3).permutation(60)
    save_npz(tmp_path / "b.npz", GREY[order], order % 3)
    one, other = load_splits(npz_config(tmp_path / "a.npz")), load_splits(npz_config(tmp_path / "b.npz"))
    parts = [set(part.ids.tolist()) for part in (one.train, one.calibration, one.test)]
    assert [len(part) for part in parts] == [30, 20, 10]
    assert len(set.union(*parts)) == 60
    for name in ("train", "calibration", "test"):
        assert getattr(one, name).sha256 == getattr(other, name).sha256
    reseeded = load_splits(npz_config(tmp_path / "a.npz", seed=1))
    assert set(reseeded.train.ids.tolist()) != parts[0]


def test_split_order_is_the_documented_hash(tmp_path):
    save_npz(tmp_path / "a.npz")
    splits = load_splits(npz_config(tmp_path / "a.npz", seed=7))
    by_hash = sorted(image_ids(GREY).tolist(), key=lambda name: hashlib.sha256(f"7,{name}".encode()).digest())
    assert splits.train.ids.tolist() == by_hash[:30]
    assert splits.test.ids.tolist() == by_hash[50:]


def test_a_test_source_gives_only_unseen_pictures(tmp_path):
    save_npz(tmp_path / "a.npz", GREY[:40])
    save_npz(tmp_path / "b.npz", GREY[30:], np.arange(30, 60) % 3)
    config = npz_config(tmp_path / "a.npz", train=20, calibration=15, test=20, test_source=str(tmp_path / "b.npz"))
    splits = load_splits(config)
    assert set(splits.test.ids.tolist()) == set(image_ids(GREY[40:]).tolist())
    assert splits.dropped == 10
    with pytest.raises(ValueError, match=r"test_source: test asks for 21 images, .* holds 20 distinct"):
        load_splits(npz_config(tmp_path / "a.npz", train=20, calibration=15, test=21, test_source=config.test_source))
    save_npz(tmp_path / "c.npz", GREY[40:], classes=np.array(["x", "y", "z"]))
    with pytest.raises(ValueError, match=r"expected the classes of source, \('0', '1', '2'\), got \('x', 'y', 'z'\)"):
        load_splits(npz_config(tmp_path / "a.npz", train=20, calibration=15, test_source=str(tmp_path / "c.npz")))
    save_npz(tmp_path / "d.npz", GREY[40:, :3])
    with pytest.raises(ValueError, match=r"expected the input_shape of source, \(1, 4, 5\), got \(1, 3, 5\)"):
        load_splits(npz_config(tmp_path / "a.npz", train=20, calibration=15, test_source=str(tmp_path / "d.npz")))


def test_calibration_images_may_come_from_a_source_of_their_own(tmp_path):
    names = np.array(["ant", "bee", "cat"])
    save_npz(tmp_path / "a.npz", GREY[:40], classes=names)
    save_npz(tmp_path / "b.npz", GREY[30:55], np.arange(30, 55) % 3, classes=names)
    save_npz(tmp_path / "c.npz", GREY[38:], (np.arange(38, 60) + 1) % 3, classes=names[[2, 0, 1]])
    places = {f"{name}_source": str(tmp_path / f"{file}.npz") for name, file in (("calibration", "b"), ("test", "c"))}
    found = load_splits(npz_config(tmp_path / "a.npz", train=40, calibration=12, test=5, **places))
    calibration = set(found.calibration.ids.tolist())
    assert calibration < set(image_ids(GREY[40:55]).tolist())
    assert len(calibration) == 12
    assert not set(found.test.ids.tolist()) & (calibration | set(found.train.ids.tolist()))
    named = dict(zip(image_ids(GREY).tolist(), (np.arange(60) % 3).tolist(), strict=True))
    assert [named[name] for name in found.test.ids.tolist()] == found.test.labels.tolist()  # names in another order
    with pytest.raises(ValueError, match=r"calibration_source: calibration asks for 16 images, .* holds 15 distinct"):
        load_splits(npz_config(tmp_path / "a.npz", train=40, calibration=16, test=5, **places))


def test_too_few_images_names_both_numbers(tmp_path):
    save_npz(tmp_path / "a.npz", np.concatenate([GREY[:30], GREY[:30]]), np.arange(60) % 30 % 3)
    with pytest.raises(ValueError, match=r"ask for 60 images, .* holds 30 distinct"):
        load_splits(npz_config(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["train", "calibration", "test"])
def test_an_empty_split_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name}: expected at least 1 image, got 0"):
        DataConfig(**{name: 0})


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_growing_the_training_split_keeps_its_images(seed):
    small, large = (load_splits(DataConfig(train=train, calibration=5, test=5, seed=seed)) for train in (5, 9))
    assert set(small.train.ids.tolist()) < set(large.train.ids.tolist())


# -- read_images


def test_read_images_takes_files_arrays_and_folders_in_order(tmp_path):
    save_folders(tmp_path / "tree", GREY[:4])
    np.save(tmp_path / "one.npy", GREY[4])
    np.save(tmp_path / "many.npy", GREY[5:8])
    np.savez(tmp_path / "many.npz", x=GREY[8:10])
    paths = [tmp_path / "one.npy", str(tmp_path / "many.npz"), tmp_path / "many.npy", tmp_path / "tree"]
    names, images = read_images(paths)
    assert np.array_equal(images, GREY[[4, 8, 9, 5, 6, 7, 1, 3, 0, 2]])
    assert [name.removeprefix(f"{tmp_path}/") for name in names] == [
        "one.npy",
        *(f"many.npz[{number}]" for number in range(2)),
        *(f"many.npy[{number}]" for number in range(3)),
        *(f"tree/{file}.png" for file in ("ant/001", "ant/003", "cat/000", "cat/002")),
    ]


def test_read_images_keeps_colour_and_reads_one_colour_array_as_one_picture(tmp_path):
    np.save(tmp_path / "one.npy", COLOUR[0])
    Image.fromarray(COLOUR[1]).save(tmp_path / "two.png")
    assert np.array_equal(read_images([tmp_path / "one.npy", tmp_path / "two.png"])[1], COLOUR[:2])
    Image.fromarray(GREY[0]).save(tmp_path / "grey.png")
    _, both = read_images([tmp_path / "two.png", tmp_path / "grey.png"])
    np.testing.assert_array_equal(both, np.stack([COLOUR[1], np.stack([GREY[0]] * 3, axis=-1)]))
    np.save(tmp_path / "grey.npy", GREY[:2])
    np.testing.assert_array_equal(read_images([tmp_path / "two.png", tmp_path / "grey.npy"])[1][2, ..., 1], GREY[1])


def test_read_images_refuses_what_holds_no_8_bit_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such file"):
        read_images([tmp_path / "none.png"])
    with pytest.raises(ValueError, match="at least one file"):
        read_images([])
    with pytest.raises(ValueError, match="in the folder, got none"):
        read_images([tmp_path])
    (tmp_path / "a.heic").write_bytes(b"ftypheic")
    with pytest.raises(ValueError, match=r"got '\.heic'"):
        read_images([tmp_path / "a.heic"])
    np.save(tmp_path / "float.npy", GREY[0] / 255)
    with pytest.raises(TypeError, match=r"float\.npy: expected uint8 pixels in 0\.\.255, got float64"):
        read_images([tmp_path / "float.npy"])
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"object\.npy: expected a plain \.npy array"):
        read_images([tmp_path / "object.npy"])


def test_without_pillow_arrays_still_work_and_pictures_say_what_to_install(tmp_path):
    np.save(tmp_path / "a.npy", GREY[0])
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    script = (
        "import sys; sys.modules['PIL'] = None; from rrise.images import read_images\n"
        "assert read_images([sys.argv[1]])[1].shape == (1, 4, 5)\n"
        "read_images([sys.argv[2]])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.npy"), str(tmp_path / "a.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.strip().splitlines()[-1].endswith("needs Pillow. pip install pillow, or give .npy files.")


def test_importing_data_loads_numpy_only():
    script = "import sys, rrise.images; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "torchvision", "sklearn", "scipy", "PIL", "pyarrow"} & set(loaded)
