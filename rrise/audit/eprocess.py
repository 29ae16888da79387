"""The audit's evidence against a bundle: an e-process for "certificates are refuted at a rate of at most m"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.audit.bets import grow, worth

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETS = 32
"""Rates that are bet on at once."""


def rates(m: float) -> NDArray[np.float64]:
    """Return float64[BETS], the rates above m that are bet on, evenly spaced in arcsin(sqrt): Jeffreys' prior on (m,1).

    In that scale a binomial share has the same spread everywhere, so no rate is favoured and nothing is to be tuned.
    """
    low = np.arcsin(np.sqrt(m))
    return np.asarray(np.sin(low + (np.pi / 2 - low) * (np.arange(BETS) + 0.5) / BETS) ** 2)


def factors(m: float) -> NDArray[np.float64]:
    """Return float64[2, BETS]: what the bets are multiplied by if the certificate stands (row 0) or is refuted (row 1).

    Row X is 1 + lambda (X - m) with lambda = (r - m) / (m (1 - m)) in (0, 1/m), r of :func:`rates`: the likelihood
    ratio of rate r to rate m. It is linear in X, so its mean is at most 1 whenever the conditional mean of X is at
    most m, and lambda is fixed before anything is seen.
    """
    r = rates(m)
    return np.stack([(1 - r) / (1 - m), r / m])


def refutes(k: int, n: int, p_lower: float, b: float) -> bool:
    """Return whether k of n fresh noisy draws refute "the label's probability is at least p_lower" at level b.

    True if the one-sided upper Clopper-Pearson bound 1 - BetaInv(b; n - k, k + 1) lies below ``p_lower``. If the claim
    is true, that has probability at most ``b`` over the draws. A claim that is wrong by little is rarely refuted.

    Raises
    ------
    TypeError, ValueError
        As :func:`rrise.calibration.bounds.clopper_pearson`.
    """
    from rrise.calibration.bounds import clopper_pearson

    return bool(1 - clopper_pearson(n - k, n, b) < p_lower)


@dataclass(frozen=True, eq=False)
class EProcess:
    """Evidence against "each audited input is refuted with conditional probability at most m"; made by `begin`.

    An input is refuted if it was certified and :func:`refutes` holds. A promise is about all inputs,
    so an abstention counts as an input that is not refuted: leaving abstentions out would test a promise that nobody
    made. If the deployed curve's miscoverage is at most the promise and inputs come independently of each other, each
    is refuted with probability at most the promise + b, hence m.

    What an alarm means. A training-conditional guarantee bounds the miscoverage of the deployed curve, but for an
    unlucky calibration draw: over calibration and service, P[alarm] <= alpha + eta as long as inputs are drawn as the
    calibration's were. A marginal guarantee bounds it on average over calibrations: the curve at hand may well miss
    more, for ever, and an alarm then says that it does, not that the guarantee was false.

    Parameters
    ----------
    m : float
        The rate promised, in (0,1).
    audits, refuted : int
    capital : float64[BETS]
        What the bets are worth; see :mod:`rrise.audit.bets`.
    largest : float
        The largest e-value so far; at 1/alpha there is an alarm, false with probability at most alpha, ever.

    References
    ----------
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024).
    """

    m: float
    audits: int
    refuted: int
    capital: NDArray[np.float64]
    largest: float

    @classmethod
    def begin(cls, m: float) -> EProcess:
        """Return the e-process before the first audit, worth 1, or raise ValueError unless 0 < m < 1."""
        if not 0 < m < 1:
            raise ValueError(f"m: expected a rate strictly between 0 and 1, got {m}. Give the promise + b.")
        return cls(m, 0, 0, np.zeros(BETS), 1.0)

    @property
    def value(self) -> float:
        """The e-value: the money there is for each unit that was bet."""
        return float(worth(self.capital, self.audits))

    def after(self, refuted: bool) -> EProcess:
        """Return the e-process after one more audit."""
        capital = grow(self.capital, self.audits, factors(self.m)[int(refuted)])
        value = float(worth(capital, self.audits + 1))
        return EProcess(self.m, self.audits + 1, self.refuted + int(refuted), capital, max(self.largest, value))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return (low, high) that contains the rate of refutation with probability at least 1 - alpha, at all times.

        For a constant rate. If it changes, low holds for the largest conditional rate so far and high for the
        smallest. A rate of refutation is at most the rate of miscoverage plus b, so miscoverage is at least low - b;
        it can exceed high, for what is wrong by little is rarely refuted.

        Notes
        -----
        Each end inverts the one-sided beta-binomial mixture martingale at level alpha / 2, by
        :func:`rrise.calibration.bounds.mixture_lower`; Robbins, "Statistical methods related to the law of the
        iterated logarithm" (1970); Howard et al., "Time-uniform Chernoff bounds" (2021).
        """
        from rrise.calibration.bounds import mixture_lower

        if not self.audits:
            return 0.0, 1.0
        low, stand = mixture_lower([self.refuted, self.audits - self.refuted], self.audits, alpha / 2)
        return float(low), float(1 - stand)
