"""Web servers preload, fork and serve: children answer and end by themselves, whatever the parent was at."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from own_processes import Run
from reference_engines import linear_engine, write_bundle

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.slow,
]
WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)

PRELOADED = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process with threads: that is what is tried here
import numpy as np
from rrise import Certifier

folder, threads, busy, forks, calls = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "busy", *map(int, sys.argv[4:6])
certifier = Certifier.load(folder, threads=threads)
frames = np.random.default_rng(0).integers(0, 256, (64, 2, 2), dtype=np.uint8)
expected, stop = certifier(frames).to_rows(), threading.Event()

def serve():
    while not stop.is_set():
        certifier(frames)

callers = [threading.Thread(target=serve) for _ in range(2 * busy)]
for caller in callers:
    caller.start()
ended = []
for number in range(forks):
    child = os.fork()
    if child == 0:
        stop.set()
        try:
            for _ in range(calls):
                assert certifier(frames).to_rows() == expected
        except RuntimeError as error:
            print(error, flush=True)
            sys.exit(3)
        sys.exit(7)  # ends as scripts do: finalisers run, which os._exit would leave out
    for _ in range(3000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended.append(os.waitstatus_to_exitcode(status))
            break
        time.sleep(0.02)
    else:
        print(f"child {number} hangs", flush=True)
        os.kill(child, 9)
        os.waitpid(child, 0)
        ended.append(None)
        break
stop.set()
for caller in callers:
    caller.join()
assert certifier(frames).to_rows() == expected  # the parent serves on
print(sorted(set(map(str, ended))), len(ended))
"""


def served(folder: Path, threads: int, busy: str, forks: int, calls: int, **changes: object) -> Run:
    bundle = write_bundle(folder, linear_engine(WEIGHTS * 4, np.zeros(3, np.float32)), **changes)
    with Run([sys.executable, "-c", PRELOADED, bundle, threads, busy, forks, calls]) as run:
        assert run.status() == 0, run
        return run


@pytest.mark.parametrize("busy", ["idle", "busy"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_forked_children_serve_and_end_by_themselves(threads: int, busy: str, tmp_path: Path) -> None:
    """Of onnxruntime 1.32, unguarded, every child hung: at its first call with threads, and else when it ended."""
    run = served(tmp_path / "b", threads, busy, 34, 2)
    assert run.said.splitlines()[-1] == "['7'] 34", run


def test_children_that_never_call_end_too(tmp_path: Path) -> None:
    run = served(tmp_path / "b", 2, "idle", 20, 0)
    assert run.said.splitlines()[-1] == "['7'] 20", run


@pytest.mark.parametrize("busy", ["idle", "busy"])
def test_openvino_refuses_a_fork_in_one_line(busy: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'rrise[openvino]'")
    run = served(tmp_path / "b", 2, busy, 10, 1, engine__kind="openvino")
    *said, ended = run.said.splitlines()
    assert ended == "['3'] 10", run
    assert set(said) == {
        "engine: expected the process that loaded the bundle, or one that openvino can run in, got a fork of it. Load "
        "the bundle in the worker, after the fork."
    }


def test_usage_data_are_not_sent(tmp_path: Path) -> None:
    script = "import rrise.runtime.engines.onnxruntime, os, json; print(json.dumps(len(os.listdir('/proc/self/task'))))"
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in Linux's /proc")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    with Run(
        [sys.executable, "-c", script], env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ) as run:
        assert run.status() == 0, run
        assert json.loads(run.said) == 1


LOCKED = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from rrise.audit.budget import Budget
from rrise.runtime.locks import ProcessLock
lock, held = ProcessLock(), threading.Event()
def hold():
    with lock:
        held.set()
        time.sleep(600)
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    with lock:
        sys.exit(7)
for _ in range(1500):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        print(os.waitstatus_to_exitcode(status), flush=True)
        break
    time.sleep(0.02)
else:
    os.kill(child, 9)
os._exit(0)
"""


def test_a_lock_that_was_held_at_the_fork_is_open_in_the_child() -> None:
    with Run([sys.executable, "-c", LOCKED]) as run:
        assert run.status() == 0, run
        assert run.said == "7\n"


def test_no_lock_of_what_serves_is_closed_in_a_child() -> None:
    """A plain threading.Lock would be, if a thread of the parent's held it."""
    package = Path(__file__).parents[1] / "rrise"
    files = [*package.glob("audit/*.py"), *package.glob("runtime/*.py"), package / "stages" / "service.py"]
    plain = [file.name for file in files if "threading.Lock()" in file.read_text() and file.name != "locks.py"]
    assert plain == []
