"""A lock that a forked child finds open: whichever thread of the parent's held it does not exist there."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import final

_MADE: weakref.WeakSet[ProcessLock] = weakref.WeakSet()


@final
class ProcessLock:
    """A mutual exclusion of the threads of one process, as ``with lock:`` takes and gives it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _MADE.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Open it, in a child that was forked while it may have been held."""
        self._lock = threading.Lock()


def _renew_all() -> None:
    for lock in list(_MADE):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
