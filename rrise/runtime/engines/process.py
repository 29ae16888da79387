"""An engine that outlives a fork: a child process opens it again where the parent's cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rrise.runtime.engines.protocol import Engine


@final
class ProcessEngine:
    """The engine of whichever process asks; safe to call from many threads.

    Parameters
    ----------
    engine : Engine
        Opened in this process.
    reopen : callable, optional
        Opens the same engine again, for a child process, if it holds threads or a GPU. Without it a child gets the
        parent's.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._opened, self._reopen, self._process = engine, reopen, os.getpid()

    def __call__(self) -> Engine:
        """Return the engine, opened again if this process is a fork of the one that opened it and has to."""
        if os.getpid() != self._process:
            # Two threads of a new child may both open it: one engine is dropped, nothing is wrong.
            if not self._opened.survives_fork and self._reopen is not None:
                self._opened = self._reopen()
            self._process = os.getpid()
        return self._opened
