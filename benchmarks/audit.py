"""How soon an audit finds a broken promise, how rarely it cries wolf, and what it costs the caller.

python benchmarks/audit.py [--only delays|alarms|drift|cost]

Delays are counted in audited inputs; at a share `rate` of inputs, divide by it. The cost is the time of a call of an
Auditor beside that of its Certifier, taken in turns on one thread, for a small perceptron: the cheapest engine, so the
largest share, and a convolutional engine. "idle": the background thread counts, bets and saves, but evaluates nothing,
as where a GPU or another machine does; "busy": torch evaluates a small network in that thread 1,000 times an audit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from certifier import build

from rrise.audit.auditor import Auditor
from rrise.audit.bets import grow, worth
from rrise.audit.drift import DRIFT_BETS, Drift, cells, densities
from rrise.audit.eprocess import BETS, factors
from rrise.runtime import Certifier

ALPHA = 0.01
LONGEST = 10_000


def found_after(
    rng: np.random.Generator, capital: np.ndarray, begun: int, bets: np.ndarray, rate: float, grows: bool = True
) -> np.ndarray:
    """Return the audits until the alarm of each stream, LONGEST if there is none, from a moment on."""
    delay = np.full(len(capital), LONGEST)
    for step in range(LONGEST):
        x = (rng.random(len(capital)) < rate).astype(int)
        if grows:
            capital = grow(capital, begun + step, bets[x])
            value = worth(capital, begun + step + 1)
        else:
            capital = np.clip(capital * bets[x], 1e-300, 1e300)
            value = capital.mean(axis=1)
        delay[(value >= 1 / ALPHA) & (delay == LONGEST)] = step + 1
        if (delay < LONGEST).all():
            break
    return delay


def shown(delay: float) -> str:
    return f"{delay:,.0f}" if delay < LONGEST else f"> {LONGEST:,}"


def delays(streams: int = 400) -> None:
    print(
        f"audits until the alarm (alpha = {ALPHA}), {streams} streams: quantiles 10%, 50%, 90%; 'one start': median of"
    )
    print("the same mixture of bets without later starts\n")
    print("| promised m | refuted before | good audits before | refuted after | 10% | 50% | 90% | one start |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for m in (0.055, 0.011):
        bets = factors(m)
        for before in (0, 1_000, 10_000):
            rng = np.random.default_rng(before)
            capital, single = np.zeros((streams, BETS)), np.ones((streams, BETS))
            for step in range(before):
                x = (rng.random(streams) < m / 10).astype(int)
                capital = grow(capital, step, bets[x])
                single = np.clip(single * bets[x], 1e-300, 1e300)
            for times in (2, 3, 5):
                low, middle, high = np.quantile(
                    found_after(rng, capital, before, bets, times * m), [0.1, 0.5, 0.9]
                ).tolist()
                alone = float(np.median(found_after(rng, single, before, bets, times * m, grows=False)))
                print(
                    f"| {m} | {m / 10:.4f} | {before:,} | {times} m = {times * m:.3f} | {shown(low)} | {shown(middle)} "
                    f"| {shown(high)} | {shown(alone)} |"
                )


def alarms(streams: int = 4_000, steps: int = 10_000) -> None:
    print(f"\nfalse alarms in {steps:,} audits refuted at exactly the promised rate, {streams:,} streams\n")
    print("| promised m | alpha = 0.1 | 0.05 | 0.01 |\n| ---: | ---: | ---: | ---: |")
    for m in (0.275, 0.055, 0.011):
        rng, bets = np.random.default_rng(7), factors(m)
        capital, largest = np.zeros((streams, BETS)), np.ones(streams)
        for step in range(steps):
            capital = grow(capital, step, bets[(rng.random(streams) < m).astype(int)])
            largest = np.maximum(largest, worth(capital, step + 1))
        shares = " | ".join(f"{100 * (largest >= 1 / alpha).mean():.2f}%" for alpha in (0.1, 0.05, 0.01))
        print(f"| {m} | {shares} |")


def drift(streams: int = 60) -> None:
    print(f"\naudits until the drift alarm (alpha = {ALPHA}), {streams} streams, logit(q) ~ N(2, 1.5) before\n")
    print("| logit(q) after | inputs before | 10% | 50% | 90% |\n| --- | ---: | ---: | ---: | ---: |")
    for before in (300, 3_000):
        for shift, spread in ((-0.5, 1.5), (-1.0, 1.5), (-2.0, 1.5), (0.0, 2.5)):
            found = []
            for stream in range(streams):
                rng = np.random.default_rng(stream)
                z = np.r_[rng.normal(2, 1.5, before), rng.normal(2 + shift, spread, 3000)]
                uniform = rng.random(len(z))
                counts, capital, alarm = Drift.begin().counts.copy(), np.zeros(DRIFT_BETS), 3000
                for step, cell in enumerate(cells(1 / (1 + np.exp(-z))).tolist()):
                    counts[cell] += 1
                    p = (counts[:cell].sum() + uniform[step] * counts[cell]) / (step + 1)
                    capital = grow(capital, step, densities(p))
                    if step >= before and worth(capital, step + 1) >= 1 / ALPHA:
                        alarm = step - before + 1
                        break
                found.append(alarm)
            low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
            print(f"| N({2 + shift:g}, {spread:g}) | {before:,} | {low:,.0f} | {middle:,.0f} | {high:,.0f} |")


def busy_torch(channels: int, side: int) -> Callable[[np.ndarray, int, int], np.ndarray]:
    import torch

    from rrise.stages.monte_carlo import NoisyImages
    from rrise.stages.service import ClassifierCounts

    layers = [torch.nn.Conv2d(channels, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(32 * side * side, 10)).eval()
    empty = np.empty((0, 1, 1), np.uint8), np.empty(0, np.uint64)
    return ClassifierCounts(NoisyImages(network, *empty, sigma=0.5, seed=1, batch=250, threads=1))


def idle(image: np.ndarray, n: int, name: int) -> np.ndarray:
    return np.array([n] + [0] * 9)


def cost(rounds: int = 150, calls: int = 100) -> None:
    print(
        "\none call of one image, microseconds; the certifier's while nothing is audited, in turns with the auditor's\n"
    )
    print("| engine | audit | certifier p50 | auditor p50 | ratio | certifier p99 | auditor p99 | audited |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for kind, shape in (("perceptron", (8, 8, 1)), ("convolutional", (32, 32, 3))):
            bundle = build(Path(folder), kind)
            image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            busy = busy_torch(shape[2], shape[0])
            for name, evaluate, rate in (
                ("none due", idle, 1e-12),
                ("idle, rate 0.001", idle, 0.001),
                ("idle, rate 0.01", idle, 0.01),
                ("busy, rate 0.01", busy, 0.01),
            ):
                certifier, state = Certifier.load(bundle), Path(folder) / f"{kind} {name}.json"
                auditor = Auditor(certifier, evaluate, rate=rate, n=1000, seed=0, state=state)
                times: dict[str, list[float]] = {"certifier": [], "auditor": []}
                for _ in range(rounds):
                    auditor.flush()
                    for who, call in (("certifier", certifier), ("auditor", auditor)):
                        call(image)
                        for _ in range(calls):
                            start = time.perf_counter()
                            call(image)
                            times[who].append(time.perf_counter() - start)
                auditor.close()
                (p50, p99), (p50_audited, p99_audited) = (
                    1e6 * np.percentile(times[who], [50, 99]) for who in ("certifier", "auditor")
                )
                print(
                    f"| {kind} | {name} | {p50:.1f} | {p50_audited:.1f} | {p50_audited / p50:.3f} | {p99:.0f} | "
                    f"{p99_audited:.0f} | {auditor.status.audited:,} |"
                )


def main() -> None:
    parts = {"delays": delays, "alarms": alarms, "drift": drift, "cost": cost}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(parts), help="one part")
    only = parser.parse_args().only
    for name, part in parts.items():
        if only in (None, name):
            part()


if __name__ == "__main__":
    main()
