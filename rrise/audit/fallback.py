"""The fallback: inputs on which the surrogate abstains are certified by Monte Carlo, within a budget."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from rrise.audit.auditor import Auditor
from rrise.audit.settings import promised
from rrise.calibration.statements import one_input, weighted
from rrise.promise import decimal, percent
from rrise.runtime.certificates import Certificates
from rrise.runtime.images import as_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rrise.audit.budget import Budget
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
    return certificates.abstained


@final
class Fallback:
    """A certifier whose abstentions, or other chosen inputs, go to Monte Carlo as far as a budget reaches.

    The guarantee together. A new input is certified wrongly by the surrogate with probability at most P, the bundle's
    promise. An input is chosen by its certificate, before any noise is drawn for it; so, whatever the input, Monte
    Carlo certifies it wrongly with probability at most alpha. A certificate that is returned is one of the two, so a
    new input gets a wrong one with probability at most

        P + alpha P(chosen)  <=  P + alpha,

    where P is over inputs (and, marginally, over calibrations, or but for an unlucky one: on the conditions of
    `Certifier.statement`) and alpha over the noise of each single input. None of these is a probability given that a
    certificate was issued: an input that Monte Carlo rarely certifies may be wrong whenever it does. A budget that is
    spent leaves abstentions, about which nothing is claimed.

    Parameters
    ----------
    certifier : Certifier or Auditor
        Whose single passes come first; an auditor goes on auditing them.
    monte_carlo : MonteCarlo
    budget : Budget
        An input takes ``monte_carlo.most`` evaluations from it, and gives back what it does not spend; an input for
        which they are not there keeps the surrogate's answer.
    choose : callable
        Certificates -> bool[B], the rows that go to Monte Carlo. Where a chosen row was certified already, Monte
        Carlo's certificate replaces it if it has the larger radius or another label.

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
        self._error = promised(plain.bundle)
        self._lock = threading.Lock()
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
        columns = {name: getattr(found, name).copy() for name in ("label", "radius", "p_lower", "q", "evaluations")}
        evidence = np.where(found.abstained, NONE, SURROGATE).astype(f"<U{len(MONTE_CARLO)}")
        spent = 0
        if rows:
            try:
                backed = self._monte_carlo(as_batch(images, self._certifier.input_shape)[rows])
                spent = int(backed.evaluations.sum())
            finally:
                self._budget.give_back(len(rows) * self._monte_carlo.most - spent)
            better = ~backed.abstained & ((backed.radius > found.radius[rows]) | (backed.label != found.label[rows]))
            at = np.array(rows)[better]
            for name in ("label", "radius", "p_lower", "q"):
                columns[name][at] = getattr(backed, name)[better]
            columns["evaluations"][rows] += backed.evaluations
            evidence[at] = MONTE_CARLO
        self._count(len(found), int(chosen.sum()), len(rows), spent)
        return BackedCertificates(Certificates(**columns), evidence)

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
        """What is guaranteed together, in one sentence with its numbers and the share of inputs chosen so far."""
        counts, calibration = self.counts, self._certifier.bundle.calibration
        error, alpha = self._error, self._monte_carlo.alpha
        share = f"{100 * counts['chosen'] / counts['inputs']:.3g}%" if counts["inputs"] else "none yet"
        return (
            f"{one_input(calibration)} gets a wrong certificate with probability at most "
            f"{percent(decimal(error) + decimal(alpha))}: {percent(error)} from the surrogate, a "
            f"{calibration.guarantee} guarantee over inputs{weighted(calibration)}, and {percent(alpha)} from Monte "
            f"Carlo times the share of inputs that go to it ({share} of {counts['inputs']:,} were chosen so far); "
            f"whatever an input, Monte Carlo certifies it wrongly with probability at most {percent(alpha)} over its "
            "noise."
        )
