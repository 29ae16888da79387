"""Ray beside one process: throughput, start-up, recovery after a kill, and the driver's memory over many shards.

Usage: python benchmarks/distributed.py [--rounds 3] [--workers 2] [--tiny 10000] [--only throughput]

throughput  evaluations a second of W workers of one thread each, over those of one process with W threads (what
            `rrise sample` does without Ray), on the same shards, taking turns; between the first and the last shard,
            so without start-up. Printed: the ratio of each round and their median.
start-up    seconds from the call to the first shard's beginning, on a Ray that the call starts itself.
recovery    seconds from SIGKILL of a worker to the driver's notice, and to its return, ready.
memory      resident MiB of the driver after 10%, 50% and 100% of many tiny shards, and its time a shard.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from rrise import stages
from rrise.images import DataConfig, Splits
from rrise.stages.build import manifest_of
from rrise.stages.workers import WorkerSpec, local_network
from rrise.targets.filling import fill_store
from rrise.targets.ray_session import quieten
from rrise.targets.settings import ExecutionConfig, SampleConfig
from rrise.targets.store import CountStore
from rrise.training.networks import NetworkSpec, build_network, save_network

quieten("")
from rrise.targets.distributed import fill_store_over_ray  # noqa: E402  # Ray reads its environment when imported

NETWORKS = {
    "digits-convmixer": (
        "timm.models.convmixer:ConvMixer",
        {"dim": 48, "depth": 4, "kernel_size": 3, "patch_size": 2},
        (8, 8, 1),
        SampleConfig(n=1000, shard_size=50),
        1500,
    ),
    "cifar-resnet18": ("resnet18", {}, (32, 32, 3), SampleConfig(n=250, shard_size=10), 240),
}


class Setup:
    """A classifier (random weights: they cost the same) and images in a folder."""

    def __init__(self, room: Path, name: str, images: int | None = None, config: SampleConfig | None = None) -> None:
        network, options, shape, sampling, count = NETWORKS[name]
        self.room, self.name, self.sampling = room, name, config or sampling
        total = (images or count) + 2
        pixels = np.random.default_rng(0).integers(0, 256, (total, *shape), dtype=np.uint8)
        np.savez(room / "images.npz", x=pixels.squeeze(-1) if shape[-1] == 1 else pixels, y=np.arange(total) % 10)
        data = DataConfig(str(room / "images.npz"), train=total - 2, calibration=1, test=1)
        self.splits: Splits = stages.load_splits(data)
        channels = shape[-1]
        spec = NetworkSpec(network, options, 10, (channels, *shape[:2]), (0.5,) * channels, (0.25,) * channels)
        save_network(room / "classifier", spec, build_network(spec), self.splits.train.ids[:0])
        self.network = local_network(room / "classifier")
        self.manifest = manifest_of(self.splits.train, self.sampling, self.network, stream=0)

    def run(self, out: Path, execution: ExecutionConfig) -> list[dict[str, object]]:
        """Fill a store and return the lines of its log."""
        store = CountStore.open(out, self.manifest)
        log = out.with_suffix(".jsonl")
        spec = WorkerSpec.of(self.splits, "train", self.sampling, execution, self.room / "classifier", self.manifest)
        if execution.executor == "ray":
            fill_store_over_ray(store, self.splits.train, spec, execution, log=log)
        else:
            fill_store(store, spec.evaluator(self.network, self.splits.train), log=log)
        return [json.loads(line) for line in log.read_text().splitlines()]


def seconds(row: dict[str, object]) -> float:
    return datetime.fromisoformat(str(row["time"])).timestamp()


def speed(rows: list[dict[str, object]], workers: int) -> float:
    """Return evaluations a second while all workers are busy: from the first shards done to the last that begin."""
    done = [row for row in rows if row["event"] == "shard"]
    first, last = done[workers - 1], done[-workers]
    return (int(str(last["evaluations"])) - int(str(first["evaluations"]))) / (seconds(last) - seconds(first))


def throughput(rounds: int, workers: int) -> None:
    for name in NETWORKS:
        ratios, starts = [], []
        with tempfile.TemporaryDirectory() as folder:
            setup = Setup(Path(folder), name)
            for turn in range(rounds):
                found = {}
                for executor in ("local", "ray") if turn % 2 == 0 else ("ray", "local"):
                    ray = executor == "ray"
                    execution = ExecutionConfig(executor, workers=workers if ray else 0, threads=0 if ray else workers)
                    rows = setup.run(Path(folder) / f"{executor}-{turn}", execution)
                    found[executor] = speed(rows, workers if ray else 1)
                    if ray:
                        ready = next(row for row in rows if row["event"] == "worker")
                        starts.append(seconds(ready) - seconds(rows[0]))
                ratios.append(found["ray"] / found["local"])
                print(
                    f"{name}: Ray, {workers} workers of 1 thread {found['ray']:,.0f} evaluations/s; one process of "
                    f"{workers} threads {found['local']:,.0f}; ratio {ratios[-1]:.2f}",
                    flush=True,
                )
        print(
            f"{name}: median ratio {statistics.median(ratios):.2f}; start-up {min(starts):.1f} to {max(starts):.1f} s"
        )


def recovery() -> None:
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), "digits-convmixer", images=2400)
        killed: list[float] = []

        def kill() -> None:
            while not killed:
                time.sleep(0.2)
                found = list((Path(folder) / "out").glob("shard-*"))
                if len(found) > 10:
                    for entry in Path("/proc").iterdir():
                        if entry.name.isdigit() and _title(entry).startswith("ray::ShardActor"):
                            os.kill(int(entry.name), signal.SIGKILL)
                            killed.append(time.time())
                            return

        thread = threading.Thread(target=kill)
        thread.start()
        rows = setup.run(Path(folder) / "out", ExecutionConfig("ray", workers=2))
        thread.join()
        notice = next(row for row in rows if row["event"] == "failure")
        back = next(row for row in rows[rows.index(notice) :] if row["event"] == "worker" and row["ready"] == 2)
        print(
            f"recovery: a killed worker is noticed after {seconds(notice) - killed[0]:.1f} s and back after "
            f"{seconds(back) - killed[0]:.1f} s; the other one went on meanwhile"
        )


def _title(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


def memory(tiny: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), "digits-convmixer", images=tiny, config=SampleConfig(n=2, shard_size=1))
        resident: dict[int, float] = {}
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                done = sum(1 for _ in (Path(folder) / "out").glob("shard-*"))
                resident[done] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

        thread = threading.Thread(target=watch)
        thread.start()
        rows = setup.run(Path(folder) / "out", ExecutionConfig("ray", workers=2))
        over.set()
        thread.join()
        done = [row for row in rows if row["event"] == "shard"]
        each = (seconds(done[-1]) - seconds(done[0])) / len(done)
        at = {share: min(resident, key=lambda shards: abs(shards - share * tiny)) for share in (0.1, 0.5, 1.0)}
        shown = ", ".join(f"{resident[shards]:.0f} MiB after {shards:,}" for shards in at.values())
        print(f"memory of the driver, {tiny:,} tiny shards: {shown}; {1000 * each:.1f} ms a shard in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tiny", type=int, default=10_000)
    parser.add_argument("--only", choices=("throughput", "recovery", "memory"))
    arguments = parser.parse_args()
    if arguments.only in (None, "throughput"):
        throughput(arguments.rounds, arguments.workers)
    if arguments.only in (None, "recovery"):
        recovery()
    if arguments.only in (None, "memory"):
        memory(arguments.tiny)


if __name__ == "__main__":
    main()
