"""Counts in an S3-compatible store: a real server in its own process, and a cable to it that is really cut."""

from __future__ import annotations

import errno
import http.client
import http.server
import itertools
import json
import os
import re
import select
import signal
import socket
import socketserver
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from own_processes import LIMIT, Run, wait_for
from pyarrow import fs
from test_store import IMAGES, classifier, manifest

from rrise.targets import copies as copies_module
from rrise.targets.copies import local_copy
from rrise.targets.counts import CountTable
from rrise.targets.evaluator import ShardEvaluator
from rrise.targets.filling import fill_store
from rrise.targets.folder import Folder
from rrise.targets.manifest import Manifest
from rrise.targets.store import CountStore
from rrise.targets.uris import shown, within

pytestmark = [
    pytest.mark.slow,  # a server on a port
    pytest.mark.skipif(
        find_spec("moto") is None or find_spec("flask") is None, reason="needs the test server of moto[server]"
    ),
]
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
FACTS = Manifest(
    sigma=0.25,
    n=40,
    seed=5,
    stream=0,
    sampler="grid",
    batch=20,
    device="cpu",
    num_classes=3,
    classifier_sha256="c" * 64,
    data_sha256="d" * 64,
    images=23,
    shard_size=5,
)
COUNTS = np.random.default_rng(0).multinomial(40, [0.5, 0.3, 0.2], 23).astype(np.int32)
TABLE = CountTable(np.arange(23, dtype=np.uint64), np.arange(23) % 3, np.full(23, 40), COUNTS)
NUMBERS = itertools.count()
LARGE = np.random.default_rng(1).bytes(21 << 20)  # three parts of an upload


def shard(number: int) -> CountTable:
    return TABLE.rows(TABLE.ids[5 * number : 5 * number + 5])


def filled(uri: str | Path) -> CountStore:
    store = CountStore.open(uri, FACTS)
    for number in store.missing():
        store.write(number, shard(number))
    return store


# -- the server, and a cable to it


@dataclass(frozen=True)
class Server:
    port: int

    def uri(self, place: str, port: int | None = None, more: str = "") -> str:
        return f"s3://{place}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http{more}"

    def request(self, method: str, path: str, body: str | bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
            return content
        finally:
            connection.close()

    def sizes(self, place: str) -> dict[str, int]:
        """Of all objects below bucket/path, asked for without a cable or rrise between."""
        files, path = fs.FileSystem.from_uri(self.uri(place))
        found = files.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


SERVE = """
    import threading
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with started(SERVE) as run:
            yield Server(int(wait_for(lambda: run.said.endswith("\n") and run.said, "port of the server", run)))


@pytest.fixture
def bucket(server: Server) -> str:
    name = f"bucket-{next(NUMBERS)}"
    server.request("PUT", f"/{name}")
    return name


REQUEST = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")


class Cable(socketserver.ThreadingTCPServer):
    """Forwards to a server; once more than ``room`` bytes, or a ``mark``, went one way, it is cut or it stalls."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, *, room: int | None = None, mark: bytes | None = None, stalls: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.port, self.server_port = self.server_address[1], port
        self.room, self.mark, self.stalls, self.upwards = room, mark, stalls, True
        self.opened: list[bool] = []  # appended to by threads, which would lose what others add to a number
        self.asked: list[bool] = []
        self.failed, self.mended = threading.Event(), threading.Event()

    def passed(self, data: bytes) -> bytes:
        """Return what still goes through, and note if that is not all."""
        if self.mended.is_set():
            return data
        kept = data
        if self.mark is not None and self.mark in data:
            kept = b""
        if self.room is not None:
            kept = data[: self.room]
            self.room -= len(kept)
        if len(kept) < len(data):
            self.failed.set()
        return kept


class Connection(socketserver.BaseRequestHandler):
    server: Cable

    def handle(self) -> None:
        self.server.opened.append(True)
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.server_port)) as up:
            while True:
                for source in select.select([self.request, up], [], [])[0]:
                    data = source.recv(1 << 16)
                    limited = (source is self.request) == self.server.upwards
                    if source is self.request and data.startswith(REQUEST):
                        self.server.asked.append(True)
                    kept = self.server.passed(data) if limited else data
                    (up if source is self.request else self.request).sendall(kept)
                    if len(kept) < len(data) and self.server.stalls:
                        self.server.mended.wait()
                    if len(kept) < len(data) or not data:
                        return


@contextmanager
def cable(server: Server, **how: object) -> Iterator[Cable]:
    with Cable(server.port, **how) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            made.mended.set()
            made.shutdown()
            thread.join()


def impatient(wire: Cable, **how: object) -> fs.S3FileSystem:
    """S3 at the end of a cable, without a second try: those take seconds each."""
    once = fs.AwsStandardS3RetryStrategy(max_attempts=1)
    address = {"endpoint_override": f"127.0.0.1:{wire.port}", "scheme": "http", "region": "us-east-1"}
    return fs.S3FileSystem(**address, retry_strategy=once, **how)


def started(script: str, *arguments: str) -> Run:
    return Run([sys.executable, "-c", textwrap.dedent(script), *arguments])


# -- the same counts


def test_counts_in_a_bucket_are_the_counts_on_a_disk(server, bucket, tmp_path):
    uri = server.uri(f"{bucket}/deep/er")
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        CountStore.open(uri)
    store, local = filled(uri), filled(tmp_path)
    assert store.sha256 == local.sha256
    assert np.array_equal(store.table().counts, COUNTS)
    names = [f"shard-{number:05d}.parquet" for number in range(5)]
    keys = re.findall("<Key>(.*?)</Key>", server.request("GET", f"/{bucket}").decode())
    assert sorted(keys) == [f"deep/er/{name}" for name in ("manifest.json", *names)]  # and no marks of folders
    for name in names:
        with Folder.at(uri).open(name) as file:
            assert file.read() == (tmp_path / name).read_bytes()
    server.request("DELETE", f"/{bucket}/deep/er/{names[3]}")
    again = CountStore.open(uri)
    assert again.manifest == FACTS
    assert again.missing() == [3]
    assert filled(uri).sha256 == local.sha256


def test_a_truncated_object_counts_as_missing(server, bucket):
    uri = server.uri(f"{bucket}/counts")
    store = filled(uri)
    with Folder.at(uri).open("shard-00001.parquet") as file:
        whole = file.read()
    for length in (0, 3, len(whole) - 1):
        Folder.at(uri).publish("shard-00001.parquet", whole[:length])
        with pytest.warns(RuntimeWarning, match=r"shard-00001\.parquet is damaged"):
            assert store.missing() == [1]


def test_a_listing_has_more_than_one_page(server, bucket):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
    for number in range(1001):  # all before `manifest` and `shard`, so that those are on the second page
        connection.request("PUT", f"/{bucket}/counts/a-{number:04d}", b"")
        assert connection.getresponse().read() == b""
    connection.close()
    uri = server.uri(f"{bucket}/counts")
    filled(uri)
    assert len(Folder.at(uri).names()) == 1001 + 1 + 5
    assert CountStore.open(uri).missing() == []


# -- what is printed


@pytest.mark.parametrize(
    "uri",
    [
        "nope://KEY:SECRET@bucket/path",
        "s3://KEY:SECRET@bucket/path?nope=1",
        "s3://KEY:SEC/RET@bucket/path",
        "s3://KEY:SECRET@bucket/a space",
        "s3://KEY:SECR%45T@bucket/path?nope=1",
        "s3://KEY:SECRET@bucket/path?scheme=http&endpoint_override=127.0.0.1:1&allow_bucket_creation=SECRET",
        "gs://KEY:SECRET@bucket/path",
    ],
)
def test_no_message_shows_credentials(uri):
    with pytest.raises(
        ValueError, match=r"expected a folder or a URI of pyarrow\.fs, got '\w+://\*\*\*@bucket"
    ) as caught:
        Folder.at(uri)
    everything = "".join(traceback.format_exception(caught.value))
    assert not any(part in everything.split("Folder.at(uri)")[-1] for part in ("SECRET", "SEC/RET", "SECR%45T", "KEY"))
    assert everything.count("Traceback") == 1  # no cause that quotes the URI


def test_a_uri_is_shown_and_extended_without_its_parameters():
    assert shown("s3://KEY:S/E@bucket/a/b/?x=y#z") == "s3://***@bucket/a/b"
    assert shown("s3://KEY@bucket/a") == "s3://***@bucket/a"
    assert shown("s3://bucket/a@b?x=y@z") == "s3://bucket/a@b"
    assert shown("some/folder?") == "some/folder?"
    assert within("s3://bucket/a/?x=y", "b") == "s3://bucket/a/b?x=y"
    assert within("s3://bucket/a", "b") == "s3://bucket/a/b"
    assert within("some/folder?", "b") == "some/folder?/b"


def test_messages_of_a_store_name_the_file_and_no_parameter(server, bucket):
    uri = server.uri(f"{bucket}/counts").replace("s3://", "s3://key:secret@")
    store = filled(uri)
    assert store.uri == f"s3://***@{bucket}/counts"
    Folder.at(uri).publish("shard-00002.parquet", b"PAR1 cut")
    with pytest.warns(RuntimeWarning, match=rf"counts: s3://\*\*\*@{bucket}/counts/shard-00002\.parquet is damaged"):
        store.missing()


# -- uploads that are cut


@pytest.mark.parametrize("size", [200_000, len(LARGE)], ids=["small", "large"])
@pytest.mark.parametrize("delayed", [False, True], ids=["multipart", "one-put"])
def test_a_cut_upload_leaves_no_object_and_can_be_repeated(server, bucket, size, delayed):
    with cable(server, room=size // 2) as wire:
        folder = Folder.at(f"{bucket}/a", impatient(wire, allow_delayed_open=delayed))
        with pytest.raises(OSError, match=rf"{bucket}/a/big was not written \(When uploading .*run again\.$"):
            folder.publish("big", LARGE[:size])
        assert wire.failed.is_set()
        assert server.sizes(bucket) == {}
        wire.mended.set()
        assert folder.names() == set()
        folder.publish("big", LARGE[:size])
    assert server.sizes(bucket) == {"big": size}


@pytest.mark.parametrize("background", [True, False])
def test_an_upload_that_lost_a_part_is_not_published(server, bucket, background):
    # Without background writes, it is write() that fails, and close() then publishes the parts that did arrive.
    with cable(server, mark=b"partNumber=2&") as wire:
        folder = Folder.at(f"{bucket}/a", impatient(wire, background_writes=background))
        with pytest.raises(OSError, match="big was not written"):
            folder.publish("big", LARGE)
        assert wire.failed.is_set()
    assert server.sizes(bucket) == {}


def test_a_store_whose_upload_is_cut_keeps_its_shards_and_ends_the_same(server, bucket, tmp_path):
    reference = filled(tmp_path)
    with cable(server) as wire:
        store = CountStore.open(f"{bucket}/counts", FACTS, filesystem=impatient(wire))
        for number in (0, 1):
            store.write(number, shard(number))
        wire.room = 1000
        with pytest.raises(OSError, match=rf"{bucket}/counts/shard-00002\.parquet was not written .* kept\. Check"):
            store.write(2, shard(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing damaged is there
        assert CountStore.open(server.uri(f"{bucket}/counts")).missing() == [2, 3, 4]
    assert filled(server.uri(f"{bucket}/counts")).sha256 == reference.sha256


def test_sampling_that_is_cut_goes_on_to_the_same_counts(server, bucket, tmp_path):
    local = CountStore.open(tmp_path, manifest())
    assert fill_store(local, ShardEvaluator(manifest(), classifier, IMAGES)) == [0, 1, 2, 3, 4]
    with cable(server, mark=b"shard-00003.parquet") as wire:
        store = CountStore.open(f"{bucket}/counts", manifest(), filesystem=impatient(wire))
        with pytest.raises(OSError, match=r"shard-00003\.parquet was not written"):
            fill_store(store, ShardEvaluator(manifest(), classifier, IMAGES))
    store = CountStore.open(server.uri(f"{bucket}/counts"), manifest())
    assert fill_store(store, ShardEvaluator(manifest(), classifier, IMAGES)) == [3, 4]
    assert store.sha256 == local.sha256


def test_a_process_killed_during_an_upload_leaves_no_object(server, bucket):
    script = """
        import sys
        from rrise.targets.folder import Folder
        Folder.at(sys.argv[1]).publish("shard-00000.parquet", bytes(12 << 20))
    """
    with (
        cable(server, room=11 << 20, stalls=True) as wire,
        started(script, server.uri(f"{bucket}/counts", wire.port)) as run,
    ):
        wait_for(wire.failed.is_set, "end of what goes through", run)
        run.process.kill()
        assert run.status() == -signal.SIGKILL
        assert run.complained == ""
        assert server.sizes(bucket) == {}
    assert server.sizes(bucket) == {}
    assert filled(server.uri(f"{bucket}/counts")).missing() == []


class Interrupted:
    """A filesystem that sends Ctrl-C between the opening of a stream and its first byte."""

    def __init__(self, files: fs.FileSystem) -> None:
        self.files = files

    def __getattr__(self, name: str) -> object:
        return getattr(self.files, name)

    def open_output_stream(self, path: str) -> object:
        stream = self.files.open_output_stream(path)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return stream


def test_ctrl_c_does_not_publish_half_a_file(server, bucket):
    files, path = fs.FileSystem.from_uri(server.uri(f"{bucket}/a"))
    with pytest.raises(KeyboardInterrupt):
        Folder.at(path, Interrupted(files)).publish("file", b"0123456789")
    assert server.sizes(bucket) == {"file": 10}


def test_ctrl_c_at_any_moment_waits_for_the_file():
    for _ in range(50):  # it comes while the thread starts in one of ten or so
        files = fs._MockFileSystem()
        with pytest.raises(KeyboardInterrupt):
            Folder.at("a", Interrupted(files)).publish("file", b"0123456789")
        assert files.get_file_info("a/file").size == 10


# -- what else fails


def test_a_bucket_that_does_not_exist_is_named(server):
    uri = server.uri("no-such-bucket/counts")
    for facts in (None, FACTS):
        with pytest.raises(
            FileNotFoundError, match=r"s3://no-such-bucket/counts: there is no bucket 'no-such-bucket'\."
        ):
            CountStore.open(uri, facts)
    with pytest.raises(OSError, match=r"s3://no-such-bucket/counts/x was not written .*NO_SUCH_BUCKET.*\. Check"):
        Folder.at(uri).publish("x", b"x")


def test_keys_that_the_server_does_not_know_are_refused_at_once(server, bucket):
    server.request("POST", "/moto-api/reset-auth", "0")
    try:
        with (
            cable(server) as wire,
            pytest.raises(OSError, match=r"counts was not listed .*INVALID_ACCESS_KEY_ID.*credentials") as caught,
        ):
            CountStore.open(server.uri(f"{bucket}/counts", wire.port), FACTS)
    finally:
        server.request("POST", "/moto-api/reset-auth", "inf")
    assert "secret" not in str(caught.value)
    assert len(wire.asked) == 1


def test_a_bucket_that_may_only_be_read_is_refused_at_once(server, bucket):
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    server.request("PUT", f"/{bucket}?policy", json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    with pytest.raises(OSError, match=r"counts/manifest\.json was not written .*ACCESS_DENIED.*credentials"):
        CountStore.open(server.uri(f"{bucket}/counts"), FACTS)
    assert server.sizes(bucket) == {}


def test_a_server_that_is_down_is_said(server):
    with socket.socket() as mute:  # a port that is taken and where nobody listens
        mute.bind(("127.0.0.1", 0))
        uri = server.uri("bucket/counts", mute.getsockname()[1])
        down = r"s3://bucket/counts was not listed .*Could not connect.*127\.0\.0\.1.*Check"
        with pytest.raises(OSError, match=down):
            CountStore.open(uri, FACTS)


def test_a_server_that_does_not_answer_is_asked_three_times(server, bucket):
    # Here each try is cut short. If a server accepts and then says nothing, a try takes 3 s, so their number decides.
    with cable(server, room=0) as wire:
        with pytest.raises(OSError, match="was not listed"):
            Folder.at(server.uri(f"{bucket}/counts", wire.port)).names()
        assert len(wire.opened) == 3


def test_a_network_that_fails_is_not_taken_for_a_damaged_shard(server, bucket):
    filled(server.uri(f"{bucket}/counts"))
    with cable(server) as wire:
        store = CountStore.open(f"{bucket}/counts", filesystem=impatient(wire))
        wire.mark = b"GET /%s/counts/shard-00000" % bucket.encode()
        for action in (store.missing, lambda: store._read(0)):
            with pytest.raises(OSError, match=rf"{bucket}/counts/shard-00000\.parquet was not read .*Check") as caught:
                action()
            assert caught.value.errno == errno.EIO
        assert wire.failed.is_set()


def test_the_interpreter_ends_quietly_with_a_store_and_a_file_open(server, bucket):
    script = """
        import sys
        from rrise.targets.folder import Folder
        folder = Folder.at(sys.argv[1])
        folder.publish("file", b"12")
        file = folder.open("file")
        print(file.read(1), flush=True)
    """
    with started(script, server.uri(f"{bucket}/a")) as run:
        assert (run.status(), run.said, run.complained) == (0, "b'1'\n", "")


# -- copies


def artifact(server: Server, bucket: str) -> dict[str, bytes]:
    content = {"network.json": b"{}", "weights.gz": LARGE[: 17 << 20]}
    for name, data in content.items():
        server.request("PUT", f"/{bucket}/made/classifier/{name}", data)
    return content


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_and_a_file_are_copied(server, bucket, tmp_path):
    content = artifact(server, bucket)
    copied = local_copy(server.uri(f"{bucket}/made/classifier"), tmp_path / "new" / "er")
    assert copied == tmp_path / "new" / "er" / "classifier"
    assert files_in(copied) == content
    assert [path.name for path in copied.parent.iterdir()] == ["classifier"]
    one = local_copy(server.uri(f"{bucket}/made/classifier/weights.gz"), tmp_path)
    assert one.read_bytes() == content["weights.gz"]  # not decompressed
    assert local_copy(str(copied), tmp_path / "again") == tmp_path / "again" / "classifier"
    assert files_in(tmp_path / "again" / "classifier") == content
    assert local_copy(one.as_uri(), tmp_path / "again").read_bytes() == content["weights.gz"]


def test_a_copy_that_is_there_is_kept(server, bucket, tmp_path):
    (tmp_path / "classifier").mkdir()
    assert local_copy(server.uri(f"{bucket}/made/classifier"), tmp_path) == tmp_path / "classifier"
    assert files_in(tmp_path / "classifier") == {}


def test_of_two_copies_at_once_one_is_kept(server, bucket, tmp_path, monkeypatch):
    content = artifact(server, bucket)
    real, uri = copies_module._take_name, server.uri(f"{bucket}/made/classifier")

    def later(whole: Path, target: Path) -> None:
        monkeypatch.setattr(copies_module, "_take_name", real)
        local_copy(uri, tmp_path)
        (tmp_path / "classifier" / "first").touch()
        real(whole, target)

    monkeypatch.setattr(copies_module, "_take_name", later)
    assert files_in(local_copy(uri, tmp_path)) == {**content, "first": b""}
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


def test_what_cannot_be_copied_is_said(server, bucket, tmp_path):
    artifact(server, bucket)
    with pytest.raises(FileNotFoundError, match=rf"s3://{bucket}/nothing: expected a file or a folder of files"):
        local_copy(server.uri(f"{bucket}/nothing"), tmp_path)
    with pytest.raises(ValueError, match=rf"s3://{bucket}/made: .*holds the folder 'classifier'"):
        local_copy(server.uri(f"{bucket}/made"), tmp_path)
    with pytest.raises(ValueError, match="expected one that ends in the name"):
        local_copy("/", tmp_path)
    (tmp_path / "a file").touch()
    with pytest.raises(OSError, match=r"classifier was not copied into .*a file \(Not a directory\)\.$"):
        local_copy(server.uri(f"{bucket}/made/classifier"), tmp_path / "a file")
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_cut_copy_leaves_nothing(server, bucket, tmp_path):
    artifact(server, bucket)
    with cable(server, mark=b"GET /%s/made/classifier/weights.gz" % bucket.encode()) as wire:
        with pytest.raises(OSError, match=rf"s3://{bucket}/made/classifier was not copied into .*Check address"):
            local_copy(server.uri(f"{bucket}/made/classifier", wire.port), tmp_path)
        assert wire.failed.is_set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["classifier", "classifier/weights.gz"])
def test_a_killed_copy_is_not_taken_for_a_whole_one(server, bucket, tmp_path, name):
    content = artifact(server, bucket)
    script = """
        import sys
        from pathlib import Path
        from rrise.targets.copies import local_copy
        local_copy(sys.argv[1], Path(sys.argv[2]))
    """
    with cable(server, room=16 << 20, stalls=True) as wire:
        wire.upwards = False
        with started(script, server.uri(f"{bucket}/made/{name}", wire.port), str(tmp_path)) as run:  # killed at its end
            wait_for(wire.failed.is_set, "end of what goes through", run)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    copied = local_copy(server.uri(f"{bucket}/made/{name}"), tmp_path)
    found = files_in(copied) if copied.is_dir() else {copied.name: copied.read_bytes()}
    assert found == (content if copied.is_dir() else {"weights.gz": content["weights.gz"]})


class Smiling(http.server.BaseHTTPRequestHandler):
    """Answers everything with success, as a login page or a wrong proxy does, and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"" if self.command == "HEAD" else b"<html><body>Please log in.</body></html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_that_smiles_and_keeps_nothing_is_found_out() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Smiling) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            place = (
                f"s3://k:s@bucket/counts?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
            )
            folder = Folder.at(place)
            with pytest.raises(OSError, match=r"counts/a was not written \(.*(but holds|Could not|request|XML|parse)"):
                folder.publish("a", b"content")
        finally:
            server.shutdown()
            thread.join()
