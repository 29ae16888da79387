"""Views are made from their names alone, by integers, and their counts from draws that no other view has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference_noise as reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrise.images import ImageSet
from rrise.targets import settings
from rrise.targets.evaluator import ShardEvaluator
from rrise.targets.filling import fill_store
from rrise.targets.manifest import Manifest
from rrise.targets.sampling import sample_counts
from rrise.targets.settings import SampleConfig, TargetsConfig
from rrise.targets.store import CountStore
from rrise.views import Views, moved, philox4x32

torch.set_num_threads(1)
IMAGES = ImageSet.from_arrays(np.random.default_rng(0).integers(0, 256, (23, 6, 5), dtype=np.uint8), np.arange(23) % 3)
SAMPLE = SampleConfig(sigma=0.25, n=40, seed=5, batch_size=20, shard_size=5)
TARGETS = TargetsConfig(views=3, n=4, shift=2, flip=True)
NAMES = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**56 - 1), st.integers(1, 2**16 - 1))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of targets hold as many evaluations as ``shard_size`` images of 40 draws, not of 1,000."""
    monkeypatch.setattr(settings, "_USUAL", 40)


def classifier(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1)
    return torch.stack([flat[:, :10].sum(1), flat[:, 10:20].sum(1), flat[:, 20:].sum(1)], dim=1)


def manifest(targets: TargetsConfig | None = TARGETS, config: SampleConfig = SAMPLE) -> Manifest:
    return Manifest.of(config, IMAGES, stream=0, num_classes=3, classifier_sha256="c" * 64, targets=targets)


def filled(path: Path, facts: Manifest, run=classifier) -> CountStore:
    store = CountStore.open(path, facts)
    fill_store(store, ShardEvaluator(facts, run, IMAGES))
    return store


# -- names


@pytest.mark.parametrize(  # of Random123's kat_vectors
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_of_many_blocks_gives_the_published_answers(counter, key, expected):
    found = philox4x32(tuple(np.full(3, word, dtype=np.uint64) for word in counter), key)
    assert [word.tolist() for word in found] == [[word] * 3 for word in expected]


@given(NAMES, st.integers(0, 9))
def test_moves_are_the_named_words(name, shift):
    seed, image, view = name
    down, right, mirror, _ = reference.block(0xC0000000, seed=seed, image_id=image, draw=view, stream=0)
    places = 2 * shift + 1
    expected = [(down * places >> 32) - shift, (right * places >> 32) - shift, mirror >> 31]
    ids = np.array([image, image ^ 1], dtype=np.uint64)
    found = Views(2**16, shift, True, seed).moves(ids, view)
    assert found[0].tolist() == expected
    assert Views(2**16, shift, False, seed).moves(ids, view)[0].tolist() == [*expected[:2], 0]
    assert np.array_equal(Views(2**16, shift, True, seed).moves(ids[::-1].copy(), view), found[::-1])


GOLDEN = [
    [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
    [[0, 0, 0], [1, 2, 1], [0, -1, 1], [-1, -1, 0]],
    [[0, -1, 1], [2, 2, 1], [-2, 1, 0], [0, -1, 0]],
]


def test_moves_of_some_names_stay_what_they_are():
    # Stored counts rest on these: another machine, numpy or rrise must give the same.
    ids = np.array([0, 1, 2**56 - 1, 0x0123456789ABCD], dtype=np.uint64)
    assert [Views(60, 2, True, 7).moves(ids, view).tolist() for view in (0, 1, 59)] == GOLDEN


def test_every_place_is_as_likely_and_half_are_mirrored():
    ids = np.arange(20_000, dtype=np.uint64) << np.uint64(20)
    moves = Views(3, 2, True).moves(ids, 2)
    places, counts = np.unique(moves, axis=0, return_counts=True)
    assert len(places) == 50
    assert np.abs(counts - 400).max() < 5.5 * 400**0.5
    assert not np.array_equal(moves, Views(3, 2, True).moves(ids, 1))
    assert not np.array_equal(moves, Views(3, 2, True, 1).moves(ids, 2))


# -- pixels


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.booleans()),
    st.sampled_from([np.uint8, np.float32]),
)
def test_moved_pixels_against_loops(size, move, kind):
    height, width = size
    down, right, mirrored = move
    image = np.random.default_rng(1).integers(1, 256, (2, height, width)).astype(kind)
    expected = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                expected[:, i + down, j + right] = image[:, i, j]
    expected = expected[:, :, ::-1] if mirrored else expected
    found = moved(torch.from_numpy(image)[None], torch.tensor([[down, right, int(mirrored)]]))
    assert found.dtype == torch.from_numpy(image).dtype
    assert np.array_equal(found[0].numpy(), expected)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_view_of_an_image_is_the_same_in_any_company_and_layout(channels):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 6, 5, channels or 1), dtype=np.uint8)
    images = pixels if channels else pixels[..., 0]
    ids, views = np.arange(40, dtype=np.uint64), Views(4, 2, True, 3)
    assert views.images(images, ids, 0) is images
    whole = views.images(images, ids, 3)
    assert whole.shape == images.shape
    assert whole.dtype == np.uint8
    planes = moved(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(views.moves(ids, 3)))
    assert np.array_equal(planes.permute(0, 2, 3, 1).numpy().reshape(images.shape), whole)
    some = np.array([7, 0, 31])
    assert np.array_equal(views.images(images[some], ids[some], 3), whole[some])
    assert 20 < np.count_nonzero((whole != images).reshape(40, -1).any(1)) <= 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "views: expected 1 to 65536 views of an image, got 0"),
        ({"count": 2**16 + 1}, "views: "),
        ({"count": 2, "shift": -1}, "shift: expected 0 to 32767 pixels, got -1"),
        ({"shift": 1}, "views: expected 2 or more with shift=1 and flip=False, got 1"),
        ({"flip": True}, "views: expected 2 or more"),
        ({"seed": 2**64}, "seed: "),
    ],
)
def test_views_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Views(**settings)


def test_other_views_than_there_are_and_too_many_draws_are_refused(tmp_path):
    for view in (-1, 3):
        with pytest.raises(ValueError, match=f"view: expected 0 to 2, got {view}"):
            Views(3).moves(np.zeros(1, dtype=np.uint64), view)
        with pytest.raises(ValueError, match=f"view: expected 0 to 2, one of the views of .*, got {view}"):
            CountStore.open(tmp_path / "counts", manifest()).table(view)
    with pytest.raises(ValueError, match=r"n: expected 0 \(n of all other images\) or a number of draws, got -1"):
        TargetsConfig(n=-1)
    with pytest.raises(ValueError, match=r"views: expected views × n of at most 2\^31, got 60000 × 40000"):
        TargetsConfig(views=60_000, n=40_000).sampling(SAMPLE)


# -- counts


def test_counts_of_a_view_are_those_of_its_pixels_and_of_its_own_draws(tmp_path):
    store = filled(tmp_path / "counts", manifest())
    for view in range(3):
        pixels = Views(3, 2, True, 5).images(IMAGES.images, IMAGES.ids, view)
        expected = sample_counts(
            classifier, pixels, IMAGES.ids, sigma=0.25, n=4, seed=5, batch_size=4, first_draw=4 * view
        )
        found = store.table(view)
        assert np.array_equal(found.counts, expected)
        assert np.array_equal(found.ids, IMAGES.ids)
        assert np.array_equal(found.labels, IMAGES.labels)
        assert found.n.tolist() == [4] * 23
    assert len({store.table(view).sha256 for view in range(3)}) == 3


def test_one_view_with_no_other_setting_is_the_image_as_any_other(tmp_path):
    roomy = dataclasses.replace(SAMPLE, batch_size=200)  # room for five images in a pass
    plain, one = manifest(None, roomy), manifest(TargetsConfig(), roomy)
    assert plain == one
    assert (plain.images_per_pass, plain.shard_size, plain.shards) == (1, 5, 5)
    passes = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        passes.append(len(x))
        return classifier(x)

    found = filled(tmp_path / "counts", plain, noted)
    assert passes == [40] * 23
    expected = sample_counts(classifier, IMAGES.images, IMAGES.ids, sigma=0.25, n=40, seed=5, batch_size=200)
    assert np.array_equal(found.table().counts, expected)
    assert found.sha256 == found.table().sha256


def test_passes_of_few_draws_are_full_and_of_one_shape(tmp_path):
    facts = manifest(TARGETS, dataclasses.replace(SAMPLE, shard_size=1))
    # 40 draws of an image are 10 views of 4: three shards a view, of 10, 10 and 3 images in passes of 5.
    assert (facts.shard_size, facts.images_per_pass, facts.batch, facts.shards_of_a_view) == (10, 5, 4, 3)
    assert [(facts.view(shard), facts.first(shard), facts.size(shard)) for shard in (0, 2, 3, 8)] == [
        (0, 0, 10),
        (0, 20, 3),
        (1, 0, 10),
        (2, 20, 3),
    ]
    shapes = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return classifier(x)

    filled(tmp_path / "counts", facts, noted)
    assert shapes == [(20, 1, 6, 5)] * (3 * (2 + 2 + 1))
    assert facts.evaluations == 3 * 23 * 4


@pytest.mark.parametrize("together", [1, 2, 5, 40])
def test_images_that_share_a_pass_have_the_noise_that_they_had(together):
    how = {"sigma": 0.25, "n": 30, "seed": 2, "batch_size": 16, "first_draw": 7}
    alone = sample_counts(classifier, IMAGES.images, IMAGES.ids, **how)
    for threads in (None, 2):
        found = sample_counts(classifier, IMAGES.images, IMAGES.ids, **how, images_per_pass=together, threads=threads)
        assert np.array_equal(found, alone)
    with pytest.raises(ValueError, match="images_per_pass: expected at least 1, got 0"):
        sample_counts(classifier, IMAGES.images, IMAGES.ids, **how, images_per_pass=0)


def test_what_fills_up_the_last_pass_is_not_counted():
    def answers(x: torch.Tensor) -> torch.Tensor:
        logits = classifier(x)
        if len(calls) == 2:
            logits[12:] = torch.nan  # 23 images in passes of 10: the third holds three of them, of 4 draws each
        calls.append(len(x))
        return logits

    calls: list[int] = []
    how = {"sigma": 0.25, "n": 4, "seed": 2, "images_per_pass": 10}
    assert sample_counts(answers, IMAGES.images, IMAGES.ids, **how).sum() == 92
    assert calls == [40, 40, 40]
    calls.clear()
    with pytest.raises(ValueError, match=rf"in 1 of 4 draws of image {IMAGES.ids[22]}\.$"):
        sample_counts(
            lambda x: torch.where(torch.arange(40)[:, None] == 11, torch.nan, answers(x)) if calls[1:] else answers(x),
            IMAGES.images,
            IMAGES.ids,
            **how,
        )


@pytest.mark.parametrize("shard_size", [1, 7, 1000])
def test_sharding_changes_neither_counts_nor_digest(tmp_path, shard_size):
    store = filled(tmp_path / "counts", manifest(TARGETS, dataclasses.replace(SAMPLE, shard_size=shard_size)))
    reference_store = filled(tmp_path / "reference", manifest())
    assert store.sha256 == reference_store.sha256 != store.table().sha256
    for view in range(3):
        assert np.array_equal(store.table(view).counts, reference_store.table(view).counts)


def test_an_interrupted_run_goes_on_at_the_views_that_are_missing(tmp_path):
    facts = manifest(TARGETS, dataclasses.replace(SAMPLE, shard_size=1))
    whole = filled(tmp_path / "counts", facts)
    before = whole.sha256
    for shard in (4, 8):
        (tmp_path / "counts" / f"shard-{shard:05d}.parquet").unlink()
    again = CountStore.open(tmp_path / "counts", facts)
    assert again.missing() == [4, 8]
    with pytest.raises(ValueError, match=r"2 of 9 shards .* are missing"):
        again.table(0)
    assert fill_store(again, ShardEvaluator(facts, classifier, IMAGES)) == [4, 8]
    assert again.sha256 == before


def test_other_readers_find_the_view_beside_the_id(tmp_path):
    filled(tmp_path / "counts", manifest(TARGETS, dataclasses.replace(SAMPLE, shard_size=1)))
    found = pq.read_table(tmp_path / "counts" / "shard-00004.parquet")
    assert [(field.name, str(field.type)) for field in found.schema][4:] == [("view", "uint16")]
    assert found.column("view").to_pylist() == [1] * 10
    assert found.column("id").to_pylist() == IMAGES.ids[10:20].tolist()
    facts = json.loads((tmp_path / "counts" / "manifest.json").read_text())
    assert {name: facts[name] for name in ("format", "views", "shift", "flip", "images_per_pass", "n")} == {
        "format": "rrise-counts/3",
        "views": 3,
        "shift": 2,
        "flip": True,
        "images_per_pass": 5,
        "n": 4,
    }


def test_a_row_of_a_view_takes_few_bytes(tmp_path):
    # 10 classes, 4 draws: 12 bytes, 8 of them the id's; 45,000 images in 60 views are 32 MB.
    pixels = np.random.default_rng(3).integers(0, 256, (5000, 4, 4), dtype=np.uint8)
    images = ImageSet.from_arrays(pixels, np.arange(5000) % 10)
    config = SampleConfig(n=1000, shard_size=2500)
    facts = Manifest.of(
        config, images, stream=0, num_classes=10, classifier_sha256="c" * 64, targets=TargetsConfig(views=2, n=4)
    )
    assert facts.shards == 2
    store = CountStore.open(tmp_path / "counts", facts)
    rng = np.random.default_rng(4)

    class Made(ShardEvaluator):
        def counts(self, shard: int) -> np.ndarray:
            return rng.multinomial(4, rng.dirichlet(np.full(10, 0.1), 5000)).astype(np.uint32)

    fill_store(store, Made(facts, classifier, images))
    size = sum(path.stat().st_size for path in (tmp_path / "counts").glob("*.parquet"))
    assert 8 * 10_000 < size < 14 * 10_000
