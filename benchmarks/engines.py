"""Engines and precisions against each other on the paper's four networks: one image a call, one thread, by turns.

python benchmarks/engines.py [--only MLP-Mixer] [--threads 1]

The networks are untrained, so nothing is said of accuracy: `rrise engines` says what a precision costs a trained one.
Where TensorRT-RTX is installed, the time it takes to build each plan is printed too; running one needs its GPU.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from networks import NETWORKS

from rrise.evaluation.latency import times_by_turns
from rrise.runtime.engines import EngineOptions
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.runtime.engines.tensorrt_build import PlanConfig, build_plan
from rrise.training.networks import NetworkSpec, build_network
from rrise.training.onnx_graphs import HalfPrecision, onnx_bytes
from rrise.training.quantisation import quantise

PRECISIONS = ("float32", "float16", "int8")


def graphs(spec: NetworkSpec, *, signed: bool) -> dict[str, bytes]:
    """Return the network as ONNX in three precisions; int8's scales come from random images."""
    module = build_network(spec)
    found = {
        "float32": onnx_bytes(module, spec.input_shape, 20),
        "float16": onnx_bytes(HalfPrecision(module).eval(), spec.input_shape, 20),
    }
    images = np.random.default_rng(0).random((16, *spec.input_shape), dtype=np.float32)
    return found | {"int8": quantise(found["float32"], images, signed=signed)}


def build_times(name: str, onnx: dict[str, bytes], spec: NetworkSpec) -> None:
    for precision, data in onnx.items():
        start = time.perf_counter()
        try:
            plan = build_plan("tensorrt-rtx", data, input_shape=spec.input_shape, config=PlanConfig())
        except ImportError:
            return
        print(
            f"{name:<24} {'tensorrt-rtx':<12} {precision:<8} built in {time.perf_counter() - start:5.1f} s, "
            f"{len(plan.data) / 1e6:6.1f} MB; not run: no GPU",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="threads of every engine")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each engine is timed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = EngineOptions(threads=arguments.threads)
    for name, spec in NETWORKS.items():
        if arguments.only not in name:
            continue
        onnx = graphs(spec, signed=False)
        image = np.random.default_rng(1).random((1, *spec.input_shape), dtype=np.float32)
        opened = {
            (kind, precision): open_engine_bytes(onnx[precision], kind, precision=precision, options=options)
            for kind in ("onnxruntime", "openvino")
            for precision in PRECISIONS
        }
        runs = [lambda _, engine=engine, image=image: engine(image) for engine in opened.values()]
        slowest = max(times_by_turns([run], images=1, repeats=3)[0][-1] for run in runs) / 1e9
        repeats = max(20, int(arguments.seconds / slowest))
        times = [np.quantile(taken, (0.5, 0.99)) / 1e6 for taken in times_by_turns(runs, images=1, repeats=repeats)]
        base = times[0][0]
        for (kind, precision), (p50, p99) in zip(opened, times, strict=True):
            print(
                f"{name:<24} {kind:<12} {precision:<8} p50 {p50:7.3f} ms   p99 {p99:7.3f} ms   {base / p50:5.2f} x",
                flush=True,
            )
        build_times(name, graphs(spec, signed=True), spec)


if __name__ == "__main__":
    main()
