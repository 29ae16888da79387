"""Sampling on many workers, simulated: the real scheduler driven by made-up workers that are slow, die, or lose nodes.

Usage: python benchmarks/scale.py [--images 1280000] [--n 10000] [--speed 5000] [--workers 1 8 64 512]
           [--shard-seconds 5 30 60 300] [--seeds 3] [--write-ms 5] [--worker-hours 200] [--node-hours 500]
       python benchmarks/scale.py --measure [--classes 1000]

Only the workers are simulated; which of them gets which shard is decided by `rrise.targets.scheduling.Scheduler`,
driven as `rrise/targets/distributed.py` drives it. --speed, evaluations a second of one GPU, is an assumption:
replace it by what `rrise sample --plan` measures. Assumed besides: workers are ready within 120 s of the start; a
shard takes its time times a lognormal factor (sigma 0.05); one in a hundred takes 5 times as long; one worker in
fifty is half as fast throughout; a worker dies every --worker-hours and is back after 60 s; a node of 8 workers is
lost (or preempted) every --node-hours and replaced after 600 s; the driver does one thing at a time and needs
--write-ms a shard, during which workers that have finished wait.

Printed: hours if nothing went wrong, simulated hours (median and worst of the seeds), GPU hours, the share of
evaluations that were computed and not kept (copies, lost work), the share of the workers' time spent computing, and
the median hours without copies of stragglers.

--measure times what the driver does with a finished shard, on this machine's disk, and prints the bytes that counts
take there; the counts are made up.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rrise.images.image_set import ImageSet
from rrise.targets.evaluator import shard_table
from rrise.targets.manifest import Manifest
from rrise.targets.scheduling import Limits, Scheduler
from rrise.targets.store import CountStore

NODE = 8
POLL = 1.0
"""Seconds between two looks of an idle driver, as in distributed.py."""


@dataclass(frozen=True)
class World:
    """What goes wrong, and how long things take: times in seconds."""

    start: float = 120.0
    spread: float = 0.05
    straggling: float = 0.01
    straggler: float = 5.0
    slow_workers: float = 0.02
    slowness: float = 2.0
    worker_life: float = 200 * 3600.0
    worker_back: float = 60.0
    node_life: float = 500 * 3600.0
    node_back: float = 600.0
    write: float = 0.005


CALM = World(0.0, 0.0, 0.0, 1.0, 0.0, 1.0, np.inf, 0.0, np.inf, 0.0, 0.0)


@dataclass(frozen=True)
class Outcome:
    """Seconds until all shards are written, seconds of work done, and of those the ones that were kept."""

    seconds: float
    worked: float
    kept: float
    finished: int


class Simulation:
    """One run: ``shards`` of ``each`` seconds on that many workers. Deterministic given the seed."""

    def __init__(
        self, shards: int, each: float, workers: int, world: World, seed: int, limits: Limits | None = None
    ) -> None:
        self.each, self.workers, self.world = each, workers, world
        self.scheduler: Scheduler[int] = Scheduler(range(shards), limits)
        self.draw = np.random.default_rng(seed)
        self.pace = np.where(self.draw.random(workers) < world.slow_workers, world.slowness, 1.0)
        self.events: list[tuple[float, int, str, int, int]] = []  # time, order, kind, worker or node, life
        self.order = 0
        self.lives = [0] * workers  # an event of an earlier life is void
        self.begun: dict[int, tuple[float, float]] = {}  # worker -> when its shard began, how long it takes
        self.idle: set[int] = set()
        self.now = self.worked = self.kept = 0.0
        self.finished = 0

    def run(self) -> Outcome:
        """Return what becomes of the shards."""
        for worker in range(self.workers):
            self._after(self.world.start * self.draw.random(), "ready", worker)
            self._after(self._lifetime(self.world.worker_life), "dies", worker)
        for node in range(-(-self.workers // NODE)):
            self._after(self._lifetime(self.world.node_life), "lost", node)
        self._after(POLL, "poll", 0)
        driver = 0.0  # until when it is busy
        while not self.scheduler.over:
            happens, _, kind, who, life = heapq.heappop(self.events)
            self.now = max(happens, driver)
            if self._happens(kind, who, life):
                driver = self.now + self.world.write
        copies = sum(self._spent(worker) for worker in self.begun if self.scheduler.busy(worker))
        return Outcome(max(self.now, driver), self.worked + copies, self.kept, self.finished)

    def _happens(self, kind: str, who: int, life: int) -> bool:
        """Do what the driver does then, and return whether it writes a shard after that."""
        world = self.world
        if kind == "done" and life == self.lives[who]:
            return self._done(who)
        if kind == "ready" and life == self.lives[who]:
            self._assign(who)
        elif kind == "dies":
            self._lose(who, world.worker_back, forgiven=False)
            self._after(self._lifetime(world.worker_life), "dies", who)
        elif kind == "lost":
            for worker in range(who * NODE, min(self.workers, (who + 1) * NODE)):
                self._lose(worker, world.node_back, forgiven=True)
            self._after(self._lifetime(world.node_life), "lost", who)
        elif kind == "poll":
            for worker in sorted(self.idle):
                self._assign(worker)
            for worker in self.scheduler.stuck(self.now):
                self._lose(worker, world.worker_back, forgiven=False)
            self._after(POLL if self.idle else 10 * POLL, "poll", 0)
        return False

    def _done(self, worker: int) -> bool:
        self.worked += self.begun[worker][1]
        kept = self.scheduler.finished(worker, self.now) is not None
        if kept:
            self.kept += self.begun[worker][1]
            self.finished += 1
        self._assign(worker)
        return kept

    def _assign(self, worker: int) -> None:
        self.idle.add(worker)
        if self.scheduler.next(worker, self.now) is None:
            return
        self.idle.discard(worker)
        takes = self.each * float(np.exp(self.world.spread * self.draw.standard_normal()) * self.pace[worker])
        if self.draw.random() < self.world.straggling:
            takes *= self.world.straggler
        self.begun[worker] = self.now, takes
        self._after(takes, "done", worker, self.lives[worker])

    def _lose(self, worker: int, back: float, *, forgiven: bool) -> None:
        self.lives[worker] += 1
        self.idle.discard(worker)
        if self.scheduler.busy(worker):
            self.worked += self._spent(worker)
            shard = self.scheduler.failed(worker, "lost")
            if forgiven:
                self.scheduler.forgive(shard)
        self._after(back, "ready", worker, self.lives[worker])

    def _spent(self, worker: int) -> float:
        start, takes = self.begun[worker]
        return min(takes, self.now - start)

    def _after(self, delay: float, kind: str, who: int, life: int = 0) -> None:
        if delay < np.inf:
            self.order += 1
            heapq.heappush(self.events, (self.now + delay, self.order, kind, who, life))

    def _lifetime(self, mean: float) -> float:
        return float(self.draw.exponential(mean)) if mean < np.inf else np.inf


def simulate(shards: int, each: float, workers: int, world: World, seed: int, limits: Limits | None = None) -> Outcome:
    """Return what becomes of shards of ``each`` seconds on that many workers."""
    return Simulation(shards, each, workers, world, seed, limits).run()


def made_up_counts(draw: np.random.Generator, images: int, n: int, classes: int) -> np.ndarray:
    """Return uint32[images, classes]: a top class with any share from 0.2 to 1, the others by a power law."""
    share = draw.uniform(0.2, 1.0, (images, 1))
    others = np.arange(1.0, classes) ** -2.0
    shares = np.hstack([share, (1 - share) * others / others.sum()])
    return draw.permuted(draw.multinomial(n, shares), axis=1).astype(np.uint32)


def measure(n: int, classes: int, sizes: tuple[int, ...] = (2, 30, 150, 1000)) -> None:
    """Print, for several shard sizes, the driver's time a shard and the bytes of counts an image."""
    draw = np.random.default_rng(0)
    for size in sizes:
        shards = 20
        ids = draw.choice(2**56, size * shards, replace=False).astype(np.uint64)
        labels = draw.integers(0, classes, size * shards)
        names = tuple(map(str, range(classes)))
        images = ImageSet(ids, np.zeros((size * shards, 1, 1, 3), np.uint8), labels, names)
        facts = Manifest(
            0.5, n, 0, 0, "grid", 250, "cuda", classes, "0" * 64, "0" * 64, size * shards, size, versions={}
        )
        counts = [made_up_counts(draw, size, n, classes) for _ in range(shards)]
        with tempfile.TemporaryDirectory() as room:
            store, taken = CountStore.open(Path(room) / "counts", facts), []
            for shard in range(shards):
                began = time.perf_counter()
                store.write(shard, shard_table(images, facts, shard, counts[shard]))
                taken.append(time.perf_counter() - began)
            written = sum(file.stat().st_size for file in (Path(room) / "counts").glob("shard-*"))
        found = np.mean([np.count_nonzero(rows, axis=1).mean() for rows in counts])
        print(
            f"{size:>5} images a shard: {statistics.median(taken) * 1000:.1f} ms, worst {max(taken) * 1000:.1f} ms; "
            f"{written / shards / size:,.0f} bytes an image, {found:.0f} of {classes} counts not 0"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--speed", type=float, default=5_000.0, help="evaluations a second of one GPU: an assumption")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--shard-seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write-ms", type=float, default=5.0, help="the driver's time a shard")
    parser.add_argument("--worker-hours", type=float, default=200.0, help="mean time until a worker dies")
    parser.add_argument("--node-hours", type=float, default=500.0, help="mean time until a node of 8 is lost")
    parser.add_argument("--measure", action="store_true", help="measure the driver's time and the bytes of counts")
    parser.add_argument("--classes", type=int, default=1000, help="--measure: classes")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.n, arguments.classes)
        return
    evaluations = arguments.images * arguments.n
    print(f"{evaluations:.3g} evaluations at {arguments.speed:,.0f} a second and GPU (assumed)")
    head = ("shard", "shards", "GPUs", "ideal h", "hours", "worst", "GPU-hours", "not kept", "computing", "no copies")
    print("{:>7} {:>9} {:>5} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9}".format(*head))
    world = replace(
        World(),
        write=arguments.write_ms / 1000,
        worker_life=3600 * arguments.worker_hours,
        node_life=3600 * arguments.node_hours,
    )
    for wanted in arguments.shard_seconds:
        images = max(1, round(wanted * arguments.speed / arguments.n))
        shards, each = -(-arguments.images // images), images * arguments.n / arguments.speed
        for workers in arguments.workers:
            runs = [
                [simulate(shards, each, workers, world, seed, Limits(copies=copies)) for seed in range(arguments.seeds)]
                for copies in (Limits.copies, 1)
            ]
            hours, alone = ([outcome.seconds / 3600 for outcome in outcomes] for outcomes in runs)
            lost = statistics.median(1 - outcome.kept / outcome.worked for outcome in runs[0])
            used = statistics.median(outcome.worked / outcome.seconds / workers for outcome in runs[0])
            print(
                f"{each:>6.0f}s {shards:>9,} {workers:>5} {shards * each / workers / 3600:>9,.2f} "
                f"{statistics.median(hours):>9,.2f} {max(hours):>9,.2f} {statistics.median(hours) * workers:>10,.0f} "
                f"{lost:>9.2%} {used:>9.1%} {statistics.median(alone):>9,.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
