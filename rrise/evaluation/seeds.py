"""The same number from several seeds: mean and standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class OverSeeds:
    """Mean and sample standard deviation (one degree of freedom less than seeds) of a number over seeds.

    Attributes
    ----------
    mean, std : float
        NaN where there is none: of no seeds, and the deviation of one.
    seeds : int
        Seeds that gave a number.
    """

    mean: float
    std: float
    seeds: int

    def text(self, digits: int = 1) -> str:
        """Return ``mean ± std``, or the mean alone of one seed, or a dash of none."""
        if not self.seeds:
            return "–"
        mean = f"{self.mean:,.{digits}f}"
        return mean if self.seeds == 1 else f"{mean} ± {self.std:,.{digits}f}"


def over_seeds(values: ArrayLike) -> OverSeeds:
    """Return mean and standard deviation of the values that are numbers; NaN says that a seed gave none.

    >>> over_seeds([77.5, 77.9, 77.4]).text()
    '77.6 ± 0.3'
    """
    given = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if given.ndim != 1:
        raise ValueError(f"values: expected one number a seed, got shape {given.shape}. Give one row of the table.")
    known = given[~np.isnan(given)]
    if not known.size:
        return OverSeeds(math.nan, math.nan, 0)
    spread = float(np.std(known, ddof=1)) if known.size > 1 else math.nan
    return OverSeeds(float(known.mean()), spread, int(known.size))
