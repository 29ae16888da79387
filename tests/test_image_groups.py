"""Pictures of one scene, patient or film are never in two splits, whatever names their group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrise.images import DataConfig, ImageSet, Splits, load_images, load_splits

SCENES = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (SCENES * 5, 4, 4), dtype=np.uint8)
SCENE = np.repeat(np.arange(SCENES), 5)  # five frames each
PARTS = ("train", "calibration", "test")


def archive(path: Path, rows: slice = slice(None), **arrays: np.ndarray) -> str:
    named = {"scene": np.array([f"scene {number}" for number in SCENE])[rows]} | arrays
    np.savez(path, x=PIXELS[rows], y=SCENE[rows] % 3, classes=np.array(["a", "b", "c"]), **named)
    return str(path)


def scenes(images: ImageSet) -> set[int]:
    known = dict(zip(ImageSet.from_arrays(PIXELS, SCENE % 3).ids.tolist(), SCENE.tolist(), strict=True))
    return {known[name] for name in images.ids.tolist()}


def require_apart(splits: Splits) -> None:
    found = [scenes(getattr(splits, part)) for part in PARTS]
    assert sum(map(len, found)) == len(set.union(*found))


def test_scenes_of_an_archive_stay_apart_and_sizes_are_met(tmp_path: Path) -> None:
    place = archive(tmp_path / "a.npz")
    sizes = {"train": 98, "calibration": 42, "test": 31}
    grouped, plain = (load_splits(DataConfig(place, groups=groups, **sizes)) for groups in ("scene", ""))
    require_apart(grouped)
    assert {part: len(getattr(grouped, part)) for part in PARTS} == sizes
    assert len(scenes(grouped.train)) == 20  # 19 whole scenes, and three frames of the next
    mixed = [scenes(getattr(plain, part)) for part in PARTS]
    assert sum(map(len, mixed)) > len(set.union(*mixed))  # which is what groups are for


def test_the_order_of_the_file_decides_nothing(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(PIXELS))
    archive(tmp_path / "a.npz")
    archive(tmp_path / "b.npz", order)
    one, other = (
        load_splits(DataConfig(str(tmp_path / f"{name}.npz"), groups="scene", train=90, calibration=40, test=30))
        for name in "ab"
    )
    assert all(getattr(one, part).sha256 == getattr(other, part).sha256 for part in PARTS)


def test_scenes_stay_apart_over_several_sources(tmp_path: Path) -> None:
    places = {
        "source": archive(tmp_path / "a.npz", slice(0, 120)),
        "calibration_source": archive(tmp_path / "b.npz", slice(103, 180)),  # of scene 20, two frames in the first
        "test_source": archive(tmp_path / "c.npz", slice(100, 200)),
    }
    found = load_splits(DataConfig(**places, groups="scene", train=100, calibration=40, test=30))
    require_apart(found)
    with pytest.raises(ValueError, match=r"calibration asks for 61 images, .* holds 60 distinct ones"):
        load_splits(DataConfig(**places, groups="scene", train=100, calibration=61, test=30))


def test_too_few_groups_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test: expected 58 images of groups that are in no other split, got 5\d"):
        load_splits(DataConfig(archive(tmp_path / "a.npz"), groups="scene", train=98, calibration=41, test=58))


@pytest.mark.parametrize(("groups", "nested"), [("/", True), (r"^(scene\d+)_", False), (r"^scene\d+", False)])
def test_scenes_of_folders_stay_apart(tmp_path: Path, groups: str, nested: bool) -> None:
    for number, (pixels, scene) in enumerate(zip(PIXELS, SCENE, strict=True)):
        name = f"scene{scene}/{number}.png" if nested else f"scene{scene}_{number}.png"
        file = tmp_path / "set" / "abc"[scene % 3] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    require_apart(load_splits(DataConfig(str(tmp_path / "set"), groups=groups, train=98, calibration=42, test=31)))


def test_pictures_without_a_group_are_named(tmp_path: Path) -> None:
    for name in ("a/s1/0.png", "a/1.png", "b/s2/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[len(name)]).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"groups: expected a folder for each group in .*a, got the picture 1\.png"):
        load_images(str(tmp_path), "/")
    with pytest.raises(ValueError, match=r"groups: expected 's.*d' to match each picture's path, got 1\.png"):
        load_images(str(tmp_path), r"s\d")
    with pytest.raises(ValueError, match=r"expected an array 'patient' of group names, got scene, x, y, classes|got x"):
        load_images(archive(tmp_path / "a.npz"), "patient")
    with pytest.raises(ValueError, match=r"groups: expected none of 'digits'"):
        load_images("digits", "scene")


def test_sets_keep_the_groups_of_their_rows() -> None:
    found = ImageSet.from_arrays(
        np.concatenate([PIXELS[:4], PIXELS[:1]]), [0, 1, 0, 1, 0], groups=["p", "q", "p", 7, "z"]
    )
    assert len(set(found.groups.tolist())) == 3
    assert found.groups[0] == found.groups[2]
    assert found.take([2, 3]).groups.tolist() == found.groups[[2, 3]].tolist()
    with pytest.raises(ValueError, match=r"groups: expected one an image"):
        ImageSet(found.ids, found.images, found.labels, found.classes, groups=found.groups[:2])
