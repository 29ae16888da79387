"""One table for all certifiers of a test set: what each certifies, what it costs, and whether its promise holds.

Everything in a :class:`Comparison` but its latency follows from counts and engine outputs, so two runs with one seed
give the same table; times are kept and written apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrise.evaluation import metrics
from rrise.evaluation.contender import BUDGET, WITH_SURROGATE, Contender
from rrise.evaluation.costs import Costs, Sampled, break_evens
from rrise.evaluation.coverage_bins import CoverageBin, coverage_by_bin
from rrise.evaluation.latency import Latency, Quartiles
from rrise.promise import percent

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Row:
    """One certifier's line of the table.

    Attributes
    ----------
    forward_passes : float
        Mean forward passes a certificate: 1 for a single pass and m more for m noisy ones, selection plus estimation
        draws for Monte Carlo, all of these on average for a cascade.
    certified_accuracy : tuple of float
        At each radius of the table.
    certified_accuracy_lower : tuple of float
        What these images prove of the population's true certified accuracy, at each radius by itself, with confidence
        0.99 and if the certifier errs as rarely as it promises.
    average_certified_radius, relative_radius : float
        In ℓ2 of [0, 1] pixels, and as a share of the baseline's.
    relative_to_larger : float or None
        The same as a share of the larger Monte Carlo budget's, None without one.
    coverage_by_bin : tuple of CoverageBin
        Coverage by the size of the bound.
    conditional_bound : float
        What ``error`` promises among certified inputs only: ``error`` / (lower bound of their share, with confidence
        0.99), at most 1; ``error`` itself where it was promised of those.
    role : str
        The contender's.
    of_certified : bool
        Whether ``error`` was promised of certified inputs only.
    """

    name: str
    single_pass: bool
    forward_passes: float
    certified_accuracy: tuple[float, ...]
    certified_accuracy_lower: tuple[float, ...]
    average_certified_radius: float
    relative_radius: float
    abstention: float
    boundary: metrics.Boundary
    coverage: metrics.Coverage
    coverage_by_bin: tuple[CoverageBin, ...]
    error: float
    conditional_bound: float
    statement: str
    role: str = ""
    relative_to_larger: float | None = None
    of_certified: bool = False

    @property
    def broken(self) -> str:
        """In words that the reference draws plainly contradict what is promised, or nothing."""
        refuted = self.coverage.refuted_certified if self.of_certified else self.coverage.refuted
        if not metrics.plainly_broken(refuted, self.error):
            return ""
        return (
            f"the promise of {self.name} is broken: {refuted.count:,} of {refuted.total:,} bounds are refuted, where "
            f"at most {percent(self.error)} may be wrong"
        )

    @property
    def amortised(self) -> bool:
        """Whether certificates rest on targets and calibration made beforehand."""
        return self.single_pass or self.role in WITH_SURROGATE


@dataclass(frozen=True)
class Comparison:
    """All certifiers on one test set; made by :func:`compare`."""

    radii: tuple[float, ...]
    sigma: float
    rows: tuple[Row, ...]
    contenders: tuple[Contender, ...]
    deployed: str
    baseline: str
    labels: NDArray[np.int64]
    reference: NDArray[np.int64]
    costs: Costs
    latency: Latency | None
    provenance: Mapping[str, Any]
    larger: str = ""

    @property
    def images(self) -> int:
        """Number of test images."""
        return int(self.labels.size)

    @property
    def scale(self) -> str:
        """How the run was scaled down, empty if it was not: the provenance's ``scale``."""
        return str(self.provenance.get("scale", ""))

    @property
    def n_reference(self) -> int:
        """Reference draws an image (the fewest, should they differ)."""
        return int(self.reference.sum(axis=1).min())

    @property
    def drawn(self) -> tuple[Contender, ...]:
        """The contenders of every figure: all but the points of the trade-off."""
        return tuple(contender for contender in self.contenders if not contender.role)

    def row(self, name: str) -> Row:
        """Return a certifier's line by its name."""
        return next(row for row in self.rows if row.name == name)

    def contender(self, name: str) -> Contender:
        """Return a certifier's answers by its name."""
        return next(contender for contender in self.contenders if contender.name == name)

    def milliseconds(self, name: str) -> Quartiles | None:
        """Return quartiles of a certifier's measured times for one certificate, None if it was not timed."""
        return _times(self.latency, self.deployed, self.baseline).get(name)


def compare(
    contenders: Sequence[Contender],
    labels: ArrayLike,
    reference: ArrayLike,
    *,
    deployed: str,
    baseline: str,
    radii: Sequence[float],
    sigma: float,
    targets: Sampled,
    calibration: Sampled,
    profile: Sampled = Sampled(),  # noqa: B008 (frozen)
    larger: str = "",
    latency: Latency | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return the table of all certifiers on the same test images.

    Parameters
    ----------
    contenders : sequence of Contender
        In the order of the table.
    labels : int[B]
        True classes.
    reference : int[B, K]
        Class counts of many noisy draws of the test images, from a stream that no contender used.
    deployed, baseline : str
        The contender whose result the report states, chosen before the test set was seen, and the Monte Carlo
        certifier it is measured against.
    radii : sequence of float
        Radii of the table, in ℓ2 of [0, 1] pixels.
    sigma : float
        Noise level, in the same unit.
    targets, calibration, profile : Sampled
        Noisy evaluations of the base classifier spent on training targets, on calibration, and on images that only
        shape the curve.
    larger : str
        The Monte Carlo contender of a larger budget, a second measure beside the baseline; none: "".
    latency : Latency, optional
        From :func:`rrise.evaluation.latency.measure_latency`; its further times are named like their contenders.
    provenance : mapping, optional
        Plain values (or mappings of plain values) that name what was compared: hashes, versions, seeds. If the run
        was made smaller than the one it stands for, ``scale`` says how; the table and the report begin with it.

    Raises
    ------
    ValueError
        If names repeat or are unknown, or arrays do not fit each other.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders: expected different names, got {names}. Rename one.")
    for role, name in (("deployed", deployed), ("baseline", baseline), ("larger", larger or baseline)):
        if name not in names:
            raise ValueError(f"{role}: expected one of {names}, got {name!r}. Name a contender.")
    if latency and (unknown := sorted(set(latency.others_ms) - set(names))):
        raise ValueError(f"latency: expected times of contenders among {names}, got {unknown}. Name them alike.")
    truth = np.asarray(labels)
    against, more = (
        metrics.average_certified_radius(contenders[names.index(name)].certificates, truth) if name else None
        for name in (baseline, larger)
    )
    rows = tuple(_row(contender, truth, reference, radii, against, more) for contender in contenders)
    by_name = dict(zip(names, rows, strict=True))
    monte_carlo, single_pass = by_name[baseline].forward_passes, by_name[deployed].forward_passes
    offline = targets.evaluations + profile.evaluations + calibration.evaluations
    seconds = {name: times[1] / 1e3 for name, times in _times(latency, deployed, baseline).items()}
    return Comparison(
        radii=tuple(float(r) for r in radii),
        sigma=float(sigma),
        rows=rows,
        contenders=tuple(contenders),
        deployed=deployed,
        baseline=baseline,
        labels=truth.astype(np.int64),
        reference=np.asarray(reference).astype(np.int64),
        costs=Costs(
            targets=targets,
            calibration=calibration,
            profile=profile,
            larger=by_name[larger].forward_passes if larger else 0.0,
            monte_carlo=monte_carlo,
            break_even=metrics.break_even(offline, monte_carlo, single_pass),
            against=break_evens(
                {
                    row.name: row.forward_passes
                    for row in rows
                    if not (row.amortised or row.role == BUDGET or row.name == deployed)
                },
                offline=offline,
                single_pass=single_pass,
                seconds_each=seconds,
                offline_seconds=latency.offline_seconds if latency else None,
                single_pass_seconds=seconds.get(deployed),
            ),
        ),
        latency=latency,
        provenance=dict(provenance or {}),
        larger=larger,
    )


def _times(latency: Latency | None, deployed: str, baseline: str) -> dict[str, Quartiles]:
    if latency is None:
        return {}
    return {**latency.others_ms, deployed: latency.single_pass_ms, baseline: latency.monte_carlo_ms}


def _row(
    contender: Contender,
    labels: NDArray[Any],
    reference: ArrayLike,
    radii: Sequence[float],
    against: float | None,
    more: float | None,
) -> Row:
    certificates = contender.certificates
    radius = metrics.average_certified_radius(certificates, labels)
    abstention = metrics.abstention_rate(certificates)
    return Row(
        name=contender.name,
        single_pass=contender.single_pass,
        forward_passes=1.0
        if contender.single_pass
        else float(certificates.evaluations.mean()) + (contender.role in WITH_SURROGATE),
        certified_accuracy=tuple(metrics.certified_accuracy(certificates, labels, radii).tolist()),
        certified_accuracy_lower=tuple(
            metrics.certified_accuracy_lower(
                certificates, labels, radii, error=contender.error, confidence=metrics.LOWER_CONFIDENCE
            ).tolist()
        ),
        average_certified_radius=radius,
        relative_radius=radius / against if against else math.nan,
        relative_to_larger=None if more is None else radius / more if more > 0 else math.nan,
        abstention=abstention,
        boundary=metrics.boundary(certificates, labels),
        coverage=metrics.coverage(certificates, contender.predicted, reference),
        coverage_by_bin=coverage_by_bin(certificates, contender.predicted, reference),
        error=contender.error,
        conditional_bound=contender.error
        if contender.of_certified
        else metrics.conditional_error_bound(
            contender.error, int(np.count_nonzero(~certificates.abstained)), len(certificates)
        ),
        statement=contender.statement,
        role=contender.role,
        of_certified=contender.of_certified,
    )
