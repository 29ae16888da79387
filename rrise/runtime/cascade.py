"""The cascade: the surrogate first, Monte Carlo for the rest; which inputs go on, and which certificate is returned.

`rrise.audit.fallback.Fallback` in service and :mod:`rrise.evaluation.cascade` in a comparison both follow these rules.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rrise.runtime.certificates import Certificates

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPLACED = ("label", "radius", "p_lower", "q")


def undecided(first: Certificates, wanted: float = 0.0) -> NDArray[np.bool_]:
    """Return bool[B]: the abstentions, and the certificates of a radius below ``wanted``.

    Parameters
    ----------
    first : Certificates
        Of the first stage.
    wanted : float
        ℓ2 in [0, 1] pixel units, at least 0; 0 leaves the abstentions alone.

    Raises
    ------
    ValueError
        If it is no radius.

    Examples
    --------
    >>> label, radius, p_lower = np.array([1, -1, 0]), np.array([0.2, 0.0, 0.4]), np.array([0.8, 0.3, 0.95])
    >>> first = Certificates(label, radius, p_lower, q=np.ones(3), evaluations=np.zeros(3, np.int64))
    >>> undecided(first), undecided(first, 0.3)
    (array([False,  True, False]), array([ True,  True, False]))
    """
    check_wanted(wanted)
    return first.abstained | (first.radius < wanted)


def merged(
    first: Certificates, second: Certificates, rows: NDArray[np.int64]
) -> tuple[Certificates, NDArray[np.bool_]]:
    """Return the certificates of both stages together, and bool[B], the rows whose certificate is the second's.

    The second's certificate replaces the first's if it has the larger radius or another label, and was issued at all.
    So what is returned is one of the two, and wrong with at most the sum of the probabilities with which they are.

    Parameters
    ----------
    first : Certificates
        Of B inputs.
    second : Certificates
        Of those that went on, in the order of ``rows``.
    rows : int64[C]
        Which of the B these are, each at most once.

    Returns
    -------
    certificates : Certificates
        ``evaluations`` are those of both stages.
    replaced : bool[B]
    """
    better = ~second.abstained & ((second.radius > first.radius[rows]) | (second.label != first.label[rows]))
    columns = {name: getattr(first, name).copy() for name in (*_REPLACED, "evaluations")}
    at = rows[better]
    for name in _REPLACED:
        columns[name][at] = getattr(second, name)[better]
    columns["evaluations"][rows] += second.evaluations
    replaced = np.zeros(len(first), dtype=np.bool_)
    replaced[at] = True
    return Certificates(**columns), replaced


def check_wanted(wanted: float) -> None:
    """Raise ValueError unless it is a radius."""
    if not (math.isfinite(wanted) and wanted >= 0):
        raise ValueError(f"wanted: expected a radius of at least 0, got {wanted}. Use 0 for abstentions alone.")
