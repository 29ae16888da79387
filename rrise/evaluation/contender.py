"""Who is compared: one certifier's answers on the test images, and the calibration behind a curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.promise import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.certificates import Certificates

PASSES, BUDGET = "more passes", "smaller budget"
"""Roles of contenders that are points of a trade-off: surrogate and noisy passes, and Monte Carlo of few draws."""
CASCADE = "cascade"
"""Role of the surrogate with Monte Carlo for what it leaves undecided."""
WITH_SURROGATE = (PASSES, CASCADE)
"""Roles whose certificates rest on a calibrated surrogate and cost its pass beside noisy evaluations."""
LARGER = "larger budget"
"""Role of Monte Carlo with a larger fixed budget than the baseline's, a second measure beside it."""


@dataclass(frozen=True)
class Contender:
    """One certifier's answers on the test images.

    Attributes
    ----------
    name : str
        How the table and the figures call it.
    certificates : Certificates
    predicted : int64[B]
        The class that ``p_lower`` speaks of, also where the certifier abstains.
    error : float
        Failure probability it promises: α of Monte Carlo, the promise of a calibrated curve.
    statement : str
        Its guarantee in one or two sentences.
    of_certified : bool
        Whether ``error`` is promised among certified inputs alone, and so over all inputs too.
    role : str
        Empty, or `PASSES` or `BUDGET`: such a one stands in the tables and in the figure of the trade-off, no other;
        or `CASCADE`: in the tables and in their own, :mod:`rrise.evaluation.cascade_table`; or `LARGER`: in the tables
        and among the break-evens.
    """

    name: str
    certificates: Certificates
    predicted: NDArray[np.int64]
    error: float
    statement: str
    of_certified: bool = False
    role: str = ""

    @property
    def single_pass(self) -> bool:
        """Whether certificates cost no noisy evaluation, only one clean pass of the engine."""
        return not self.certificates.evaluations.any()


@dataclass(frozen=True)
class CalibrationView:
    """One calibrated curve and the calibration points it was fitted to.

    Attributes
    ----------
    name : str
        The contender that uses the curve.
    knots_q, knots_p : float64[J]
        The curve, piecewise linear.
    q, p_lower : float64[M]
        The engine's top probability on each calibration image (NaN where it gave none), and the lower bound from its
        noisy counts.
    """

    name: str
    knots_q: NDArray[np.float64]
    knots_p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_lower: NDArray[np.float64]


def fixed_budget(
    name: str,
    selection: NDArray[np.int64],
    estimation: NDArray[np.int64],
    *,
    alpha: float,
    sigma: float,
    role: str = "",
) -> Contender:
    """Return Monte Carlo with a fixed budget (B1) from class counts int64[B, K] of two streams."""
    from rrise.evaluation.baselines import cohen_certify, cohen_select

    return Contender(
        name,
        cohen_certify(selection, estimation, alpha=alpha, sigma=sigma),
        cohen_select(selection),
        alpha,
        f"For any input, each certificate is wrong with probability at most {percent(alpha)} over its own noise "
        f"(Cohen et al. 2019): {int(selection[0].sum()):,} draws pick the class, {int(estimation[0].sum()):,} others "
        "bound it.",
        role=role,
    )
