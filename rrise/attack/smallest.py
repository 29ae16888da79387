"""The smallest perturbation that an attack finds, by halving the radius in which it looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Attack = Callable[[NDArray[np.intp], NDArray[np.float64]], Images]
    Flipped = Callable[[NDArray[np.intp], Images], NDArray[np.bool_]]


def grid_distance(points: NDArray[np.uint8], images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return float64[N], the ℓ2 distances of 8-bit images uint8[N, ...] in units of pixels in [0, 1]."""
    steps = points.astype(np.int64) - images
    found: NDArray[np.float64] = np.sqrt((steps**2).sum(axis=tuple(range(1, steps.ndim)))) / 255
    return found


def smallest_flips(
    images: NDArray[np.uint8],
    known: NDArray[np.float64],
    attack: Attack,
    flipped: Flipped,
    halvings: int,
    each: Callable[[int], Any] = lambda rows: None,
) -> NDArray[np.float64]:
    """Return float64[N], the ℓ2 distances of the nearest points found that flip the label; +inf where none is known.

    An upper bound on the true distance: it is that of a point which does flip, on the 8-bit grid, by the judgement of
    ``flipped``. Between 0 and the smallest distance known the radius is halved ``halvings`` times.

    Parameters
    ----------
    images : uint8[N, ...]
    known : float64[N]
        Distance of a point known to flip, +inf if none is.
    attack : callable
        From rows int[M] and radii float64[M] to attacked points uint8[M, ...] within these radii.
    flipped : callable
        From rows int[M] and points to bool[M].
    halvings : int
    each : callable
        Gets the number of rows after each attack on them.
    """
    nearest, held = known.copy(), np.zeros(len(images))
    rows = np.flatnonzero(np.isfinite(known))
    for _ in range(halvings if len(rows) else 0):
        middle = (held[rows] + nearest[rows]) / 2
        points = attack(rows, middle)
        hit = flipped(rows, points)
        nearest[rows[hit]] = np.minimum(nearest[rows[hit]], grid_distance(points[hit], images[rows[hit]]))
        held[rows[~hit]] = middle[~hit]
        each(len(rows))
    return nearest
