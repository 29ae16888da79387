"""Ray actors that count shards, and the calls that they have not answered."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from rrise.targets.evaluator import ShardEvaluator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Opener = Callable[[], ShardEvaluator]


class ShardActor:
    """An actor: opens the classifier and the images once, then counts whichever shard it is asked for."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._evaluator: ShardEvaluator | None = None

    def ready(self) -> str:
        """Open classifier and images, if that is not done, and return the id of the node."""
        self._opened()
        return str(ray.get_runtime_context().get_node_id())

    def counts(self, shard: int) -> npt.NDArray[np.uint32]:
        """Return the class counts of a shard: uint32[B, K]."""
        return self._opened().counts(shard)

    def _opened(self) -> ShardEvaluator:
        if self._evaluator is None:  # in counts() too: Ray may have restarted the actor since ready()
            self._evaluator = self._opener()
        return self._evaluator

    def end(self) -> None:
        """End this process, with all that went wrong in it."""
        os._exit(1)


@dataclass(eq=False)
class Worker:
    """An actor as the driver sees it: ``node`` is empty until it is ready; the rest counts failures in a row."""

    number: int
    actor: Any
    node: str = ""
    openings: int = 0
    raised: int = 0
    ending: bool = False  # told to end, and has not yet


@dataclass(eq=False)
class Pool:
    """Actors, and the calls that they have not answered."""

    create: Callable[[], Any]
    workers: list[Worker] = field(default_factory=list)
    calls: dict[Any, tuple[Worker, bool]] = field(default_factory=dict)  # reference -> worker, whether it counts

    def grow(self, size: int) -> None:
        """Have at least so many actors."""
        while len(self.workers) < size:
            worker = Worker(len(self.workers), self.create())
            self.workers.append(worker)
            self.open(worker)

    def open(self, worker: Worker) -> None:
        """Ask a new or dead worker to be ready: Ray retries that for as long as it takes, on any node."""
        worker.node, worker.raised, worker.ending = "", 0, False
        self.calls[worker.actor.ready.options(max_task_retries=-1).remote()] = worker, False

    def restart(self, worker: Worker) -> None:
        """Let the actor, which answers, end its process, and open it again in the one that Ray starts instead."""
        worker.actor.end.options(max_task_retries=0).remote()  # an actor's calls are done in order
        self.open(worker)

    def count(self, worker: Worker, shard: int) -> None:
        """Ask a worker for a shard's counts; if it dies, the call fails."""
        self.calls[worker.actor.counts.options(max_task_retries=0).remote(shard)] = worker, True

    def ready(self) -> int:
        """Return how many actors are at work or could be."""
        return sum(bool(worker.node) for worker in self.workers)
