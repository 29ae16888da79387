"""One table for all certifiers of a test set: what each certifies, what it costs, and whether its promise holds.

Everything in a :class:`Comparison` but its latency follows from counts and engine outputs, so two runs with one seed
give the same table; times are kept and written apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrise.evaluation import metrics
from rrise.evaluation.costs import Costs, break_evens
from rrise.evaluation.coverage_bins import CoverageBin, coverage_by_bin
from rrise.evaluation.latency import Latency, Quartiles

if TYPE_CHECKING:
    from rrise.runtime.certificates import Certificates


@dataclass(frozen=True)
class EvaluateConfig:
    """How the certifiers of one test set are compared."""

    radii: tuple[float, ...] = field(
        default=(0.0, 0.1, 0.2, 0.3, 0.5, 0.7),
        metadata={"help": "radii at which certified accuracy is tabulated, ℓ2 of [0, 1] pixels"},
    )
    alpha: float = field(
        default=0.0, metadata={"help": "failure probability of a Monte Carlo certificate; 0 means beta + gamma"}
    )
    n_selection: int = field(default=100, metadata={"help": "noisy draws an image that pick Monte Carlo's class"})
    decline: float = field(
        default=0.01, metadata={"help": "share of the radius that an input-specific budget may give up to save draws"}
    )
    tolerance: float = field(
        default=0.01, metadata={"help": "adaptive stopping ends when the radius is known to this, ℓ2 of [0, 1] pixels"}
    )
    n_reference: int = field(default=10_000, metadata={"help": "noisy draws an image that check the bounds"})
    latency_images: int = field(default=20, metadata={"help": "test images whose certificates are timed"})
    latency_repeats: int = field(default=3, metadata={"help": "times each of them is timed"})

    def __post_init__(self) -> None:
        if not self.radii or any(not (math.isfinite(r) and r >= 0) for r in self.radii):
            raise ValueError(f"radii: expected one or more finite radii >= 0, got {self.radii}. Try 0.0 0.1 0.2.")
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii: expected increasing radii, got {self.radii}. Sort them and drop repeats.")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha: expected 0 (for beta + gamma) or a value below 1, got {self.alpha}. Try 0.05.")
        if not 0 <= self.decline < 1:
            raise ValueError(f"decline: expected a share of the radius in [0, 1), got {self.decline}. Try 0.01.")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance: expected a length of at least 0, got {self.tolerance}. Try 0.01.")
        for name in ("n_selection", "n_reference", "latency_images", "latency_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}. Try the default.")

    def draws(self, n: int, passes: Sequence[int] = ()) -> dict[str, int]:
        """Return the draws of each test image by stream, for Monte Carlo of ``n`` draws and multi-pass certificates."""
        extra = {"extra": max(passes)} if passes else {}
        return {"selection": self.n_selection, "estimation": n, "reference": self.n_reference} | extra


PASSES, BUDGET = "more passes", "smaller budget"
"""Roles of contenders that are points of a trade-off: surrogate and noisy passes, and Monte Carlo of few draws."""


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
        Failure probability it promises: α of Monte Carlo, β + γ of a calibrated curve.
    statement : str
        Its guarantee in one or two sentences.
    of_certified : bool
        Whether ``error`` is promised among certified inputs alone, and so over all inputs too.
    role : str
        Empty, or `PASSES` or `BUDGET`: such a one stands in the tables and in the figure of the trade-off, no other.
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


@dataclass(frozen=True)
class Row:
    """One certifier's line of the table.

    Attributes
    ----------
    forward_passes : float
        Mean forward passes a certificate: 1 for a single pass and m more for m noisy ones, selection plus estimation
        draws for Monte Carlo.
    certified_accuracy : tuple of float
        At each radius of the table.
    certified_accuracy_lower : tuple of float
        What these images prove of the population's true certified accuracy, at each radius by itself, with confidence
        0.99 and if the certifier errs as rarely as it promises.
    average_certified_radius, relative_radius : float
        In ℓ2 of [0, 1] pixels, and as a share of the baseline's.
    coverage_by_bin : tuple of CoverageBin
        Coverage by the size of the bound.
    conditional_bound : float
        What ``error`` promises among certified inputs only: ``error`` / (certified share), at most 1; ``error`` itself
        where it was promised of those.
    role : str
        The contender's.
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

    @property
    def amortised(self) -> bool:
        """Whether certificates rest on targets and calibration made beforehand."""
        return self.single_pass or self.role == PASSES


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
    target_evaluations: int,
    calibration_evaluations: int,
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
    target_evaluations, calibration_evaluations : int
        Noisy evaluations of the base classifier spent on training targets and on calibration.
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
    for role, name in (("deployed", deployed), ("baseline", baseline)):
        if name not in names:
            raise ValueError(f"{role}: expected one of {names}, got {name!r}. Name a contender.")
    if latency and (unknown := sorted(set(latency.others_ms) - set(names))):
        raise ValueError(f"latency: expected times of contenders among {names}, got {unknown}. Name them alike.")
    truth = np.asarray(labels)
    against = metrics.average_certified_radius(contenders[names.index(baseline)].certificates, truth)
    rows = tuple(_row(contender, truth, reference, radii, against) for contender in contenders)
    by_name = dict(zip(names, rows, strict=True))
    monte_carlo, single_pass = by_name[baseline].forward_passes, by_name[deployed].forward_passes
    offline = int(target_evaluations) + int(calibration_evaluations)
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
            targets=int(target_evaluations),
            calibration=int(calibration_evaluations),
            monte_carlo=monte_carlo,
            break_even=metrics.break_even(offline, monte_carlo, single_pass),
            against=break_evens(
                {
                    row.name: row.forward_passes
                    for row in rows
                    if not (row.amortised or row.role or row.name == deployed)
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
    )


def _times(latency: Latency | None, deployed: str, baseline: str) -> dict[str, Quartiles]:
    if latency is None:
        return {}
    return {**latency.others_ms, deployed: latency.single_pass_ms, baseline: latency.monte_carlo_ms}


def _row(
    contender: Contender, labels: NDArray[Any], reference: ArrayLike, radii: Sequence[float], against: float
) -> Row:
    certificates = contender.certificates
    radius = metrics.average_certified_radius(certificates, labels)
    abstention = metrics.abstention_rate(certificates)
    return Row(
        name=contender.name,
        single_pass=contender.single_pass,
        forward_passes=1.0
        if contender.single_pass
        else float(certificates.evaluations.mean()) + (contender.role == PASSES),
        certified_accuracy=tuple(metrics.certified_accuracy(certificates, labels, radii).tolist()),
        certified_accuracy_lower=tuple(
            metrics.certified_accuracy_lower(
                certificates, labels, radii, error=contender.error, confidence=metrics.LOWER_CONFIDENCE
            ).tolist()
        ),
        average_certified_radius=radius,
        relative_radius=radius / against if against > 0 else math.nan,
        abstention=abstention,
        boundary=metrics.boundary(certificates, labels),
        coverage=metrics.coverage(certificates, contender.predicted, reference),
        coverage_by_bin=coverage_by_bin(certificates, contender.predicted, reference),
        error=contender.error,
        conditional_bound=metrics.conditional_error_bound(
            contender.error, 1.0 if contender.of_certified else 1.0 - abstention
        ),
        statement=contender.statement,
        role=contender.role,
    )
