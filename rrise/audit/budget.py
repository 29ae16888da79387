"""A budget of noisy evaluations: an allowance that refills steadily."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, final

from rrise.runtime.locks import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Budget:
    """At most ``evaluations`` at once, refilled evenly over ``seconds``; safe to use from many threads.

    In any span of T seconds at most ``evaluations`` (1 + T / seconds) are spent.

    Parameters
    ----------
    evaluations : int
        The full allowance; it is full at the beginning.
    seconds : float
        How long an empty one takes to refill; inf: never, the budget is a total.
    clock : callable
        Seconds that never go back.

    Raises
    ------
    ValueError
        If either is out of range.
    """

    def __init__(
        self, evaluations: int, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if evaluations < 0:
            raise ValueError(f"budget: expected at least 0 evaluations, got {evaluations}. Try 100000.")
        if not seconds > 0:
            raise ValueError(f"budget: expected a time to refill above 0 seconds, got {seconds}. Try 1.")
        self._full, self._seconds, self._clock = evaluations, seconds, clock
        self._left, self._then = float(evaluations), clock()
        self._lock = ProcessLock()

    def take(self, evaluations: int) -> bool:
        """Take so many if there are, and return whether there were."""
        with self._lock:
            now = self._clock()
            self._left = min(self._full, self._left + self._full * ((now - self._then) / self._seconds))
            self._then = now
            if evaluations > self._left:
                return False
            self._left -= evaluations
            return True

    def give_back(self, evaluations: int) -> None:
        """Return what was taken and not spent."""
        with self._lock:
            self._left = min(self._full, self._left + evaluations)
