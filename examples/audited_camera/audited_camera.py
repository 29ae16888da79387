"""Certify a stream of frames, audit a random share of the certificates, back abstentions by Monte Carlo.

    python audited_camera.py BUNDLE CLASSIFIER FRAMES [--rate 0.1] [--state audit.json] [--budget 20000] [--dim 0.3]

CLASSIFIER is the base classifier that the bundle was calibrated on, a folder of `rrise train` or an ONNX file; it runs
by torch, for the audit in a background thread. FRAMES is a .npy array, uint8 (N, H, W) or (N, H, W, C), or a folder of
PNG files.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from rrise import Auditor, Certifier, Fallback
from rrise.audit.budget import Budget
from rrise.images import read_images
from rrise.stages.service import ClassifierCounts, MonteCarloCertifier, noisy_source


def main() -> None:
    """Serve all frames and print what answered them and what the audit found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--rate", type=float, default=0.1, help="share of frames that is audited")
    parser.add_argument("--n", type=int, default=500, help="noisy evaluations of an audit and of a fallback")
    parser.add_argument("--state", type=Path, help="file in which the audit's evidence survives a restart")
    parser.add_argument("--budget", type=int, default=20_000, help="noisy evaluations of the fallback a minute")
    parser.add_argument("--dim", type=float, default=1.0, help="light that is left in the second half of the frames")
    parser.add_argument("--metrics", type=Path, help="file for the counters in Prometheus' text format")
    arguments = parser.parse_args()

    certifier = Certifier.load(arguments.bundle)
    source = noisy_source(certifier.bundle, arguments.classifier)
    source_of = arguments.frames
    frames = np.load(source_of, mmap_mode="r") if source_of.suffix == ".npy" else read_images([source_of])[1]
    if frames.dtype != np.uint8:  # floats in [0, 1] would be black pictures
        raise SystemExit(f"frames: expected 8-bit pixels (uint8), got {frames.dtype}. Give what the camera gives.")
    monte_carlo = MonteCarloCertifier(source, n=arguments.n, adaptive=True, tolerance=0.05)
    evidence: Counter[str] = Counter()
    seconds = []
    with Auditor(
        certifier, ClassifierCounts(source), rate=arguments.rate, n=arguments.n, state=arguments.state
    ) as audit:
        fallback = Fallback(audit, monte_carlo, Budget(arguments.budget, 60))
        for number, frame in enumerate(frames):
            light = arguments.dim if number >= len(frames) / 2 else 1.0
            start = time.perf_counter()
            found = fallback((np.asarray(frame) * light).astype(np.uint8))
            if found.certificates.evaluations[0] == 0:
                seconds.append(time.perf_counter() - start)
            evidence.update(found.evidence.tolist())
    status = audit.status
    print(f"{len(frames)} frames: " + ", ".join(f"{count} by {who}" for who, count in sorted(evidence.items())))
    print(f"fallback: {', '.join(f'{count} {what}' for what, count in fallback.counts.items())}")
    if seconds:
        print(f"a single pass: p50 {1000 * np.median(seconds):.2f} ms")
    print(f"audit: {status.line}")
    if status.error:
        print(f"audit: {status.error}")
    print(fallback.statement)
    if arguments.metrics:
        arguments.metrics.write_text(audit.metrics(), encoding="utf-8")


if __name__ == "__main__":
    main()
