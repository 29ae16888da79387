"""Money that bets against a hypothesis, from every step on: the sum of a mixture over bets and over their first steps.

A bet multiplies its stake at each step by a factor whose mean is at most 1 while the hypothesis is true. What all
bets together are worth is then a nonnegative supermartingale that starts at 1, an e-process: it ever reaches 1/alpha
with probability at most alpha (Ville 1939). A share of the money waits for each later step, so that a change after a
long good time is found as if the bets had begun there, for a price of log k + 2 log log k nats at step k.

References
----------
Ville, "Étude critique de la notion de collectif" (1939); Shafer, "Testing by betting", JRSS A 184 (2021); a prior over
the time of a change: Shiryaev (1963); in e-processes: Shin, Ramdas and Rinaldo, "E-detectors" (2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e300
"""What a bet may be worth at most: a cap only takes money away, and no number overflows."""


def waiting(steps: int) -> float:
    """Return the share of the money that waits for steps after the first ``steps``: 1 at 0, slowly falling to 0."""
    return float(1 / np.log2(steps + 2))


def grow(capital: NDArray[np.float64], steps: int, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the bets are worth after one more step.

    Parameters
    ----------
    capital : float64[..., J]
        What each of J bets was worth after ``steps`` steps; zeros before the first.
    steps : int
    factors : float64[..., J]
        What this step multiplies each by, at least 0. Given the past, the mean must be at most 1 under the hypothesis:
        a factor may depend on this step's outcome only through a bet that was fixed before it.

    Returns
    -------
    float64[..., J]
    """
    stake = waiting(steps) - waiting(steps + 1)
    return np.minimum((capital + stake) * factors, LARGEST)


def worth(capital: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return the e-value, float64[...], of bets worth float64[..., J] after so many steps: 1 before the first."""
    return np.asarray(capital.mean(axis=-1) + waiting(steps))
