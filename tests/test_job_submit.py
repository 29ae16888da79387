"""``ray job submit`` for real: a head with a dashboard and a token, a working folder, and a second submit."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ray_cluster import ENVIRONMENT, IMAGES, SHARD, STORE_BYTES, TESTS, Job, wait_for

from rrise.__main__ import main
from rrise.targets.store import CountStore

pytestmark = pytest.mark.slow
SHARDS = IMAGES // SHARD
CLUSTER = TESTS.parent / "cluster"
PORTS = ("port", "node-manager-port", "object-manager-port", "ray-client-server-port", "metrics-export-port")
PORTS += ("dashboard-port", "dashboard-agent-listen-port", "runtime-env-agent-port")
BIN = Path(sys.executable).parent
if not (BIN / "ray").exists() or importlib.util.find_spec("aiohttp_cors") is None:
    pytest.skip("needs ray[default], for `ray job`", allow_module_level=True)


@dataclass(frozen=True)
class Head:
    """A head node in a process group of its own, with a token that only this test knows."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    folder: Path
    dashboard: str

    @classmethod
    def start(cls) -> Head:
        environment = os.environ | ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
            environment.pop(name, None)
        folder = Path(tempfile.mkdtemp(prefix="rrise-head-", dir="/tmp"))  # short: it holds Unix sockets
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        options = ports | {
            "dashboard-host": "127.0.0.1",
            "include-dashboard": "true",
            "num-cpus": 2,
            "object-store-memory": STORE_BYTES,
            "temp-dir": folder,
        }
        command = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
        return cls(process, environment, folder, f"http://127.0.0.1:{ports['dashboard-port']}")

    def answers(self) -> bool:
        """Whether its dashboard can be asked."""
        assert self.process.poll() is None, (self.folder / "said").read_text()
        request = urllib.request.Request(f"{self.dashboard}/api/version")
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        try:
            return urllib.request.urlopen(request, timeout=5).status == 200
        except OSError:
            return False

    def job(self, verb: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``ray job VERB …`` at this head."""
        command = ["ray", "job", verb, "--address", self.dashboard, *words]
        surroundings = self.environment | environment
        return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=480)

    def submit(self, folder: Path, *command: str) -> str:
        """Submit a command to be run in a copy of a folder, wait, and return what it said."""
        where = ["--working-dir", str(folder), "--runtime-env", str(CLUSTER / "runtime-env.yaml")]
        done = self.job("submit", *where, "--", *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[int]:
        """Every living process that carries its token, whatever group it is in."""
        token, found = self.environment["RAY_AUTH_TOKEN"].encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and token in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def end(self) -> None:
        """Kill its group; AssertionError if any of its processes outlives that."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=40)
            wait_for(lambda: not self.processes(), "end of the head's processes", 20)
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head():
    made = Head.start()
    try:
        wait_for(made.answers, "answer of the dashboard", 60, every=0.3)
        yield made
    finally:
        made.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder: a classifier, its network's module, images, and what must not be sent along."""
    made = tmp_path / "job"
    made.mkdir()
    Job.at(made, slow=0.01)
    shutil.copy(TESTS / "faulty_network.py", made)
    for name in (".git", "data", "counts"):
        (made / name).mkdir()
        (made / name / "heavy").touch()
    return made


def counts(out: Path) -> np.ndarray:
    return CountStore.open(out).table().counts


def test_a_submitted_job_gives_the_counts_of_this_process_and_a_second_submit_resumes(head, folder, tmp_path):
    assert main(Job(folder).command(tmp_path / "truth")[3:]) == 0
    truth = counts(tmp_path / "truth")
    assert (truth > 0).sum() > 3 * IMAGES  # labels do vary under the noise
    out = tmp_path / "out"
    command = Job(Path()).command(out, "--executor", "ray")[2:]  # names relative to the working folder
    assert command[:4] == ["rrise", "sample", "--classifier", "classifier"]

    said = head.submit(folder, *command, "--address", "auto", "--log", "/dev/stdout")
    assert f"({SHARDS} of {SHARDS} shards sampled now)" in said
    assert said.count('"event": "shard"') == SHARDS
    np.testing.assert_array_equal(counts(out), truth)
    copies = head.folder.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*/")
    (names,) = [{path.name for path in copy.iterdir()} for copy in copies]
    assert names == {"classifier", "faults", "faulty_network.py", "images.npz"}

    assert f"(0 of {SHARDS} shards sampled now)" in head.submit(folder, *command, "--address", "auto")

    next(out.glob("shard-*")).unlink()
    said = head.submit(folder, *command)  # no address: RAY_ADDRESS, which Ray sets in a job
    assert f"(1 of {SHARDS} shards sampled now)" in said
    np.testing.assert_array_equal(counts(out), truth)


def test_a_job_that_fails_says_why(head, folder, tmp_path):
    command = Job(Path()).command(tmp_path / "out", "--executor", "ray", "--data.test", "500")[2:]
    where = ["--working-dir", str(folder), "--runtime-env", str(CLUSTER / "runtime-env.yaml")]
    done = head.job("submit", *where, "--", *command)
    assert done.returncode == 1
    assert "rrise sample: source: the splits ask for 561 images" in done.stdout
    assert "Traceback" not in done.stdout


def test_nobody_submits_without_the_token(head):
    assert head.job("list").returncode == 0
    refused = head.job("list", RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert refused.returncode != 0
    assert "oken" in refused.stderr
