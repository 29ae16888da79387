"""The audits that wait, and the one thread that works them off: nothing that happens here reaches the caller."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

import numpy as np

from rrise.audit.eprocess import refutes
from rrise.audit.record import save
from rrise.runtime.certificates import ABSTAIN
from rrise.runtime.locks import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from rrise.audit.record import Record
    from rrise.audit.settings import AuditSettings


class Counts(Protocol):
    """Evaluates the base classifier under noise; `rrise.stages.service.ClassifierCounts` is one."""

    def __call__(self, image: NDArray[Any], n: int, name: int) -> NDArray[Any]:
        """Return int[K], how often each class was given to n noisy copies of one image.

        The image is uint8 (H,W,C) or float32 (C,H,W) in [0,1]. ``name``, below 2^56, is another number for each audit,
        after a restart too: noise that is named by it is fresh, as the evidence needs.
        """


class Chosen(NamedTuple):
    """An input that is audited, and what was certified about it."""

    image: NDArray[Any]
    label: int
    q: float
    p_lower: float


@final
class Backlog:
    """A bounded queue of audits and its thread, which alone changes the record.

    Parameters
    ----------
    evaluate : Counts
    classes : int
    settings : AuditSettings
    record : Record
        What was found before.
    state : path, optional
        Where the record is saved.
    ties : numpy.random.Generator
        For the drift signal.
    served : callable
        How many inputs were served, for the record.
    """

    def __init__(
        self,
        evaluate: Counts,
        classes: int,
        settings: AuditSettings,
        record: Record,
        state: Path | None,
        ties: np.random.Generator,
        served: Callable[[], int],
    ) -> None:
        self._evaluate, self._classes, self._settings = evaluate, classes, settings
        self._record, self._state, self._ties, self._served = record, state, ties, served
        self._dropped, self._begun, self._saved = record.dropped, 0, record.evidence.audits
        self._errors = {"audit": "", "save": ""}  # why the latest of each failed
        self._closed, self._process = False, os.getpid()
        self._dropping, self._saving = ProcessLock(), ProcessLock()
        self._queue: queue.Queue[Chosen | None] = queue.Queue(settings.waiting)
        self._thread = threading.Thread(target=self._work, name="rrise-audit", daemon=True)
        self._thread.start()
        atexit.register(self._leave)  # a thread that is in the middle of an evaluation would abort the process

    @property
    def record(self) -> Record:
        """What is known now."""
        return replace(self._record, served=self._served(), dropped=self._dropped)

    @property
    def error(self) -> str:
        """Why the latest audit or save failed, in one line; "" if it did not."""
        return "; ".join(filter(None, self._errors.values()))

    def __len__(self) -> int:
        return self._queue.qsize()

    def offer(self, chosen: Chosen) -> None:
        """Take an audit, or drop and count it."""
        try:
            if self._closed or not self._is_own_process:  # a child process has no thread: audit in one process
                raise queue.Full
            self._queue.put_nowait(chosen)
        except queue.Full:
            self._drop()

    def flush(self) -> None:
        """Wait until all that waits is done, and save."""
        if self._is_own_process:
            if self._thread.is_alive():
                self._queue.join()
            self._save()

    def close(self) -> None:
        """Do all that waits, save and end the thread."""
        if self._is_own_process and not self._closed:
            self._stop()
            atexit.unregister(self._leave)
            self._save()

    def _leave(self) -> None:
        """End the thread because the process ends: what still waits is dropped."""
        if self._is_own_process and not self._closed:
            self._stop()
            self._errors["save"] = _reason(self._save)

    def _stop(self) -> None:
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    @property
    def _is_own_process(self) -> bool:
        return os.getpid() == self._process

    def _drop(self) -> None:
        with self._dropping:
            self._dropped += 1

    def _work(self) -> None:
        while (chosen := self._queue.get()) is not None:
            if _leaving():
                self._drop()
            else:
                self._errors["audit"] = _reason(partial(self._audit, chosen))
                if self._record.evidence.audits - self._saved >= self._settings.save_every:
                    self._errors["save"] = _reason(self._save)
            self._queue.task_done()
        self._queue.task_done()

    def _audit(self, chosen: Chosen) -> None:
        record, n, refuted = self._record, self._settings.n, False
        if chosen.label == ABSTAIN:
            record = replace(record, abstained=record.abstained + 1)
        else:
            name = (record.start << 32) + self._begun
            self._begun += 1
            try:
                k = _hits(self._evaluate(chosen.image, n, name), n, chosen.label, self._classes)
            except BaseException:
                if _leaving():  # thread pools end before anyone is told
                    self._drop()
                    return
                self._record = replace(record, failed=record.failed + 1)
                raise
            refuted = refutes(k, n, chosen.p_lower, self._settings.b)
            record = replace(record, evaluations=record.evaluations + n)
        drift = record.drift.after(chosen.q, float(self._ties.random()))
        self._record = replace(record, evidence=record.evidence.after(refuted), drift=drift)

    def _save(self) -> None:
        with self._saving:
            record = self.record
            if self._state is not None:
                save(self._state, record)
            self._saved = record.evidence.audits


def _leaving() -> bool:
    """Return whether the process is about to end: thread pools end before the main thread is said to have."""
    return bool(getattr(threading, "_SHUTTING_DOWN", False)) or not threading.main_thread().is_alive()


def _reason(step: Callable[[], None]) -> str:
    """Take a step and return why it failed, in one line; "" if it did not. Whatever it raises, the thread goes on."""
    try:
        step()
    except BaseException as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _hits(counts: NDArray[Any], n: int, label: int, classes: int) -> int:
    """Return how often the label occurred, or raise ValueError unless the counts are of n draws and all classes."""
    found = np.asarray(counts)
    if found.dtype.kind not in "iu" or found.shape != (classes,) or (found < 0).any() or found.sum() != n:
        raise ValueError(
            f"evaluate: expected integer counts of {classes} classes that sum to n = {n}, got {found.dtype}"
            f"{list(found.shape)} with sum {found.sum()}. Count every draw once."
        )
    return int(found[label])
