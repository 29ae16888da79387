"""What Monte Carlo for the undecided buys, and what it costs: a line for each cascade of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.evaluation import metrics
from rrise.evaluation.contender import CASCADE
from rrise.promise import complement

if TYPE_CHECKING:
    from rrise.evaluation.comparison import Comparison

HEAD = (
    *("certifier", "promised", "asked", "evaluations", "share"),
    *("r ≥ 0", "behind", "mean r", "ratio", "abstains", "repaid"),
)
"""Columns of :meth:`Cascaded.cells`."""


@dataclass(frozen=True)
class Cascaded:
    """A single pass, or a cascade, beside the baseline.

    Attributes
    ----------
    name : str
    error : float
        What it promises in all.
    asked : Share
        Inputs that went on to Monte Carlo.
    evaluations, of_baseline : float
        Mean noisy evaluations an input, over all inputs, and as a share of the baseline's.
    certified_accuracy, behind : float
        Certified accuracy at radius 0, and how much less that is than the baseline's; negative: more.
    average_certified_radius, relative_radius, abstention : float
        As in its row of the comparison.
    break_even : float
        Certificates after which the baseline has spent as many evaluations, targets and calibration included.
    """

    name: str
    error: float
    asked: metrics.Share
    evaluations: float
    of_baseline: float
    certified_accuracy: float
    behind: float
    average_certified_radius: float
    relative_radius: float
    abstention: float
    break_even: float

    def cells(self) -> tuple[str, ...]:
        """Return the line of a table, in the order of `HEAD`."""
        return (
            self.name,
            complement(self.error),
            f"{100 * self.asked.value:.1f}%",
            f"{self.evaluations:,.0f}",
            f"{100 * self.of_baseline:.1f}%",
            f"{100 * self.certified_accuracy:.1f}%",
            f"{100 * self.behind:+.1f}",
            f"{self.average_certified_radius:.4f}",
            f"{self.relative_radius:.3f}",
            f"{100 * self.abstention:.1f}%",
            f"{self.break_even:,.0f}" if np.isfinite(self.break_even) else "never",
        )


def cascades(comparison: Comparison) -> tuple[Cascaded, ...]:
    """Return the deployed single pass and every cascade beside the baseline; nothing where there is no cascade."""
    if not any(row.role == CASCADE for row in comparison.rows):
        return ()
    labels, baseline = comparison.labels, comparison.contender(comparison.baseline).certificates
    whole, (best,) = float(baseline.evaluations.mean()), metrics.certified_accuracy(baseline, labels, 0.0).tolist()
    found = []
    for row in comparison.rows:
        if row.role != CASCADE and row.name != comparison.deployed:
            continue
        certificates = comparison.contender(row.name).certificates
        (accuracy,) = metrics.certified_accuracy(certificates, labels, 0.0).tolist()
        evaluations = float(certificates.evaluations.mean())
        found.append(
            Cascaded(
                name=row.name,
                error=row.error,
                asked=metrics.Share(int(np.count_nonzero(certificates.evaluations)), len(certificates)),
                evaluations=evaluations,
                of_baseline=evaluations / whole,
                certified_accuracy=accuracy,
                behind=best - accuracy,
                average_certified_radius=row.average_certified_radius,
                relative_radius=row.relative_radius,
                abstention=row.abstention,
                break_even=metrics.break_even(
                    comparison.costs.offline, comparison.costs.monte_carlo, row.forward_passes
                ),
            )
        )
    return tuple(found)


def explained(comparison: Comparison) -> str:
    """Return what the lines of the table are, in words."""
    return (
        "The surrogate first, Monte Carlo for the rest, both within one promise: asked, the share of images that the "
        f"surrogate left to Monte Carlo; noisy evaluations an image, over all images, and as a share of those of "
        f"{comparison.baseline}; certified accuracy at radius 0, and by how many points it is behind "
        f"{comparison.baseline}; repaid, certificates after which targets and calibration are paid back."
    )
