"""One certificate by a single pass, beside one by Monte Carlo, of the same network on the same threads.

python benchmarks/single_pass.py [--n 10000] [--rounds 3] [--threads 1]

ResNet-18 with a CIFAR stem on 32x32 colour images. Monte Carlo is `rrise`'s own (100 draws pick the class, n others
bound it) in torch, at the batch of 250 that `rrise sample` uses; beside it stands the same number of forward passes by
ONNX Runtime, which is the faster of the two on some machines. The single pass is `Certifier` on one 8-bit image. The
network is untrained: what it costs does not depend on its weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from certifier import bundle_of
from networks import NETWORKS

from rrise.evaluation.baselines import cohen_certify
from rrise.runtime import Certifier, EngineOptions, prepare_images
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.targets.noise import ESTIMATION, SELECTION
from rrise.targets.sampling import sample_counts
from rrise.training.networks import build_network
from rrise.training.onnx_graphs import onnx_bytes

SIGMA, BATCH = 0.25, 250


def seconds(call: Callable[[], object], times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="noisy draws of a Monte Carlo certificate")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, by turns")
    parser.add_argument("--threads", type=int, default=1, help="threads of either")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = NETWORKS["ResNet-18, 3x32x32"]
    module = build_network(spec)
    onnx = onnx_bytes(module, spec.input_shape, 20)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    ids = np.array([1], np.uint64)

    def monte_carlo() -> object:
        selection, estimation = (
            sample_counts(
                module,
                image,
                ids,
                sigma=SIGMA,
                n=n,
                seed=0,
                sampler="grid",
                stream=stream,
                batch_size=BATCH,
                threads=arguments.threads,
            )
            for n, stream in ((100, SELECTION), (arguments.n, ESTIMATION))
        )
        return cohen_certify(selection, estimation, alpha=0.001, sigma=SIGMA)

    with tempfile.TemporaryDirectory() as folder:
        certifier = Certifier.load(bundle_of(Path(folder), onnx, spec.input_shape, 10), threads=arguments.threads)
        engine = open_engine_bytes(onnx, "onnxruntime", options=EngineOptions(threads=arguments.threads))
        passes = prepare_images(np.repeat(image, BATCH, axis=0), spec.input_shape)
        certifier(image)
        engine(passes)
        rows: list[tuple[float, float, float]] = []
        for index in range(arguments.rounds):
            single = seconds(lambda: certifier(image), 50)
            sampled = seconds(monte_carlo)
            bare = seconds(lambda: engine(passes), 4) / BATCH * (arguments.n + 100)
            rows.append((single, sampled, bare))
            print(
                f"round {index + 1}: single pass {single * 1e3:.2f} ms, Monte Carlo {sampled:.1f} s "
                f"({sampled / single:,.0f} x), {arguments.n + 100:,} passes by ONNX Runtime {bare:.1f} s "
                f"({bare / single:,.0f} x)",
                flush=True,
            )
    ratios = [statistics.median(row[column] / row[0] for row in rows) for column in (1, 2)]
    print(
        f"ResNet-18 at 32x32, {arguments.threads} thread(s), n = {arguments.n:,}, medians of {arguments.rounds}: a "
        f"single pass is {ratios[0]:,.0f} times as fast as Monte Carlo, {ratios[1]:,.0f} times as fast as the forward "
        "passes alone by ONNX Runtime"
    )


if __name__ == "__main__":
    main()
