"""What sampling will cost, from a short probe, before it is begun."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.targets.settings import DrawsConfig

if TYPE_CHECKING:
    from rrise.images import ImageSet, Splits
    from rrise.stages.workers import WorkerSpec
    from rrise.targets.evaluator import ShardEvaluator
    from rrise.targets.manifest import Manifest
    from rrise.targets.settings import ExecutionConfig, SampleConfig, TargetsConfig

WORKERS = (1, 8, 64, 512)
"""Numbers of workers that a plan for Ray lists if none is given."""
PROBE_SECONDS = 4.0
GOOD_SHARD = (5.0, 60.0)
"""Seconds a shard: shorter ones cost overhead, longer ones are more to lose."""


@dataclass(frozen=True)
class Probe:
    """A measurement on one worker: images and evaluations in these seconds, and bytes of the encoded counts."""

    images: int
    evaluations: int
    seconds: float
    bytes: int

    @property
    def speed(self) -> float:
        """Evaluations a second."""
        return self.evaluations / self.seconds


def plan(
    splits: Splits,
    split: str,
    config: SampleConfig,
    execution: ExecutionConfig,
    classifier: str | Path,
    out: str | Path,
    *,
    stream: int,
    draws: DrawsConfig | None = None,
    targets: TargetsConfig | None = None,
) -> str:
    """Measure a few images on one worker and return what all of them will cost, in words; nothing is written.

    ``draws`` says how often targets, calibration images and a Monte Carlo certificate's input are drawn, as far as
    ``config`` does not say it of the images that are sampled.

    Raises
    ------
    ValueError
        As :func:`rrise.stages.build.sample`, for what it would refuse.
    """
    from rrise.stages.build import manifest_of, require_targets
    from rrise.stages.workers import WorkerSpec, local_network

    require_targets(targets, split, stream)
    network = local_network(classifier)
    images: ImageSet = getattr(splits.named_as(network.classes), split)
    manifest = manifest_of(images, config, network, stream=stream, targets=targets)
    missing = _missing(manifest, out)
    spec = WorkerSpec.of(splits, split, config, execution, classifier, manifest)
    if execution.executor == "ray":
        from rrise.targets.ray_session import quieten

        quieten(execution.address)
        from rrise.targets.distributed import call_on_worker

        found: Probe = call_on_worker(functools.partial(_probe_there, spec), execution, config.device)
    else:
        found = probe(spec.evaluator(network, images))
    lines = _lines(config, execution, manifest, found, missing)
    return "\n".join([*lines, _paid_back(splits, split, manifest, draws or DrawsConfig())])


def _probe_there(spec: WorkerSpec) -> Probe:
    return probe(spec())


def probe(evaluator: ShardEvaluator) -> Probe:
    """Count as many images as take a few seconds, and return what that took."""
    from rrise.targets.counts import CountTable
    from rrise.targets.sampling import available_cores
    from rrise.targets.shards import encode_shard

    at_once = (evaluator.threads or available_cores()) * evaluator.manifest.images_per_pass
    order = np.random.default_rng(0).permutation(len(evaluator.images))

    def count(rows: np.ndarray) -> CountTable:
        part = evaluator.images.take(rows)
        counts = evaluator.counts_of(part)
        return CountTable(part.ids, part.labels, counts.sum(axis=1, dtype=np.int64), counts.astype(np.int32))

    table = count(order[:at_once])  # warms up: allocations, a compiled classifier
    size, spent = at_once, 0.0
    while spent < PROBE_SECONDS:
        start = time.perf_counter()
        table = count(order[:size])
        spent = time.perf_counter() - start
        if size >= len(order):
            break
        size = min(len(order), max(size + at_once, int(size * min(10.0, 1.2 * PROBE_SECONDS / max(spent, 1e-3)))))
    return Probe(len(table), int(table.n.sum()), spent, encode_shard(table, 0, evaluator.manifest).size)


def _lines(
    config: SampleConfig,
    execution: ExecutionConfig,
    manifest: Manifest,
    found: Probe,
    missing: int,
) -> list[str]:
    shards, work = manifest.shards, manifest.evaluations
    left = work * missing / shards
    shard = manifest.size(0) * manifest.n / found.speed
    gpu = config.device.startswith("cuda")
    unit = "GPU-hours" if gpu and execution.gpus(config.device) == 1 else "worker-hours"
    counted = [execution.workers] if execution.workers else list(WORKERS)
    if execution.executor == "local":
        counted = [1]
    views = f"{manifest.views} views each, " if manifest.views > 1 else ""
    size = found.bytes / found.images * manifest.images * manifest.views
    lines = [
        f"evaluations   {work:,} ({manifest.images:,} images, {views}n = {manifest.n:,}), {left:,.0f} of them still to "
        "do",
        f"probe         {found.evaluations:,} evaluations ({found.images} images) in {found.seconds:.1f} s on one "
        f"worker ({config.device}): {found.speed:,.0f} a second",
    ]
    for workers in counted:
        hours = left / found.speed / workers / 3600
        who = "this process" if execution.executor == "local" else f"{workers} worker{'s' * (workers > 1)}"
        lines.append(
            f"time          {who}: {_duration(hours)}, {hours * workers:,.3g} {unit} (as many times one worker)"
        )
    lines += [
        f"counts        about {_size(size)} in {shards:,} shards",
        f"a shard       {shard:,.1f} s{_advice(shard, config, manifest)}",
    ]
    return lines


def _paid_back(splits: Splits, split: str, manifest: Manifest, draws: DrawsConfig) -> str:
    """Return the line that counts what is paid once, each kind of images with its own number of draws."""
    from rrise.calibration.settings import CalibrateConfig
    from rrise.evaluation.costs import Sampled
    from rrise.evaluation.metrics import break_even
    from rrise.evaluation.settings import EvaluateConfig

    each = draws.monte_carlo
    of = {
        "targets": draws.targets or each,
        "profile": CalibrateConfig().profile_draws(each),
        "calibration": CalibrateConfig(n=draws.calibration).draws(each),
    }
    sampled = "targets" if split == "train" else split
    if sampled in of and not getattr(draws, sampled, 0):
        of[sampled] = manifest.views * manifest.n
    named = {"targets": "targets", "profile": "images of the curve's shape", "calibration": "calibration images"}
    if not (splits.config and splits.config.shaping):
        del named["profile"]
    sizes = {name: len(getattr(splits, name)) for name in named}
    once = {name: Sampled(size, size * of[name]) for name, size in sizes.items()}
    monte_carlo = each + EvaluateConfig().n_selection
    queries = break_even(sum(part.evaluations for part in once.values()), monte_carlo)
    parts = ", ".join(once[name].words(what) for name, what in named.items())
    return (
        f"break-even    after {queries:,.0f} certificates: {parts}, paid once, against Monte Carlo of {monte_carlo:,} "
        "evaluations each; fitting is not counted"
    )


def _missing(manifest: Manifest, out: str | Path) -> int:
    """Return how many shards are missing at a place."""
    from rrise.targets.folder import Folder
    from rrise.targets.store import CountStore

    there = "manifest.json" in Folder.at(str(out)).names()
    return len(CountStore.open(out, manifest).missing()) if there else manifest.shards


def _size(count: float) -> str:
    return f"{count / 2**10:,.0f} kB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"


def _duration(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _advice(seconds: float, config: SampleConfig, manifest: Manifest) -> str:
    low, high = GOOD_SHARD
    if low <= seconds <= high or (seconds < low and manifest.shards_of_a_view == 1):
        return ""
    better = max(1, round(config.shard_size * manifest.size(0) / manifest.shard_size * 20 / seconds))
    return f"; {low:.0f} to {high:.0f} s is good: --shard-size {better:,} would take 20 s"
