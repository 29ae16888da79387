"""Filling a store in this process: the shards that are missing, one after the other, each kept once it is counted."""

from __future__ import annotations

from pathlib import Path

from rrise.targets.evaluator import ShardEvaluator, shard_table
from rrise.targets.progress import Progress
from rrise.targets.store import CountStore


def fill_store(
    store: CountStore, evaluator: ShardEvaluator, *, progress: bool = False, log: Path | None = None
) -> list[int]:
    """Count the shards that a store is missing, as its manifest says, and return them.

    A shard is published before the next one starts, so an interrupted run keeps what it finished and the next call goes
    on from there, to the same counts. The first shard that fails ends the run.

    Parameters
    ----------
    store : CountStore
    evaluator : ShardEvaluator
        Of the store's manifest.
    progress : bool
        Show how far it is.
    log : Path, optional
        File of JSON lines, see :class:`rrise.targets.progress.Progress`.

    Raises
    ------
    ValueError
        If the classifier gives something else than finite logits, or the evaluator is of another manifest.
    OSError
        If a shard cannot be written.
    """
    store.manifest.require_match(evaluator.manifest, "the evaluator's shard")
    missing = store.missing()
    with Progress(store.shards, store.shards - len(missing), log=log, shown=progress) as live:
        for shard in missing:
            counts = evaluator.counts(shard)
            store.write(shard, shard_table(evaluator.images, store.manifest, shard, counts))
            live.finished(shard, int(counts.sum()))
    return missing
