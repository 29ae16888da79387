"""The fallback: inputs on which the surrogate abstains are certified by Monte Carlo, within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from rrise.audit.auditor import Auditor
from rrise.audit.settings import promised
from rrise.calibration.cascade import describe_cascade
from rrise.runtime.cascade import merged, undecided
from rrise.runtime.images import as_batch
from rrise.runtime.locks import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rrise.audit.budget import Budget
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.certifier import Certifier

SURROGATE, MONTE_CARLO, NONE = "surrogate", "monte carlo", "none"


class MonteCarlo(Protocol):
    """A Monte Carlo certifier of the bundle's smoothed classifier; `rrise.stages.service.MonteCarloCertifier` is one.

    Whatever the image, each certificate must be wrong with probability at most ``alpha`` over noise drawn afresh.
    """

    @property
    def alpha(self) -> float: ...  # noqa: D102
    @property
    def most(self) -> int: ...  # noqa: D102
    @property
    def sigma(self) -> float: ...  # noqa: D102

    def __call__(self, images: NDArray[Any]) -> Certificates:
        """Return certificates of uint8 (N,H,W,C) or float32 (N,C,H,W), at most ``most`` evaluations each."""


@dataclass(frozen=True, eq=False)
class BackedCertificates:
    """Certificates, and what each rests on.

    Parameters
    ----------
    certificates : Certificates
        ``evaluations`` of a row are those that Monte Carlo spent on it.
    evidence : str[B]
        "surrogate": the label was certified by the single pass. "monte carlo": by Monte Carlo. "none": abstained; if
        the row's ``evaluations`` are 0, Monte Carlo was not asked.
    """

    certificates: Certificates
    evidence: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.certificates)


def abstentions(certificates: Certificates) -> NDArray[np.bool_]:
    """Return the rows that abstain: what a `Fallback` chooses unless it is told otherwise."""
    return undecided(certificates)


@final
class Fallback:
    """A certifier whose abstentions, or other chosen inputs, go to Monte Carlo as far as a budget reaches.

    The guarantee together. A new input is certified wrongly by the surrogate with probability at most the bundle's
    promise, over inputs (and, marginally, over calibrations, or but for an unlucky one: as in `Certifier.statement`),
    and a chosen one by Monte Carlo with probability at most alpha, over its noise; so it gets a wrong certificate with
    probability at most

        promise + alpha P(chosen)  <=  promise + alpha.

    Why, and what it is no probability of: :mod:`rrise.calibration.cascade`. A budget that is spent leaves abstentions,
    about which nothing is claimed.

    Parameters
    ----------
    certifier : Certifier or Auditor
        Whose single passes come first; an auditor goes on auditing them.
    monte_carlo : MonteCarlo
    budget : Budget
        An input takes ``monte_carlo.most`` evaluations from it, and gives back what it does not spend; an input for
        which they are not there keeps the surrogate's answer.
    choose : callable
        Certificates -> bool[B], the rows that go to Monte Carlo; :func:`rrise.runtime.cascade.undecided` also knows
        those of too small a radius. Where a chosen row was certified already, Monte Carlo's certificate replaces it if
        it has the larger radius or another label.

    Raises
    ------
    ValueError
        If Monte Carlo has another sigma, or the bundle's guarantee is not one of all inputs.
    """

    def __init__(
        self,
        certifier: Certifier | Auditor,
        monte_carlo: MonteCarlo,
        budget: Budget,
        *,
        choose: Callable[[Certificates], NDArray[np.bool_]] = abstentions,
    ) -> None:
        plain = certifier.certifier if isinstance(certifier, Auditor) else certifier
        if monte_carlo.sigma != plain.sigma:
            raise ValueError(
                f"fallback: expected sigma {plain.sigma} as of the bundle, got {monte_carlo.sigma}. Certify the "
                "same smoothed classifier."
            )
        self._certify, self._certifier = certifier, plain
        self._monte_carlo, self._budget, self._choose = monte_carlo, budget, choose
        promised(plain.bundle)  # refuses a guarantee that is not about all inputs
        self._lock = ProcessLock()
        self._counts = dict.fromkeys(("inputs", "chosen", "answered", "refused", "evaluations"), 0)

    def __call__(self, images: NDArray[Any]) -> BackedCertificates:
        """Return one certificate an image, with the evidence that it rests on.

        Raises
        ------
        TypeError, ValueError
            As `Certifier.__call__`, or as Monte Carlo does; nothing is counted then.
        """
        found = self._certify(images)
        chosen = np.asarray(self._choose(found), dtype=np.bool_)
        if chosen.shape != (len(found),):
            raise ValueError(f"choose: expected bool[{len(found)}], one an input, got shape {chosen.shape}. Mark rows.")
        rows = [row for row in np.flatnonzero(chosen).tolist() if self._budget.take(self._monte_carlo.most)]
        evidence = np.where(found.abstained, NONE, SURROGATE).astype(f"<U{len(MONTE_CARLO)}")
        spent = 0
        if rows:
            try:
                backed = self._monte_carlo(as_batch(images, self._certifier.input_shape)[rows])
                spent = int(backed.evaluations.sum())
            finally:
                self._budget.give_back(len(rows) * self._monte_carlo.most - spent)
            found, replaced = merged(found, backed, np.array(rows))
            evidence[replaced] = MONTE_CARLO
        self._count(len(found), int(chosen.sum()), len(rows), spent)
        return BackedCertificates(found, evidence)

    def _count(self, inputs: int, chosen: int, answered: int, spent: int) -> None:
        with self._lock:
            counts = self._counts
            counts["inputs"] += inputs
            counts["chosen"] += chosen
            counts["answered"] += answered
            counts["refused"] += chosen - answered
            counts["evaluations"] += spent

    @property
    def counts(self) -> dict[str, int]:
        """How many inputs came, were chosen, went to Monte Carlo ("answered") or found the budget spent ("refused").

        And how many evaluations were spent.
        """
        with self._lock:
            return dict(self._counts)

    @property
    def statement(self) -> str:
        """What is guaranteed together, under which conditions, and the share of inputs that were chosen so far."""
        counts, record = self.counts, self._certifier.bundle.calibration
        return describe_cascade(record, self._monte_carlo.alpha, counts["chosen"], counts["inputs"])
