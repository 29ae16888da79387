"""Which worker evaluates which shard next: a queue that outlives failures and copies stragglers.

Free of Ray, clocks and input or output: whoever drives it says who is idle, who finished, who failed, and the time. So
the same code runs a cluster and the simulation of one (``benchmarks/scale.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from statistics import median
from typing import Generic, TypeVar

Worker = TypeVar("Worker")


@dataclass(frozen=True)
class Limits:
    """How much the scheduler bears.

    Parameters
    ----------
    tries : int
        Failures of one shard after which it is given up.
    lost : int
        Given-up shards after which the run should stop.
    copies : int
        Workers on one shard at a time.
    straggling : float
        A shard that takes this many times the median is copied to a worker that has nothing else to do.
    stuck : float
        A worker that takes this many times the longest shard, and more than ``patience``, is taken for stuck.
    patience : float
        Seconds; also the time after which a shard is copied while none has finished yet.
    faults : int
        Failures in a row, of whatever shards, after which a worker pauses for ``patience`` while others work (twice
        that after the next failure, and so on): the fault may be the worker's.
    """

    tries: int = 3
    lost: int = 10
    copies: int = 2
    straggling: float = 1.5
    stuck: float = 10.0
    patience: float = 60.0
    faults: int = 3


class Scheduler(Generic[Worker]):
    """The state of one run; workers are any hashable objects, and times are seconds that never go back.

    Parameters
    ----------
    shards : iterable of int
        Shards to evaluate, first come first served.
    limits : Limits
    """

    def __init__(self, shards: Iterable[int], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._queue = deque(shards)
        self._left = set(self._queue)
        self._busy: dict[Worker, tuple[int, float]] = {}  # shard, its start; the oldest first
        self._on: dict[int, set[Worker]] = {}
        self._tries: dict[int, int] = {}
        self._failed_on: dict[int, set[Worker]] = {}
        self._faults: dict[Worker, int] = {}  # in a row
        self._pauses: dict[Worker, float] = {}  # until when
        self._durations: deque[float] = deque(maxlen=100)
        self._median: float | None = None  # of the durations, once asked for
        self._longest = 0.0
        self.given_up: dict[int, str] = {}
        """Shards that failed too often, with their last error."""

    def none_for(self, now: float) -> float:
        """Return for how long the first worker has been at its shard while none has finished yet; 0 if one has."""
        first = next(iter(self._busy.values()), None)
        return 0.0 if self._durations or first is None else now - first[1]

    @property
    def unfinished(self) -> int:
        """Shards that have not finished, given up or not."""
        return len(self._left)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: each shard has finished or is given up, or too many are given up."""
        return len(self._left) == len(self.given_up) or len(self.given_up) >= self.limits.lost

    def busy(self, worker: Worker) -> bool:
        """Return whether the worker has a shard."""
        return worker in self._busy

    def next(self, worker: Worker, now: float) -> int | None:
        """Return the shard that this idle worker should evaluate: from the queue, a straggler's copy, or None."""
        if self._busy and now < self._pauses.get(worker, now):
            return None
        shard = self._queued(worker)
        if shard is None:
            shard = self._straggler(worker, now)
        if shard is not None:
            self._busy[worker] = (shard, now)
            self._on.setdefault(shard, set()).add(worker)
        return shard

    def _queued(self, worker: Worker) -> int | None:
        # A shard that failed goes to another worker, if one can be expected: the fault may be the worker's.
        for _ in range(min(len(self._queue), 1 + len(self._failed_on))):
            if worker not in self._failed_on.get(self._queue[0], ()):
                return self._queue.popleft()
            self._queue.rotate(-1)
        return self._queue.popleft() if self._queue and not self._busy else None

    def _straggler(self, worker: Worker, now: float) -> int | None:
        since = self._late_after()
        for shard, start in self._busy.values():
            if now - start < since:
                break
            failed_here = worker in self._failed_on.get(shard, ())
            if shard in self._left and len(self._on[shard]) < self.limits.copies and not failed_here:
                return shard
        return None

    def _late_after(self) -> float:
        if not self._durations:
            return self.limits.patience
        if self._median is None:
            self._median = median(self._durations)
        return self.limits.straggling * self._median

    def finished(self, worker: Worker, now: float) -> int | None:
        """Return the shard that the worker finished, to be kept, or None if another had finished it before."""
        shard, start = self._release(worker)
        self._durations.append(now - start)
        self._median = None
        self._longest = max(self._longest, now - start)
        for trouble in (self._faults, self._pauses):
            trouble.pop(worker, None)
        if shard not in self._left:
            return None
        self._left.discard(shard)
        for record in (self._tries, self._failed_on):
            record.pop(shard, None)
        return shard

    def failed(self, worker: Worker, error: str) -> int:
        """Return the shard that the worker failed at (or died of).

        It goes to the end of the queue, or is given up, unless another worker is still at it.
        """
        shard, start = self._release(worker)
        self._faults[worker] = self._faults.get(worker, 0) + 1
        if (over := self._faults[worker] - self.limits.faults) >= 0:
            self._pauses[worker] = start + (1 + over) * self.limits.patience
        if shard not in self._left:
            return shard
        self._tries[shard] = self._tries.get(shard, 0) + 1
        self._failed_on.setdefault(shard, set()).add(worker)
        if self._on[shard]:
            return shard
        if self._tries[shard] >= self.limits.tries:
            self.given_up[shard] = error
        else:
            self._queue.append(shard)
        return shard

    def forgive(self, shard: int) -> None:
        """Take back one failure of a shard: what failed was its worker's node."""
        if self._tries.get(shard, 0):  # none once it has finished
            self._tries[shard] -= 1
            if shard in self.given_up and self._tries[shard] < self.limits.tries:
                del self.given_up[shard]
                self._queue.append(shard)

    def stuck(self, now: float) -> list[Worker]:
        """Return the workers that have been silent for so long that they should be replaced.

        As long as no shard has finished, nobody knows how long one takes: ``stuck`` times the patience is too long.
        """
        known = self._longest if self._durations else self.limits.patience
        bound = max(self.limits.patience, self.limits.stuck * known)
        return list(takewhile(lambda worker: now - self._busy[worker][1] > bound, self._busy))

    def _release(self, worker: Worker) -> tuple[int, float]:
        shard, start = self._busy.pop(worker)
        self._on[shard].discard(worker)
        if not self._on[shard] and shard not in self._left:
            del self._on[shard]
        return shard, start
