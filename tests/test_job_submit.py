"""``ray job submit`` for real: a head with a dashboard and a token, a working folder, and a second submit."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from own_processes import Run, free_ports, wait_for
from ray_cluster import ENVIRONMENT, IMAGES, SHARD, STORE_BYTES, TESTS, Job

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
    """A head node with a token that only this test knows."""

    run: Run
    environment: dict[str, str]
    folder: Path
    dashboard: str

    @classmethod
    def start(cls) -> Head:
        environment = os.environ | ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        environment["PYTHONPATH"] = str(TESTS.parent)  # not the network's: it comes with the working folder
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
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
        run = Run(command, env=environment)
        return cls(run, environment, folder, f"http://127.0.0.1:{ports['dashboard-port']}")

    def answers(self) -> bool:
        """Whether its dashboard can be asked."""
        request = urllib.request.Request(f"{self.dashboard}/api/version")
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        try:
            return urllib.request.urlopen(request, timeout=60).status == 200
        except OSError:
            return False

    def job(self, verb: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``ray job VERB …`` at this head."""
        command = ["ray", "job", verb, "--address", self.dashboard, *words]
        surroundings = self.environment | environment
        return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=600)

    def submit(self, folder: Path, *command: str) -> str:
        """Submit a command to be run in a copy of a folder, wait, and return what it said."""
        where = ["--working-dir", str(folder), "--runtime-env", str(CLUSTER / "runtime-env.yaml")]
        done = self.job("submit", *where, "--", *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end(self) -> None:
        self.run.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head():
    made = Head.start()
    try:
        wait_for(made.answers, "answer of the dashboard", made.run, every=0.3)
        yield made
    finally:
        made.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder: a classifier, its network's module, images, and what must not be sent along."""
    made = tmp_path / "job"
    made.mkdir()
    Job.at(made)
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
