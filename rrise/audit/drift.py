"""A drift signal without labels or Monte Carlo: a conformal test martingale on the surrogate's top probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.audit.bets import grow, worth

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CELLS = 256
"""Cells of logit(q) from -7 to 25, the first and last open; one more holds the inputs whose q is NaN."""
_SHAPES = (0.5, 0.75, 1.0, 1.5, 2.0)
_A, _B = np.array([(a, b) for a in _SHAPES for b in _SHAPES if (a, b) != (1.0, 1.0)]).T
_LOG_NORM = np.array([math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in zip(_A, _B, strict=True)])
DRIFT_BETS = len(_A)


def cells(q: ArrayLike) -> NDArray[np.int64]:
    """Return the cell int64[...] of each top probability."""
    values = np.asarray(q, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logit = np.log(values) - np.log1p(-values)
        found = np.clip((logit + 7) * (CELLS / 32), 0, CELLS - 1)
    return np.where(np.isnan(found), CELLS, found).astype(np.int64)


def rank(counts: NDArray[np.int64], cell: int, uniform: float) -> float:
    """Return the p-value of a new q, itself already counted: the share of all below it, and of those in its cell."""
    return float((counts[:cell].sum() + uniform * counts[cell]) / counts.sum())


def densities(p: ArrayLike) -> NDArray[np.float64]:
    """Return float64[..., DRIFT_BETS], Beta(a, b) densities at p-values: bets on too many small, large, middle or both.

    Each integrates to 1, so its mean is 1 at a uniform p. Those of b = 1 are the power martingale's.
    """
    inside = np.clip(np.asarray(p, dtype=np.float64), 1e-12, 1 - 1e-12)[..., None]
    return np.asarray(np.exp(_LOG_NORM + (_A - 1) * np.log(inside) + (_B - 1) * np.log1p(-inside)))


@dataclass(frozen=True, eq=False)
class Drift:
    """Evidence against "the q's are exchangeable": those of a reference sample, if any, and all since; see `begin`.

    The p-value of a new q is its rank among all before it, ties broken by a random number: under exchangeability the
    p-values are independent and uniform, to the last digit although q is sorted into cells. (Ranks among a fixed
    reference would not be independent: its own sampling error would raise a false alarm in the end.) An alarm at an
    e-value of 1/alpha is false with probability at most alpha, ever. It says that inputs changed, not that
    certificates became wrong; and certificates can become wrong while the q's stay.

    Parameters
    ----------
    counts : int64[CELLS + 1]
        How many q's were seen in each cell.
    steps : int
        How many were bet on.
    capital : float64[DRIFT_BETS]
        What the bets are worth; see :mod:`rrise.audit.bets`.
    largest : float
        The largest e-value so far.

    References
    ----------
    Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), theorem 8.2; Volkhonskiy et al.,
    "Inductive conformal martingales for change-point detection" (2017); Vovk, "Testing randomness online" (2021).
    """

    counts: NDArray[np.int64]
    steps: int
    capital: NDArray[np.float64]
    largest: float

    @classmethod
    def begin(cls, reference: ArrayLike | None = None) -> Drift:
        """Return the signal before the first input; a reference float64[R] of q's must be drawn as the inputs are."""
        counts = np.zeros(CELLS + 1, dtype=np.int64)
        if reference is not None:
            sample = np.asarray(reference, dtype=np.float64)
            if sample.ndim != 1 or np.any((sample < 0) | (sample > 1)):
                raise ValueError(
                    f"reference: expected top probabilities q in [0,1], one axis, got shape {sample.shape}. Give "
                    "`certifier(images).q` of images drawn as those served."
                )
            np.add.at(counts, cells(sample), 1)
        return cls(counts, 0, np.zeros(DRIFT_BETS), 1.0)

    @property
    def value(self) -> float:
        """The e-value."""
        return float(worth(self.capital, self.steps))

    def after(self, q: float, uniform: float) -> Drift:
        """Return the signal after one more q, given a random number, uniform in [0,1), drawn for it alone."""
        cell = int(cells(q))
        counts = self.counts.copy()
        counts[cell] += 1
        capital = grow(self.capital, self.steps, densities(rank(counts, cell, uniform)))
        largest = max(self.largest, float(worth(capital, self.steps + 1)))
        return Drift(counts, self.steps + 1, capital, largest)
