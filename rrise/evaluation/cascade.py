"""The surrogate first, Monte Carlo for the rest, as functions of the first certificates and of class counts.

Rules and promise are those of a `Fallback` in service: :mod:`rrise.runtime.cascade`, :mod:`rrise.calibration.cascade`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrise.evaluation.adaptive_stopping import adaptive_certify
from rrise.evaluation.baselines import cohen_certify
from rrise.runtime.cascade import merged, undecided

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates


def cascade_fixed(
    first: Certificates, selection: ArrayLike, estimation: ArrayLike, *, alpha: float, sigma: float, wanted: float = 0.0
) -> tuple[Certificates, NDArray[np.bool_]]:
    """Return the first stage's certificates, and those of Monte Carlo with a fixed budget (B1) for what it leaves.

    Parameters
    ----------
    first : Certificates
        Of B inputs, by the surrogate.
    selection, estimation : int[B, K]
        As for :func:`rrise.evaluation.baselines.cohen_certify`. Only rows that go on are looked at.
    alpha : float
        Failure probability of a Monte Carlo certificate.
    sigma : float
        Noise level, in units of [0, 1] pixels.
    wanted : float
        Certificates of a smaller radius go on, too; ℓ2 of [0, 1] pixels.

    Returns
    -------
    certificates : Certificates
        ``evaluations`` are 0 where the first stage's answer was enough. Wrong together with at most the promise of the
        first stage plus ``alpha`` times the share of inputs that go on.
    replaced : bool[B]
        The rows whose certificate is Monte Carlo's.

    Raises
    ------
    ValueError, TypeError
        As ``cohen_certify``; if counts are of another number of inputs, or ``wanted`` is no radius.
    """
    rows = np.flatnonzero(undecided(first, wanted))
    picked, counted = (_rows_of(first, *each, rows) for each in (("selection", selection), ("estimation", estimation)))
    return merged(first, cohen_certify(picked, counted, alpha=alpha, sigma=sigma), rows)


def cascade_adaptive(
    first: Certificates,
    selection: ArrayLike,
    k: ArrayLike,
    looks: ArrayLike,
    *,
    alpha: float,
    sigma: float,
    tolerance: float = 0.01,
    wanted: float = 0.0,
) -> tuple[Certificates, NDArray[np.bool_]]:
    """Return the same with adaptive stopping (B3), which spends evaluations until a radius is known well enough.

    Parameters
    ----------
    first, wanted
        As for :func:`cascade_fixed`.
    selection, k, looks, alpha, sigma, tolerance
        As for :func:`rrise.evaluation.adaptive_stopping.adaptive_certify`, all of B inputs.
    """
    rows = np.flatnonzero(undecided(first, wanted))
    picked, counted = _rows_of(first, "selection", selection, rows), _rows_of(first, "k", k, rows)
    return merged(first, adaptive_certify(picked, counted, looks, alpha=alpha, sigma=sigma, tolerance=tolerance), rows)


def _rows_of(first: Certificates, name: str, counts: ArrayLike, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.asarray(counts)
    if found.shape[:1] != (len(first),):
        raise ValueError(
            f"{name}: expected a row for each of {len(first)} inputs, got shape {found.shape}. Give all inputs' counts."
        )
    return np.asarray(found[rows])
