"""Sampling on many workers, simulated: the real scheduler driven by made-up workers that are slow, die, or lose nodes.

Usage: python benchmarks/scale.py [--images 1280000] [--n 10000] [--speed 5000] [--workers 1 8 64 512]
           [--shard-seconds 5 30 60 300] [--seeds 3] [--write-ms 5]

Only the workers are simulated; which of them gets which shard is decided by `rrise.targets.scheduling.Scheduler`,
driven as `rrise/targets/distributed.py` drives it. --speed, evaluations a second of one GPU, is an assumption:
replace it by what `rrise sample --plan` measures. Assumed besides: a shard takes its time times a lognormal factor
(sigma 0.05); one in a hundred takes 5 times as long; one worker in fifty is half as fast throughout; a worker dies
every 200 hours and is back after 60 s; a node of 8 workers is lost every 500 hours and replaced after 600 s; the
driver writes one shard after the other in --write-ms. Printed: hours if nothing went wrong, simulated hours (median
and worst of the seeds), GPU hours, the share of evaluations that were computed and not kept, and the median
hours without copies of stragglers.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
from dataclasses import dataclass

import numpy as np

from rrise.targets.scheduling import Limits, Scheduler

NODE = 8
POLL = 1.0
"""Seconds between two looks of an idle driver, as in distributed.py."""


@dataclass(frozen=True)
class World:
    """What goes wrong: times in seconds."""

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


CALM = World(0.0, 0.0, 1.0, 0.0, 1.0, np.inf, 0.0, np.inf, 0.0, 0.0)


@dataclass(frozen=True)
class Outcome:
    """Seconds until all shards are written, seconds of work done, and of those the ones that were kept."""

    seconds: float
    worked: float
    kept: float
    finished: int


def simulate(shards: int, each: float, workers: int, world: World, seed: int, limits: Limits | None = None) -> Outcome:
    """Return what becomes of shards of ``each`` seconds on that many workers."""
    draw = np.random.default_rng(seed)
    scheduler: Scheduler[int] = Scheduler(range(shards), limits)
    pace = np.where(draw.random(workers) < world.slow_workers, world.slowness, 1.0)
    events: list[tuple[float, int, str, int, int]] = []  # time, order, kind, worker or node, life
    lives = [0] * workers  # an event of an earlier life is void
    begun: dict[int, float] = {}
    idle: set[int] = set()
    now = worked = kept = writer = 0.0
    order = finished = 0

    def after(delay: float, kind: str, who: int, life: int = 0) -> None:
        nonlocal order
        if delay < np.inf:
            order += 1
            heapq.heappush(events, (now + delay, order, kind, who, life))

    def lifetime(mean: float) -> float:
        return float(draw.exponential(mean)) if mean < np.inf else np.inf

    def assign(worker: int) -> None:
        shard = scheduler.next(worker, now)
        if shard is None:
            idle.add(worker)
            return
        idle.discard(worker)
        begun[worker] = now
        factor = float(np.exp(world.spread * draw.standard_normal())) * pace[worker]
        if draw.random() < world.straggling:
            factor *= world.straggler
        after(each * factor, "done", worker, lives[worker])

    def lose(worker: int, back: float, forgiven: bool) -> None:
        nonlocal worked
        lives[worker] += 1
        idle.discard(worker)
        if scheduler.busy(worker):
            worked += now - begun[worker]
            shard = scheduler.failed(worker, "lost")
            if forgiven:
                scheduler.forgive(shard)
        after(back, "back", worker, lives[worker])

    for worker in range(workers):
        after(0.0, "back", worker, 0)
        after(lifetime(world.worker_life), "dies", worker)
    for node in range(-(-workers // NODE)):
        after(lifetime(world.node_life), "lost", node)
    after(POLL, "poll", 0)
    while not scheduler.over:
        now, _, kind, who, life = heapq.heappop(events)
        if kind == "done" and life == lives[who]:
            worked += now - begun[who]
            if scheduler.finished(who, now) is not None:
                kept += now - begun[who]
                finished += 1
                writer = max(writer, now) + world.write  # one after the other
            assign(who)
        elif kind == "back" and life == lives[who]:
            assign(who)
        elif kind == "dies":
            lose(who, world.worker_back, forgiven=False)
            after(lifetime(world.worker_life), "dies", who)
        elif kind == "lost":
            for worker in range(who * NODE, min(workers, (who + 1) * NODE)):
                lose(worker, world.node_back, forgiven=True)
            after(lifetime(world.node_life), "lost", who)
        elif kind == "poll":
            for worker in sorted(idle):
                assign(worker)
            for worker in scheduler.stuck(now):
                lose(worker, world.worker_back, forgiven=False)
            after(POLL if idle else 10 * POLL, "poll", 0)
    worked += sum(now - start for worker, start in begun.items() if scheduler.busy(worker))  # copies still running
    return Outcome(max(now, writer), worked, kept, finished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--speed", type=float, default=5_000.0, help="evaluations a second of one GPU: an assumption")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--shard-seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write-ms", type=float, default=5.0)
    arguments = parser.parse_args()
    evaluations = arguments.images * arguments.n
    print(f"{evaluations:.3g} evaluations at {arguments.speed:,.0f} a second and GPU (assumed)")
    head = ("shard", "shards", "GPUs", "ideal h", "hours", "worst", "GPU-hours", "not kept", "no copies")
    print("{:>7} {:>9} {:>5} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}".format(*head))
    for wanted in arguments.shard_seconds:
        images = max(1, round(wanted * arguments.speed / arguments.n))
        shards, each = -(-arguments.images // images), images * arguments.n / arguments.speed
        world = World(write=arguments.write_ms / 1000)
        for workers in arguments.workers:
            found = [simulate(shards, each, workers, world, seed) for seed in range(arguments.seeds)]
            alone = [simulate(shards, each, workers, world, seed, Limits(copies=1)) for seed in range(arguments.seeds)]
            without = statistics.median(outcome.seconds for outcome in alone) / 3600
            hours = [outcome.seconds / 3600 for outcome in found]
            lost = statistics.median(1 - outcome.kept / outcome.worked for outcome in found)
            print(
                f"{each:>6.0f}s {shards:>9,} {workers:>5} {shards * each / workers / 3600:>9,.2f} "
                f"{statistics.median(hours):>9,.2f} {max(hours):>9,.2f} {statistics.median(hours) * workers:>10,.0f} "
                f"{lost:>9.2%} {without:>9,.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
