"""The auditor: a certifier, a random share of whose certificates is checked by Monte Carlo while it serves."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise.audit.backlog import Backlog, Chosen
from rrise.audit.drift import Drift
from rrise.audit.eprocess import EProcess
from rrise.audit.record import Record, resume
from rrise.audit.settings import AuditSettings, promised
from rrise.audit.status import AuditStatus
from rrise.runtime.images import as_batch
from rrise.runtime.locks import ProcessLock

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from rrise.audit.backlog import Counts
    from rrise.runtime.certificates import Certificate, Certificates
    from rrise.runtime.certifier import Certifier


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
        Probability at most that a true certificate is refuted. Default: a tenth of the bundle's promise.
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
        self._certifier = certifier
        self._settings = AuditSettings.of(promised(certifier.bundle), rate, n, b, alpha, waiting, save_every)
        path = None if state is None else Path(state)
        fresh = Record(certifier.bundle.sha256, 1, EProcess.begin(self._settings.m), Drift.begin(reference))
        record = resume(path, fresh)
        root = np.random.SeedSequence([secrets.randbits(128) if seed is None else seed, record.start])
        self._choice, ties = map(np.random.default_rng, root.spawn(2))
        self._skip = int(self._choice.geometric(rate)) - 1  # inputs before the next that is chosen
        self._served, self._counting = record.served, ProcessLock()
        classes = len(certifier.classes)
        self._backlog = Backlog(evaluate, classes, self._settings, record, path, ties, lambda: self._served)

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
            self._backlog.offer(Chosen(batch[row].copy(), int(label), float(q), float(p_lower)))
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
        self._backlog.offer(Chosen(copy, found.label, found.q, found.p_lower))
        return found

    def _rows(self, count: int) -> list[int]:
        """Return which of the last ``count`` inputs are chosen; the gaps between chosen inputs are geometric."""
        rows = []
        while self._skip < 0:
            rows.append(self._skip + count)
            self._skip += int(self._choice.geometric(self._settings.rate))
        return rows

    @property
    def status(self) -> AuditStatus:
        """What the audit knows now, from any thread; its intervals take milliseconds, so not for every input."""
        return AuditStatus.of(
            self._backlog.record,
            b=self._settings.b,
            alpha=self._settings.alpha,
            queued=len(self._backlog),
            error=self._backlog.error,
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
        self._backlog.flush()

    def close(self) -> None:
        """Audit what was chosen so far, write the state and end the thread; the certifier still serves, unaudited.

        Raises
        ------
        ValueError, OSError
            As `flush`.
        """
        self._backlog.close()

    def __enter__(self) -> Auditor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
