"""The auditor: a certifier, a random share of whose certificates is checked by Monte Carlo while it serves."""

from __future__ import annotations

import atexit
import os
import queue
import secrets
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

import numpy as np

from rrise.audit.drift import Drift
from rrise.audit.eprocess import EProcess, refutes
from rrise.audit.record import Record, resume, save
from rrise.audit.settings import AuditSettings, promised
from rrise.audit.status import AuditStatus
from rrise.runtime.certificates import ABSTAIN
from rrise.runtime.images import as_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from rrise.runtime.certificates import Certificate, Certificates
    from rrise.runtime.certifier import Certifier


class Counts(Protocol):
    """Evaluates the base classifier under noise; `rrise.stages.service.ClassifierCounts` is one."""

    def __call__(self, image: NDArray[Any], n: int, name: int) -> NDArray[Any]:
        """Return int[K], how often each class was given to n noisy copies of one image.

        The image is uint8 (H,W,C) or float32 (C,H,W) in [0,1]. ``name``, below 2^56, is another number for each audit,
        after a restart too: noise that is named by it is fresh, as the evidence needs.
        """


class _Chosen(NamedTuple):
    image: NDArray[Any]
    label: int
    q: float
    p_lower: float


@final
class Auditor:
    """A certifier that is audited while it serves: the same certificates, and evidence whether they keep the promise.

    Each input is chosen with probability ``rate`` by random numbers that know nothing of it. Chosen inputs wait in a
    queue for one background thread, which draws ``n`` noisy evaluations of the base classifier for each that was
    certified and bets against the guarantee (:class:`rrise.audit.eprocess.EProcess`) and against inputs that stay as
    they are (:class:`rrise.audit.drift.Drift`). Nothing that goes wrong there reaches the caller: it is in `status`.

    If the queue is full, a chosen input is dropped and counted. Whether it is full depends on earlier inputs only, not
    on this one, and abstentions wait like all others, so what is audited stays a fair sample; a rule that looked at
    the input (certified ones first, say) would bias it. But inputs that come in bursts are under-represented: choose
    ``rate`` so that none are dropped.

    Parameters
    ----------
    certifier : Certifier
    evaluate : Counts
        Evaluates the base classifier that the bundle was calibrated on.
    rate : float
        Share of inputs that is audited, in (0,1].
    n : int
        Noisy evaluations an audit.
    b : float, optional
        Probability at most that a true certificate is refuted. Default: a tenth of beta + gamma.
    alpha : float
        Probability at most of a false alarm, ever; for the guarantee and for drift each.
    seed : int, optional
        Of the choice of inputs and of the drift signal's ties. Default: from the operating system, so that nobody who
        sends inputs can know which are audited.
    state : path, optional
        File in which the evidence survives a restart; made if there is none. One auditor a file.
    reference : float64[R], optional
        Top probabilities q of inputs as they should be, for the drift signal; used when the state file is made.
    waiting : int
        Length of the queue.
    save_every : int
        Audits between two writes of the state; a crash forgets at most so many. `close` and the end of the process
        forget none, but without `close` what still waits then is dropped.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of range, the bundle's guarantee is not one of all inputs, or the state file is damaged,
        or of another bundle or another promised rate.
    OSError
        If the state cannot be written.
    """

    def __init__(
        self,
        certifier: Certifier,
        evaluate: Counts,
        *,
        rate: float = 0.01,
        n: int = 1000,
        b: float | None = None,
        alpha: float = 0.01,
        seed: int | None = None,
        state: str | Path | None = None,
        reference: ArrayLike | None = None,
        waiting: int = 256,
        save_every: int = 20,
    ) -> None:
        self._certifier, self._evaluate = certifier, evaluate
        self._settings = AuditSettings.of(promised(certifier.bundle), rate, n, b, alpha, waiting, save_every)
        self._state = None if state is None else Path(state)
        fresh = Record(certifier.bundle.sha256, 1, EProcess.begin(self._settings.m), Drift.begin(reference))
        self._record = resume(self._state, fresh)
        root = np.random.SeedSequence([secrets.randbits(128) if seed is None else seed, self._record.start])
        self._choice, self._ties = map(np.random.default_rng, root.spawn(2))
        self._skip = int(self._choice.geometric(rate)) - 1  # inputs before the next that is chosen
        self._served, self._dropped = self._record.served, self._record.dropped
        self._begun, self._closed = 0, False
        self._errors = {"audit": "", "save": ""}  # why the latest of each failed
        self._process = os.getpid()
        self._counting, self._saving = threading.Lock(), threading.Lock()
        self._queue: queue.Queue[_Chosen | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="rrise-audit", daemon=True)
        self._thread.start()
        atexit.register(self._leave)  # a thread that is in the middle of an evaluation would abort the process

    @property
    def certifier(self) -> Certifier:
        """The certifier that is audited."""
        return self._certifier

    def __call__(self, images: NDArray[Any]) -> Certificates:
        """Return the certifier's certificates, as `Certifier.__call__`; a random share of them is audited later."""
        certificates = self._certifier(images)
        count = len(certificates.label)
        with self._counting:
            self._served += count
            self._skip -= count
            if self._skip >= 0:
                return certificates
            rows = self._rows(count)
        batch = as_batch(images, self._certifier.input_shape)
        for row in rows:
            label, q, p_lower = certificates.label[row], certificates.q[row], certificates.p_lower[row]
            self._offer(_Chosen(batch[row].copy(), int(label), float(q), float(p_lower)))
        return certificates

    def certify_one(self, image: NDArray[Any]) -> Certificate:
        """Return the certifier's certificate, as `Certifier.certify_one`; perhaps it is audited later."""
        found = self._certifier.certify_one(image)
        with self._counting:
            self._served += 1
            self._skip -= 1
            if self._skip >= 0:
                return found
            self._rows(1)
        copy = as_batch(image, self._certifier.input_shape)[0].copy()
        self._offer(_Chosen(copy, found.label, found.q, found.p_lower))
        return found

    def _rows(self, count: int) -> list[int]:
        """Return which of the last ``count`` inputs are chosen; the gaps between chosen inputs are geometric."""
        rows = []
        while self._skip < 0:
            rows.append(self._skip + count)
            self._skip += int(self._choice.geometric(self._settings.rate))
        return rows

    def _offer(self, chosen: _Chosen) -> None:
        try:
            if self._closed or os.getpid() != self._process:  # a child process has no thread: audit in one process
                raise queue.Full
            self._queue.put_nowait(chosen)
        except queue.Full:
            self._drop()

    def _drop(self) -> None:
        with self._counting:
            self._dropped += 1

    def _work(self) -> None:
        while (chosen := self._queue.get()) is not None:
            if _leaving():
                self._drop()
                self._queue.task_done()
                continue
            self._errors["audit"] = _reason(partial(self._audit, chosen))
            if self._record.evidence.audits % self._settings.save_every == 0:
                self._errors["save"] = _reason(self._save)
            self._queue.task_done()
        self._queue.task_done()

    def _audit(self, chosen: _Chosen) -> None:
        record, n, refuted = self._record, self._settings.n, False
        if chosen.label != ABSTAIN:
            name = (record.start << 32) + self._begun
            self._begun += 1
            try:
                k = _hits(self._evaluate(chosen.image, n, name), n, chosen.label, len(self._certifier.classes))
            except Exception:
                if _leaving():  # thread pools end before anyone is told
                    self._drop()
                    return
                self._record = replace(record, failed=record.failed + 1)
                raise
            refuted = refutes(k, n, chosen.p_lower, self._settings.b)
            record = replace(record, evaluations=record.evaluations + n)
        else:
            record = replace(record, abstained=record.abstained + 1)
        drift = record.drift.after(chosen.q, float(self._ties.random()))
        self._record = replace(record, evidence=record.evidence.after(refuted), drift=drift)

    def _save(self) -> None:
        if self._state is not None:
            with self._saving:
                save(self._state, self._snapshot())

    def _snapshot(self) -> Record:
        return replace(self._record, served=self._served, dropped=self._dropped)

    @property
    def status(self) -> AuditStatus:
        """What the audit knows now, from any thread; its intervals take milliseconds, so not for every input."""
        return AuditStatus.of(
            self._snapshot(),
            b=self._settings.b,
            alpha=self._settings.alpha,
            queued=self._queue.qsize(),
            error="; ".join(filter(None, self._errors.values())),
        )

    def metrics(self) -> str:
        """Return the status in Prometheus' text exposition format; needs prometheus_client."""
        return self.status.metrics()

    def flush(self) -> None:
        """Wait until all that was chosen so far is audited, and write the state.

        Raises
        ------
        ValueError, OSError
            If the state cannot be written, or another auditor uses the file.
        """
        if os.getpid() != self._process:
            return
        if self._thread.is_alive():
            self._queue.join()
        self._save()

    def close(self) -> None:
        """Audit what was chosen so far, write the state and end the thread; the certifier still serves, unaudited.

        Raises
        ------
        ValueError, OSError
            As `flush`.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        atexit.unregister(self._leave)
        self._save()

    def _leave(self) -> None:
        """End the thread when the process ends without `close`: what still waits is dropped."""
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
            self._errors["save"] = _reason(self._save)

    def __enter__(self) -> Auditor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _leaving() -> bool:
    """Return whether the process is about to end."""
    return not threading.main_thread().is_alive()


def _reason(step: Callable[[], None]) -> str:
    """Take a step and return why it failed, in one line; "" if it did not."""
    try:
        step()
    except Exception as error:
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
