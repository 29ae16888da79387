"""Filling a store over Ray: actors count shards, this process hands them out and is the only one that writes.

With ``actors`` and ``ray_session``, the only files that import Ray. They add no arithmetic: an actor calls the same
``ShardEvaluator`` as a run in one process, so counts are the same to the bit. Workers may come, die, hang and come
back at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.exceptions

from rrise.targets.actors import Pool, ShardActor, Worker
from rrise.targets.evaluator import shard_table
from rrise.targets.progress import Progress
from rrise.targets.ray_session import capacity, dead_nodes, session
from rrise.targets.scheduling import Limits, Scheduler
from rrise.targets.settings import ExecutionConfig
from rrise.targets.store import CountStore

if TYPE_CHECKING:
    from rrise.images.image_set import ImageSet
    from rrise.targets.actors import Opener

Result = TypeVar("Result")
POLL = 1.0
"""Seconds between two looks at the cluster while nothing happens."""
WAITING = 10.0
"""Seconds without any worker after which it is said what is waited for."""
OPENINGS = 3
"""Times in a row that a worker may fail to open classifier and images before it is dropped."""
RAISED = 3
"""Shards in a row that a worker may fail at before it is restarted: some errors stay in a process, those of CUDA do."""
WORKER_DIED = (
    "the worker's process ended at it: it crashed, was killed, or Ray stopped it because its node ran out of memory "
    "(a smaller --batch-size or fewer workers a node need less)"
)


def fill_store_over_ray(
    store: CountStore,
    images: ImageSet,
    opener: Opener,
    execution: ExecutionConfig,
    *,
    device: str = "cpu",
    progress: bool = False,
    log: Path | None = None,
) -> list[int]:
    """Count the shards that a store is missing with Ray actors, and return those that were missing.

    A worker that dies gives its shard back; one that is silent for too long is replaced; a shard that takes long at the
    end is copied to an idle worker; a shard that fails on three workers is given up while the rest finishes. A lost
    node is no fault of its shards. Finished shards are on disk at once and never computed again.

    Parameters
    ----------
    store : CountStore
    images : ImageSet
        Of the store's manifest.
    opener : callable
        Called in each actor, gives its evaluator. Small and picklable: it names files, pinned by their sha256.
    execution : ExecutionConfig
    device : str
        torch device that runs the classifier.
    progress, log
        As for :func:`rrise.targets.filling.fill_store`.

    Raises
    ------
    RuntimeError
        If shards were given up (they are named), or no worker could open classifier and images.
    ConnectionError
        If there is no cluster at the address.
    OSError
        If a shard cannot be written.
    """
    missing = store.missing()
    if not missing:
        return []
    cpus, gpus = execution.cpus_per_worker, execution.gpus(device)
    scheduler: Scheduler[Worker] = Scheduler(missing, Limits(patience=execution.patience))
    with (
        Progress(store.shards, store.shards - len(missing), log=log, shown=progress) as live,
        session(execution.address, lambda text: live.note(text, aloud=False)),
    ):
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1)(ShardActor)
        run = _Run(store, images, execution, scheduler, Pool(lambda: actor.remote(opener)), live, (cpus, gpus))
        try:
            run.until_over()
        finally:
            run.close()
    if scheduler.given_up:
        raise RuntimeError(_account(scheduler, store, len(missing)))
    return missing


def call_on_worker(function: Callable[[], Result], execution: ExecutionConfig, device: str) -> Result:
    """Return the function's result from a worker of the cluster; it and its result are small.

    Raises
    ------
    RuntimeError
        If it raises there.
    ConnectionError
        If there is no cluster at the address.
    """
    with session(execution.address, lambda text: None):
        task = ray.remote(num_cpus=execution.cpus_per_worker, num_gpus=execution.gpus(device))(_call)
        try:
            result: Result = ray.get(task.remote(function))
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"worker: {_reason(error)}") from None
    return result


@dataclass(eq=False)
class _Run:
    store: CountStore
    images: ImageSet
    execution: ExecutionConfig
    scheduler: Scheduler[Worker]
    pool: Pool
    live: Progress
    needs: tuple[float, float]
    suspects: list[tuple[int, str]] = field(default_factory=list)  # shards that failed, with their worker's node
    lost: set[str] = field(default_factory=set)  # nodes
    looked: float = -1e9
    idle_since: float = field(default_factory=time.monotonic)
    last_error: str = ""
    told: set[str] = field(default_factory=set)  # reasons of failed shards
    quiet_until: float = 0.0

    def until_over(self) -> None:
        while not self.scheduler.over:
            self._look()
            for worker in self.pool.workers:
                self._assign(worker)
            done, _ = ray.wait(list(self.pool.calls), num_returns=1, timeout=POLL)
            for reference in done:
                worker, counting = self.pool.calls.pop(reference)
                (self._counted if counting else self._opened)(worker, reference)

    def _assign(self, worker: Worker) -> None:
        if worker.node and not self.scheduler.busy(worker):
            shard = self.scheduler.next(worker, time.monotonic())
            if shard is not None:
                self.pool.count(worker, shard)

    def _look(self) -> None:
        """Look at the cluster, at most every POLL seconds: lost nodes, room for more workers, silent workers."""
        now = time.monotonic()
        if now - self.looked < POLL:
            return
        self.looked = now
        if self.suspects:
            dead = dead_nodes()
            for shard, node in self.suspects:
                if node in dead:
                    self.scheduler.forgive(shard)
                    if node not in self.lost:
                        self.live.note(f"node {node[:8]} is lost; its shards are counted elsewhere")
            self.lost |= dead
            self.suspects = [(shard, node) for shard, node in self.suspects if node not in dead]
        wanted = self.execution.workers or max(1, capacity(*self.needs))
        self.pool.grow(min(wanted, max(self.scheduler.unfinished, len(self.pool.workers))))
        if (silence := self.scheduler.none_for(now)) > max(self.execution.patience, self.quiet_until):
            self.quiet_until = 2 * silence  # say it again when it has lasted twice as long
            self.live.note(
                f"no shard has finished for {silence:.0f} s: they take longer (--plan says how long, --shard-size "
                "makes them shorter), or the workers hang"
            )
        for worker in self.scheduler.stuck(now):
            if not worker.ending:
                self.live.note(f"worker {worker.number} has been silent for too long; it is replaced")
                worker.ending = True
                ray.kill(worker.actor, no_restart=False)  # its call then fails, and it is opened again
        if self.pool.ready():
            self.idle_since = now
        elif now - self.idle_since > WAITING:
            self.idle_since = now + 50  # say it again in a minute
            self.live.note(self._waiting())

    def _waiting(self) -> str:
        cpus, gpus = self.needs
        has, free = ray.cluster_resources(), ray.available_resources()
        names = ("CPU", "GPU") if gpus else ("CPU",)
        need = " and ".join(f"{number:g} {name}" for number, name in zip((cpus, gpus), names, strict=False))
        found = " and ".join(f"{has.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in names)
        return (
            f"waiting for a first worker to start or to get resources: each of {len(self.pool.workers)} needs {need}; "
            f"the cluster has {found}. If it lacks them add nodes, or ask for less (--cpus-per-worker, "
            "--gpus-per-worker)."
        )

    def _opened(self, worker: Worker, reference: Any) -> None:
        try:
            worker.node, worker.openings = ray.get(reference), 0
        except ray.exceptions.RayError as error:
            worker.openings += 1
            self.last_error = _reason(error)
            self.live.failed(self.last_error, worker=worker.number)
            if worker.openings < OPENINGS:
                self.pool.restart(worker)
            elif all(other.openings >= OPENINGS for other in self.pool.workers):
                raise RuntimeError(
                    f"workers: none of {len(self.pool.workers)} could start: {self.last_error}"
                ) from None
            else:
                self.live.note(f"worker {worker.number} is left out, it cannot start: {self.last_error}")
                ray.kill(worker.actor)  # its resources are free for another
        self.live.workers(self.pool.ready(), len(self.pool.workers))

    def _counted(self, worker: Worker, reference: Any) -> None:
        try:
            counts = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._failed(worker, error)
            return
        worker.raised = 0
        shard = self.scheduler.finished(worker, time.monotonic())
        self._assign(worker)  # first, so that it need not wait for the disk
        if shard is not None:
            self.store.write(shard, shard_table(self.images, self.store.manifest, shard, counts))
            self.live.finished(shard, int(counts.sum()), worker=worker.number, node=worker.node[:8])

    def _failed(self, worker: Worker, error: ray.exceptions.RayError) -> None:
        raised = isinstance(error, ray.exceptions.RayTaskError)  # else the worker died
        text, node = _reason(error) if raised else WORKER_DIED, worker.node
        shard = self.scheduler.failed(worker, text)
        self.live.failed(text, shard=shard, worker=worker.number, node=node[:8], ray=type(error).__name__)
        if text not in self.told:
            self.told.add(text)
            self.live.note(f"shard {shard} failed on worker {worker.number}: {text}")
        if raised:
            worker.raised += 1
            if worker.raised < RAISED:
                return
            self.live.note(f"worker {worker.number} has failed {RAISED} times in a row; it is restarted")
            self.pool.restart(worker)
        else:
            self.suspects.append((shard, node))
            self.pool.open(worker)
        self.live.workers(self.pool.ready(), len(self.pool.workers))

    def close(self) -> None:
        for worker in self.pool.workers:
            ray.kill(worker.actor)


def _call(function: Callable[[], Result]) -> Result:
    return function()


def _reason(error: BaseException) -> str:
    """Return one line that says why."""
    cause = getattr(error, "cause", None) or error
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {text[:500]}"


def _account(scheduler: Scheduler[Worker], store: CountStore, missing: int) -> str:
    lost = sorted(scheduler.given_up)
    names = ", ".join(map(str, lost[:10])) + (f" and {len(lost) - 10} more" if len(lost) > 10 else "")
    left = scheduler.unfinished - len(lost)
    return (
        f"counts: {len(lost)} of {missing} missing shards of {store.uri} failed {scheduler.limits.tries} times each "
        f"(shards {names}); the last error of shard {lost[0]}: {scheduler.given_up[lost[0]]} "
        + (f"The run stopped there, {left} shards not tried. " if left else "All others are finished. ")
        + "Remove the cause and run the same command: only these are computed."
    )
