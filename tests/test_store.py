from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_processes import Run, wait_for
from pyarrow import fs

from rrise.images import ImageSet
from rrise.targets import folder as folder_module
from rrise.targets import shards as shards_module
from rrise.targets.evaluator import ShardEvaluator
from rrise.targets.filling import fill_store
from rrise.targets.sampling import sample_counts
from rrise.targets.settings import SampleConfig
from rrise.targets.store import CountStore, CountTable, Manifest

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 4, 4), dtype=np.uint8)
IMAGES = ImageSet.from_arrays(PIXELS, np.arange(23) % 3)
CONFIG = SampleConfig(sigma=0.25, n=40, seed=5, batch_size=20, shard_size=5)


def classifier(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1)
    return torch.stack([flat[:, :5].sum(1), flat[:, 5:10].sum(1), flat[:, 10:15].sum(1)], dim=1)


def manifest(config: SampleConfig = CONFIG, **changes: object) -> Manifest:
    made = Manifest.of(config, IMAGES, stream=0, num_classes=3, classifier_sha256="c" * 64)
    return dataclasses.replace(made, **changes)


def table(ids: list[int], counts: list[list[int]], labels: list[int] | None = None) -> CountTable:
    draws = np.array(counts, dtype=np.int32).reshape(len(ids), -1)
    classes = np.array(labels if labels is not None else [0] * len(ids), dtype=np.int64)
    return CountTable(np.array(ids, dtype=np.uint64), classes, draws.sum(axis=1, dtype=np.int64), draws)


def same(one: CountTable, other: CountTable) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("ids", "labels", "n", "counts"))


def fill(store, run, images=IMAGES, device="", **how):
    return fill_store(store, ShardEvaluator(store.manifest, run, images, device), **how)


def filled(path: Path, **changes: object) -> CountStore:
    store = CountStore.open(path, manifest(**changes))
    fill(store, classifier)
    return store


# -- CountTable


@st.composite
def tables(draw: st.DrawFn) -> CountTable:
    ids = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    counts = draw(
        st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=len(ids), max_size=len(ids))
    )
    rows = np.array(counts, dtype=np.int32).reshape(len(ids), 3)
    names = np.array(ids, dtype=np.uint64)
    return CountTable(names, names.astype(np.int64) % 3, rows.sum(axis=1, dtype=np.int64), rows)


@given(tables(), tables(), tables())
def test_tables_merge_in_any_order_and_grouping(a, b, c):
    assert same((a + b) + c, a + (b + c))
    assert same(a + b, b + a)
    assert (a + b).sha256 == (b + a).sha256


@given(tables(), tables())
def test_merged_counts_are_the_sums_by_image(a, b):
    merged = a + b
    assert merged.ids.tolist() == sorted({*a.ids.tolist(), *b.ids.tolist()})
    assert np.array_equal(merged.counts.sum(axis=1), merged.n)
    for row, image in enumerate(merged.ids):
        parts = [part.counts[part.ids == image].sum(axis=0) for part in (a, b)]
        assert np.array_equal(merged.counts[row], parts[0] + parts[1])


@given(tables(), st.randoms(use_true_random=False))
def test_rows_come_in_the_asked_order_and_the_digest_ignores_order(a, random):
    order = list(range(len(a)))
    random.shuffle(order)
    shuffled = a.rows(a.ids[order])
    assert np.array_equal(shuffled.ids, a.ids[order])
    assert np.array_equal(shuffled.counts, a.counts[order])
    assert shuffled.sha256 == a.sha256


def test_rows_that_are_missing_are_counted():
    with pytest.raises(ValueError, match=r"does not hold every image .*got 2 of 3 that are not"):
        table([1, 2], [[1, 2], [3, 4]]).rows([2, 5, 6])


def test_the_digest_names_every_value():
    base = table([1, 2], [[1, 2], [3, 4]])
    others = [
        table([1, 3], [[1, 2], [3, 4]]),
        table([1, 2], [[2, 1], [3, 4]]),
        table([1, 2], [[1, 3], [3, 4]]),
        table([1, 2], [[1, 2], [3, 4]], [0, 1]),
        table([1, 2], [[1, 2, 0], [3, 4, 0]]),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 6


def test_tables_that_do_not_fit_are_not_merged():
    a = table([1, 2], [[1, 2], [3, 4]], [0, 1])
    with pytest.raises(ValueError, match=r"one label an image, got two for 2 and 0 more"):
        a + table([2, 3], [[1, 2], [3, 4]], [0, 1])
    with pytest.raises(ValueError, match=r"expected 2 classes in both tables, got 3"):
        a + table([4], [[1, 2, 3]])
    large = table([1], [[2**31 - 1, 0]])
    with pytest.raises(ValueError, match=r"sums up to 2147483647, got 2147483648"):
        large + table([1], [[1, 0]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": np.array([1, 1], np.uint64)}, ValueError, "no image twice"),
        ({"ids": np.array([1, 2])}, TypeError, "ids: expected uint64, got int64"),
        ({"labels": np.array([0])}, ValueError, r"labels: expected 1 axes, 2 long, got shape \(1,\)"),
        ({"n": np.array([3, 8])}, ValueError, r"expected image 2 to sum to its n=8, got 7"),
        ({"counts": np.array([[1, 2], [3, 4]])}, TypeError, "counts: expected int32, got int64"),
        ({"counts": np.array([3, 7], np.int32)}, ValueError, "counts: expected 2 axes"),
        ({"counts": np.array([[4, -1], [3, 4]], np.int32)}, ValueError, "counts: expected 0 or more, got -1"),
    ],
)
def test_a_table_that_contradicts_itself_cannot_be_made(change, error, message):
    fields = dataclasses.asdict(table([1, 2], [[1, 2], [3, 4]])) | change
    with pytest.raises(error, match=message):
        CountTable(**fields)


def test_proportions_are_counts_over_n():
    assert table([1], [[1, 3]]).proportions.tolist() == [[0.25, 0.75]]


# -- filling, reading, resuming


def test_a_store_returns_the_counts_of_sample_counts(tmp_path):
    found = filled(tmp_path / "counts").table()
    direct = sample_counts(classifier, IMAGES.images, IMAGES.ids, sigma=0.25, n=40, seed=5, batch_size=20)
    assert np.array_equal(found.ids, IMAGES.ids)
    assert np.array_equal(found.labels, IMAGES.labels)
    assert np.array_equal(found.counts, direct)
    assert found.counts.dtype == np.int32
    assert found.n.tolist() == [40] * 23
    assert len({tuple(row) for row in found.counts.tolist()}) > 5


@pytest.mark.parametrize("shard_size", [1, 7, 23, 1000])
def test_sharding_changes_neither_counts_nor_digest(tmp_path, shard_size):
    config = dataclasses.replace(CONFIG, shard_size=shard_size)
    store = filled(tmp_path / "other", config=config)
    reference = filled(tmp_path / "five")
    assert store.shards == -(-23 // shard_size)
    assert same(store.table(), reference.table())
    assert store.sha256 == reference.sha256


def test_shards_can_be_written_in_any_order(tmp_path):
    reference = filled(tmp_path / "one").table()
    store = CountStore.open(tmp_path / "two", manifest())
    for shard in (4, 0, 2, 3):
        store.write(shard, reference.rows(IMAGES.ids[5 * shard : 5 * shard + 5]))
    assert store.missing() == [1]
    with pytest.raises(ValueError, match=r"1 of 5 shards of .* are missing"):
        store.table()
    store.write(1, reference.rows(IMAGES.ids[5:10]))
    assert same(store.table(), reference)


def test_other_readers_find_plain_columns(tmp_path):
    store = filled(tmp_path / "counts")
    found = pq.read_table(tmp_path / "counts" / "shard-00004.parquet")
    assert [str(field.type) for field in found.schema] == [
        "uint64",
        "int64",
        "int64",
        "fixed_size_list<element: int32 not null>[3]",
    ]
    assert found.column("id").to_pylist() == IMAGES.ids[20:].tolist()
    assert found.column("counts").to_pylist() == store.table().counts[20:].tolist()
    facts = json.loads(found.schema.metadata[b"rrise.manifest"])
    assert facts == json.loads((tmp_path / "counts" / "manifest.json").read_text())
    assert facts["sigma"] == 0.25
    assert torch.__version__.startswith(facts["versions"]["torch"])


def test_resuming_computes_only_what_is_missing(tmp_path):
    store = filled(tmp_path / "counts")
    before = store.table()
    paths = sorted((tmp_path / "counts").glob("*.parquet"))
    paths[1].unlink()
    paths[3].unlink()
    kept = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths if path.exists()}
    passes = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        passes.append(len(x))
        return classifier(x)

    again = CountStore.open(tmp_path / "counts", manifest())
    assert fill(again, counting) == [1, 3]
    assert len(passes) == 10 * 2  # 10 images, 2 batches each
    assert same(again.table(), before)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept} == kept
    assert fill(again, counting) == []


def test_a_store_can_be_opened_without_a_manifest_once_it_exists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing holds no manifest\.json\. Run `rrise sample` first"):
        CountStore.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    store = filled(tmp_path / "counts")
    assert CountStore.open(tmp_path / "counts").manifest == store.manifest


KILLED = """
    import sys, time
    sys.path[:0] = [{tests!r}, {root!r}]
    import torch
    from test_store import CountStore, classifier, fill, manifest

    passes = 0

    def held(x):  # in the third shard: a shard takes 10 passes
        global passes
        passes += 1
        while passes > 25:
            time.sleep(0.05)
        return classifier(x)

    store = CountStore.open(sys.argv[1], manifest())
    print("started", flush=True)
    fill(store, held)
"""


def start_held_run(path: Path) -> Run:
    script = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), root=str(ROOT))
    command = [sys.executable, "-c", script, str(path)]
    return Run(command)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_an_interrupted_run_keeps_its_shards_and_a_rerun_ends_the_same(tmp_path, how):
    path = tmp_path / "counts"
    with start_held_run(path) as run:
        wait_for(lambda: len(list(path.glob("*.parquet"))) == 2, "two shards", run)
        run.process.send_signal(how)
        assert run.status() == -how or (how == signal.SIGINT and run.status() == 1), run
    finished = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.glob("*.parquet")}
    assert len(finished) == 2
    store = CountStore.open(path, manifest())
    written = fill(store, classifier)
    assert len(written) == 5 - len(finished)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in finished} == finished
    reference = filled(tmp_path / "undisturbed")
    assert same(store.table(), reference.table())
    assert store.sha256 == reference.sha256
    assert [file.name for file in path.iterdir() if file.name.endswith(".partial")] == []


# -- damage


def test_a_truncated_shard_is_named_and_computed_again(tmp_path):
    store = filled(tmp_path / "counts")
    before = store.table()
    path = tmp_path / "counts" / "shard-00002.parquet"
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match=r"shard-00002\.parquet is damaged .*computed again"):
            assert store.missing() == [2]
        with pytest.warns(RuntimeWarning, match="damaged"):
            assert fill(store, classifier) == [2]
        assert same(store.table(), before)


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    store = filled(tmp_path / "counts")
    before = store.table()
    path = tmp_path / "counts" / "shard-00001.parquet"
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        refusal = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # that the shard is damaged
                found = store.table()
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert "shard-00001.parquet" in refusal or "1 of 5 shards" in refusal
            refused += 1
        else:
            assert same(found, before), at
    assert refused > 100


def test_a_shard_of_another_store_is_refused_naming_field_and_both_values(tmp_path):
    filled(tmp_path / "one")
    other = filled(tmp_path / "two", sigma=0.5)
    shutil.copy(tmp_path / "one" / "shard-00003.parquet", tmp_path / "two")
    for action in (other.missing, other.table, lambda: fill(other, classifier)):
        with pytest.raises(ValueError, match=r"shard-00003\.parquet was sampled with sigma=0\.25, not sigma=0\.5"):
            action()


def test_files_that_are_no_shards_of_this_store_are_refused(tmp_path):
    store = filled(tmp_path / "counts")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "counts" / "shard-00000.parquet")
    with pytest.raises(ValueError, match=r"shard-00000\.parquet was not written by rrise"):
        store.missing()
    shutil.copy(tmp_path / "counts" / "shard-00001.parquet", tmp_path / "counts" / "shard-00000.parquet")
    with pytest.raises(ValueError, match=r"shard-00000\.parquet holds shard 1, not shard 0"):
        store.missing()
    fill(CountStore.open(tmp_path / "fresh", manifest()), classifier)
    shutil.copy(tmp_path / "fresh" / "shard-00000.parquet", tmp_path / "fresh" / "shard-00007.parquet")
    with pytest.raises(ValueError, match=r"has 5 shards, but holds shard-00007\.parquet"):
        CountStore.open(tmp_path / "fresh").missing()


# -- manifests


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sigma", 0.5),
        ("n", 41),
        ("seed", 6),
        ("stream", 1),
        ("sampler", "gaussian"),
        ("batch", 10),
        ("device", "cuda"),
        ("num_classes", 4),
        ("classifier_sha256", "d" * 64),
        ("data_sha256", "e" * 64),
        ("images", 24),
        ("shard_size", 6),
        ("precision", "bfloat16"),
        ("compile", True),
        ("views", 2),
        ("shift", 2),
        ("flip", True),
        ("images_per_pass", 3),
    ],
)
def test_a_manifest_that_differs_is_refused_naming_field_and_both_values(tmp_path, field, value):
    store = CountStore.open(tmp_path / "counts", manifest())
    values = rf"{field}={getattr(store.manifest, field)!r}, not {field}={value!r}"
    with pytest.raises(ValueError, match=rf"counts was sampled with {values}\. Use another"):
        CountStore.open(tmp_path / "counts", manifest(**{field: value}))


def test_every_compared_field_has_a_case_above():
    names = {item.name for item in dataclasses.fields(Manifest) if item.compare}
    mark = test_a_manifest_that_differs_is_refused_naming_field_and_both_values.pytestmark[0]
    assert {case[0] for case in mark.args[1]} == names


def test_versions_are_recorded_and_not_compared(tmp_path):
    filled(tmp_path / "counts")
    store = CountStore.open(tmp_path / "counts", manifest(versions={"torch": "9.9"}))
    assert store.missing() == []
    assert set(manifest().versions) == {"rrise", "numpy", "torch"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "expected a manifest of counts"),
        (b"[]", "expected a manifest of counts"),
        (b"{}", "expected a manifest of counts"),
        (b'{"format": "rrise-counts/9"}', r"expected format rrise-counts/3, got rrise-counts/9"),
        (b'{"format": "rrise-counts/1", "sigma": 1}', r"expected the fields .*got \['sigma'\]"),
    ],
)
def test_another_manifest_json_is_refused(tmp_path, content, message):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"manifest\.json: {message}"):
        CountStore.open(tmp_path)


def test_fill_refuses_other_images_devices_and_class_numbers(tmp_path):
    store = CountStore.open(tmp_path / "counts", manifest())
    with pytest.raises(ValueError, match="images: expected those of the store's manifest, data_sha256="):
        fill(store, classifier, images=IMAGES.take(np.arange(23)[::-1]))
    with pytest.raises(ValueError, match=r"device: expected 'cpu' as in the store's manifest, got 'cuda:0'"):
        fill(store, classifier, device="cuda:0")
    with pytest.raises(ValueError, match=r"evaluator's shard was sampled with seed=5, not seed=6"):
        fill_store(CountStore.open(tmp_path / "six", manifest(seed=6)), ShardEvaluator(manifest(), classifier, IMAGES))
    with pytest.raises(ValueError, match=r"expected 3 classes \(num_classes\), got 2"):
        fill(store, lambda x: classifier(x)[:, :2])
    assert store.missing() == [0, 1, 2, 3, 4]


def test_write_refuses_what_the_manifest_does_not_say(tmp_path):
    store = CountStore.open(tmp_path / "counts", manifest())
    good = filled(tmp_path / "good").table().rows(IMAGES.ids[:5])
    with pytest.raises(ValueError, match="shard: expected 0 to 4, got 5"):
        store.write(5, good)
    with pytest.raises(ValueError, match="expected 3 images in shard 4, got 5"):
        store.write(4, good)
    with pytest.raises(ValueError, match="expected n=40 draws of each image in shard 0, got 80"):
        store.write(0, good + good)
    assert store.missing() == [0, 1, 2, 3, 4]


# -- disks that fail


def shard_files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name != "manifest.json")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "expected"),
    [(OSError(errno.ENOSPC, "No space left on device"), OSError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk full", "ctrl-c"],
)
def test_a_failed_write_leaves_no_file_and_keeps_the_others(tmp_path, monkeypatch, step, failure, expected):
    store = CountStore.open(tmp_path / "counts", manifest())
    real = getattr(os, step)
    calls = []

    def failing(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > {"fsync": 4, "replace": 2}[step]:  # a file and its folder are synced for each shard
            raise failure
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, step, failing)
        with pytest.raises(expected) as caught:
            fill(store, classifier)
    if expected is OSError:
        assert caught.value.errno == errno.ENOSPC
        assert "shard-00002.parquet was not written (No space left on device)" in str(caught.value)
    assert shard_files(tmp_path / "counts") == ["shard-00000.parquet", "shard-00001.parquet"]
    assert fill(store, classifier) == [2, 3, 4]
    assert same(store.table(), filled(tmp_path / "good").table())


@pytest.mark.slow
def test_a_real_file_size_limit_leaves_no_partial_shard(tmp_path):
    # RLIMIT_FSIZE makes the kernel cut a write short and then fail it, as a full disk does.
    script = f"""
        import resource, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT)!r}]
        from test_store import CountStore, classifier, fill, manifest
        store = CountStore.open(sys.argv[1], manifest())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        fill(store, classifier)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "counts")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"OSError: [Errno {errno.EFBIG}]" in run.stderr.splitlines()[-1]
    assert "shard-00000.parquet was not written (File too large)" in run.stderr.splitlines()[-1]
    assert shard_files(tmp_path / "counts") == []


def test_a_disk_that_cannot_be_read_is_not_taken_for_a_damaged_shard(tmp_path, monkeypatch):
    store = filled(tmp_path / "counts")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for name in ("read_metadata", "ParquetFile"):
        with monkeypatch.context() as patch:
            patch.setattr(shards_module.pq, name, failing)
            with pytest.raises(OSError, match="Input/output error"):
                store.table()
    assert store.missing() == []


# -- other filesystems


def test_an_object_store_gets_one_put_a_shard(tmp_path):
    # A filesystem that is not local takes the path of object stores: whole buffers, no temporary names.
    remote = fs._MockFileSystem()
    store = CountStore.open("bucket/run/counts", manifest(), filesystem=remote)
    fill(store, classifier)
    names = {info.base_name for info in remote.get_file_info(fs.FileSelector("bucket/run/counts"))}
    assert names == {"manifest.json", *(f"shard-{shard:05d}.parquet" for shard in range(5))}
    again = CountStore.open("bucket/run/counts", manifest(), filesystem=remote)
    assert again.missing() == []
    assert same(again.table(), filled(tmp_path / "local").table())
    with remote.open_output_stream("bucket/run/counts/shard-00001.parquet") as stream:
        stream.write(b"PAR1 cut")
    with pytest.warns(RuntimeWarning, match=r"bucket/run/counts/shard-00001\.parquet is damaged"):
        assert fill(again, classifier) == [1]


def test_file_uris_and_relative_paths_are_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(Path("counts"))
    assert CountStore.open((tmp_path / "counts").as_uri()).missing() == []
    with pytest.raises(
        ValueError, match=r"a URI with two slashes, got 's3:/bucket/x'\. Write s3://bucket/x, or \./s3:/"
    ):
        CountStore.open("s3:/bucket/x")
    with pytest.raises(ValueError, match=r"expected a folder or a URI of pyarrow\.fs, got 'nope://x'"):
        CountStore.open("nope://x", manifest())


def test_a_store_writes_nothing_to_the_terminal(tmp_path, capfd):
    store = CountStore.open(tmp_path / "counts", manifest())
    fill(store, classifier, progress=True)  # not a terminal: no bar either
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_a_format_before_is_read_and_gone_on_with(tmp_path, version):
    done = filled(tmp_path / "counts")
    path = tmp_path / "counts" / "manifest.json"
    old = json.loads(path.read_text()) | {"format": f"rrise-counts/{version}"}
    new = ("views", "shift", "flip", "images_per_pass")
    lacks = {1: ("precision", "compile", *new), 2: new}[version]
    old = {name: value for name, value in old.items() if name not in lacks} | ({"first_n": 0} if version == 2 else {})
    path.write_text(json.dumps(old))
    (tmp_path / "counts" / "shard-00003.parquet").unlink()
    again = CountStore.open(tmp_path / "counts", manifest())
    assert fill(again, classifier) == [3]
    assert same(again.table(), done.table())
    path.write_text(json.dumps(old | {"format": "rrise-counts/3"}))
    with pytest.raises(ValueError, match=r"expected the fields "):
        CountStore.open(tmp_path / "counts")


def test_counts_that_stopped_early_in_a_format_before_are_refused(tmp_path):
    filled(tmp_path / "counts")
    path = tmp_path / "counts" / "manifest.json"
    old = json.loads(path.read_text()) | {"format": "rrise-counts/2", "first_n": 20}
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"manifest\.json: expected n draws of every image, got counts that stopped"):
        CountStore.open(tmp_path / "counts")
