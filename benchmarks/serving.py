"""What a device sees of a bundle: cold start, latency under steady load and beside a busy neighbour, memory over time.

python benchmarks/serving.py [BUNDLE] [--calls 1000000]

Without a bundle it takes the small convolutional network of benchmarks/certifier.py (untrained: the times are what
matters). Latencies are of one 8-bit image a call on one thread, the `Certifier` and the bare ONNX Runtime call by
turns; "paced" calls come at 60 a second, as a camera's frames do, so caches and clocks have gone cold in between.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from certifier import build

from rrise.runtime import Certifier, prepare_images

COLD = """
import json, sys, time
start = time.perf_counter()
from rrise import Certifier
import numpy as np
imported = time.perf_counter()
certifier = Certifier.load(sys.argv[1])
loaded = time.perf_counter()
certifier(np.zeros((*certifier.input_shape[1:], certifier.input_shape[0]), np.uint8))
done = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"import": imported - start, "load": loaded - imported, "first call": done - loaded,
                  "MiB": int(status["VmRSS"].split()[0]) / 1024, "torch": "torch" in sys.modules}))
"""
NEIGHBOUR = "import numpy as np\na = np.random.rand(400, 400)\nprint('busy', flush=True)\nwhile True: a @ a"


def resident_mib() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


def cold_start(bundle: Path) -> None:
    runs = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", COLD, str(bundle)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    middle = sorted(runs, key=lambda run: run["import"] + run["load"])[2]
    assert not middle["torch"]
    print(
        f"cold start (median of 5): import {middle['import']:.3f} s + load {middle['load']:.3f} s, first call "
        f"{middle['first call'] * 1e3:.2f} ms, {middle['MiB']:.0f} MiB resident, no torch"
    )


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep one other process busy with matrix products on one thread."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    busy = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, env=environment)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        yield
    finally:
        busy.kill()
        busy.wait()


def latencies(calls: dict[str, Callable[[], object]], count: int, pause_s: float) -> dict[str, list[float]]:
    """Microseconds of each call of every kind, by turns, a pause before each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            if pause_s:
                time.sleep(pause_s)
            start = time.perf_counter_ns()
            call()
            times[name].append((time.perf_counter_ns() - start) / 1e3)
    return times


def show(title: str, times: dict[str, list[float]]) -> None:
    bare = np.median(times["bare engine"])
    for name, taken in times.items():
        p50, p99, p999 = np.quantile(taken, (0.5, 0.99, 0.999))
        extra = "" if name == "bare engine" else f"   +{p50 - bare:.1f} us, {p50 / bare:.3f} of the bare engine"
        print(f"{title:<28}{name:<14}p50 {p50:8.1f}   p99 {p99:8.1f}   p99.9 {p999:8.1f} us{extra}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle folder (default: an untrained network)")
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls over which memory is watched")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or build(Path(folder), "convolutional")
        cold_start(bundle)
        certifier = Certifier.load(bundle)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        data = (bundle / certifier.bundle.engine.file).read_bytes()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        channels, height, width = certifier.input_shape
        image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
        feed = {session.get_inputs()[0].name: prepare_images(image, certifier.input_shape)}
        wanted = [session.get_outputs()[0].name]
        calls: dict[str, Callable[[], object]] = {
            "bare engine": lambda: session.run(wanted, feed),
            "Certifier": lambda: certifier(image),
        }
        for call in calls.values():
            call()
        show("back to back", latencies(calls, 20_000, 0))
        show("paced, 60 a second", latencies(calls, 1_000, 1 / 60))
        with neighbour():
            show("back to back, neighbour", latencies(calls, 20_000, 0))
            show("paced, neighbour", latencies(calls, 1_000, 1 / 60))
        start, before = time.perf_counter(), resident_mib()
        marks = []
        for tenth in range(10):
            for _ in range(arguments.calls // 10):
                certifier(image)
            marks.append(resident_mib())
            if tenth == 0:
                first = marks[0]
        print(
            f"memory over {arguments.calls:,} calls: {before:.1f} MiB before, {first:.1f} after a tenth, "
            f"{marks[-1]:.1f} at the end ({(time.perf_counter() - start) / arguments.calls * 1e6:.1f} us a call)"
        )


if __name__ == "__main__":
    main()
