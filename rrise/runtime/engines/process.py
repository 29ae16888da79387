"""An engine that outlives a fork: a child process opens it again where the parent's cannot be used."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rrise.runtime.engines.protocol import Engine


_OPENED: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Engines of this process, whose threads a forked child lacks and whose locks it may find closed."""


def _keep_for_ever() -> None:
    """In a forked child, never end an engine of the parent's: its destructor waits for threads that are not there."""
    for engine in list(_OPENED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


@final
class ProcessEngine:
    """The engine of whichever process asks; safe to call from many threads.

    Parameters
    ----------
    engine : Engine
        Opened in this process.
    reopen : callable, optional
        Opens the same engine again, for a child process. Without it a child gets the parent's, whose call may wait for
        ever: its threads are gone, and another thread may have been in a call.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._opened, self._reopen, self._process = engine, reopen, os.getpid()
        _OPENED.add(engine)

    def __call__(self) -> Engine:
        """Return the engine, opened again if this process is a fork of the one that opened it.

        Raises
        ------
        RuntimeError
            If this process is a fork, and the engine's library cannot be used in one.
        """
        if os.getpid() != self._process:
            if not self._opened.opens_after_fork:
                raise RuntimeError(
                    f"engine: expected the process that loaded the bundle, or one that {self._opened.kind} can run in, "
                    "got a fork of it. Load the bundle in the worker, after the fork."
                )
            # Two threads of a new child may both open it: one engine is dropped, nothing is wrong.
            if self._reopen is not None:
                self._opened = self._reopen()
            self._process = os.getpid()
        return self._opened
