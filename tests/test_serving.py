"""A certifier in a real process: forked workers, many threads, a batch after a warm-up, memory that stays."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from own_processes import Run
from reference_engines import linear_engine, write_bundle

from rrise import Certifier
from rrise.runtime import BundleError

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)
BIAS = np.array([0.25, -0.5, 0], np.float32)
FRAMES = np.random.default_rng(0).integers(0, 256, (64, 2, 2), dtype=np.uint8)


def bundle(folder: Path, **changes: object) -> Path:
    return write_bundle(folder, linear_engine(WEIGHTS * 4, BIAS), **changes)


FORK = """
import json, os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process with threads: that is what is tried here
import numpy as np
from rrise import Certifier
certifier = Certifier.load(sys.argv[1], threads=int(sys.argv[2]))
frames = np.random.default_rng(0).integers(0, 256, (64, 2, 2), dtype=np.uint8)
expected = certifier(frames).to_rows()
engine = certifier.engine
if sys.argv[3:]:
    os.rename(sys.argv[1], sys.argv[3])
child = os.fork()
if child == 0:
    try:
        assert certifier(frames).to_rows() == expected
        os._exit(10 if certifier.engine is engine else 11)
    except Exception as error:
        print(error, flush=True)
        os._exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert certifier(frames).to_rows() == expected and certifier.engine is engine  # the parent serves on
print(json.dumps(status))
"""


def forked(folder: Path, threads: int, *moved: str) -> str:
    command = [sys.executable, "-c", FORK, str(folder), str(threads), *moved]
    with Run(command) as run:
        assert run.status() == 0, run
        return run.said


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_worker_certifies(threads: int, tmp_path: Path) -> None:
    """ONNX Runtime's threads do not survive a fork, nor do locks that were held: a call would wait for ever."""
    assert json.loads(forked(bundle(tmp_path / "b"), threads)) == 11  # opened again


def test_a_forked_worker_whose_bundle_is_gone_says_so(tmp_path: Path) -> None:
    said = forked(bundle(tmp_path / "b"), 2, str(tmp_path / "moved")).splitlines()
    assert json.loads(said[-1]) == 1
    assert said[0].startswith("bundle: expected a file ")


def test_a_bundle_swapped_before_the_fork_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    certifier = Certifier.load(folder, threads=2)
    (folder / "bundle.json").write_bytes((bundle(tmp_path / "c", sigma=0.25) / "bundle.json").read_bytes())
    with pytest.raises(BundleError, match=r"expected the bundle with sha256 .* that the parent process loaded, got"):
        certifier._engine._reopen()


def test_threads_share_no_buffer(tmp_path: Path) -> None:
    certifier = Certifier.load(bundle(tmp_path / "b"))
    expected = [certifier(frame).to_rows() for frame in FRAMES]
    kept = [certifier(frame) for frame in FRAMES]  # answers do not change when later ones are made
    assert [certificates.to_rows() for certificates in kept] == expected
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert [got.to_rows() for got in pool.map(certifier, FRAMES)] == expected


def test_a_warm_certifier_answers_as_a_cold_one(tmp_path: Path) -> None:
    certifier = Certifier.load(bundle(tmp_path / "b"), spinning=True)
    certifier.warm_up((1, 2, 64))
    assert certifier(FRAMES).to_rows() == Certifier.load(tmp_path / "b")(FRAMES).to_rows()
    with pytest.raises(BundleError, match=r"CUDA for device 'cuda:0'"):
        Certifier.load(tmp_path / "b", device="cuda:0")


GROWTH = """
import sys
import numpy as np
from rrise import Certifier
certifier = Certifier.load(sys.argv[1])
frames = np.random.default_rng(0).integers(0, 256, (64, 2, 2), dtype=np.uint8)
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:"))
def serve(calls):
    for call in range(calls):
        certifier(frames[call % 64])
    return resident()
print(serve(5_000), serve(int(sys.argv[2])))
"""


@pytest.mark.parametrize("calls", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_stays_flat(calls: int, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    command = [sys.executable, "-c", GROWTH, str(bundle(tmp_path / "b")), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 1024  # KiB: a leak of one array a call would be 100 bytes, 100 MiB over a million


def test_a_certifier_is_not_pickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected to be loaded in each process, got a Certifier to pickle\. Hand on"):
        pickle.dumps(Certifier.load(bundle(tmp_path / "b")))
