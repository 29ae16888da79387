"""All certifiers of one seed at one level α: rrise's curves, Monte Carlo by three budgets, and what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paper.seed_run import Answers, Counts, SeedRun
from rrise import _C
from rrise.calibration.conformal import calibrate
from rrise.evaluation import metrics
from rrise.evaluation.adaptive_stopping import adaptive_certify
from rrise.evaluation.baselines import cohen_certify, cohen_select
from rrise.evaluation.input_specific import budget_map, input_specific_budget, input_specific_certify
from rrise.evaluation.thinning import in_order, thinned
from rrise.runtime.certificates import Certificates

LOOK = 100
"""Draws between two looks of adaptive stopping, and the unit of an input-specific budget."""


def surrogate_certifier(
    run: SeedRun, answers: Answers, *, beta: float, gamma: float, curve: str, guarantee: str = "marginal"
) -> tuple[Certificates, NDArray[np.int64]]:
    """Return the certificates of the test images by a calibrated surrogate, and the classes they speak of."""
    found = calibrate(
        answers.calibration.q,
        answers.calibration.k,
        answers.calibration.n,
        beta=beta,
        gamma=gamma,
        curve=curve,
        guarantee=guarantee,
        profile=(answers.profile.q, answers.profile.k, answers.profile.n),
    )
    sigma = run.recipe.sample.sigma
    label, q, p_lower, radius = _C.certify(answers.logits, found.knots_q, found.knots_p, sigma)
    certificates = Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=np.zeros_like(label))
    return certificates, _C.top(answers.logits)[0]


def fixed_budget(run: SeedRun, alpha: float, n: int) -> Certificates:
    """B1: n draws of every image."""
    estimation = run.thinned("estimation", n)
    return cohen_certify(run.counts["selection"], estimation, alpha=alpha, sigma=run.recipe.sample.sigma)


def input_specific(run: SeedRun, alpha: float, decline: float, *, relative: bool = True) -> Certificates:
    """B2: as many draws as the pilot says that the radius needs."""
    sigma, pilot = run.recipe.sample.sigma, run.counts["selection"]
    budgets = budget_map(n_max=run.n, batch=LOOK, alpha=alpha, sigma=sigma, decline=decline, relative=relative)
    draws = input_specific_budget(pilot, budgets, alpha=alpha)
    fresh = thinned(run.counts["estimation"], draws, np.random.default_rng([run.seed, 2]))
    return input_specific_certify(pilot, fresh, alpha=alpha, sigma=sigma)


def adaptive(run: SeedRun, alpha: float, tolerance: float, bound: str = "mixture") -> Certificates:
    """B3: draws until the radius is known to ``tolerance``."""
    guess = cohen_select(run.counts["selection"])
    k = run.thinned("estimation", run.n)[np.arange(len(guess)), guess]
    looks = np.unique(np.append(np.arange(LOOK, run.n, LOOK), run.n)).astype(np.int64)
    return adaptive_certify(
        run.counts["selection"],
        in_order(k, run.n, looks, np.random.default_rng([run.seed, 1])),
        looks,
        alpha=alpha,
        sigma=run.recipe.sample.sigma,
        tolerance=tolerance,
        bound=bound,
    )


def measured(
    run: SeedRun, certificates: Certificates, predicted: Counts, radii: Sequence[float], alpha: float
) -> Mapping[str, Any]:
    """Return every number of section 4 of one certifier on one seed, shares in percent, radii in pixels of [0, 1]."""
    labels = run.splits.test.labels
    edge = metrics.boundary(certificates, labels)
    cover = metrics.coverage(certificates, predicted, run.counts["reference"])
    accuracy = metrics.certified_accuracy(certificates, labels, radii)
    abstention = metrics.abstention_rate(certificates)
    return {
        "certified accuracy": (100 * accuracy).tolist(),
        "average certified radius": metrics.average_certified_radius(certificates, labels),
        "abstention": 100 * abstention,
        "evaluations": float(certificates.evaluations.mean()),
        "boundary mass": 100 * edge.mass.value,
        "boundary accuracy": 100 * edge.accuracy.value,
        "boundary mean radius": edge.mean_radius,
        "boundary CRD": (100 * metrics.boundary_crd(certificates, radii)).tolist(),
        "CRD": (100 * metrics.crd(certificates, radii)).tolist(),
        "coverage": 100 * cover.overall.value,
        "coverage in the boundary": 100 * cover.boundary.value,
        "coverage if certified": 100 * cover.certified.value,
        "refuted": 100 * cover.refuted.value,
        "promised among certified": 100
        * metrics.conditional_error_bound(alpha, int(np.count_nonzero(~certificates.abstained)), len(certificates)),
        "wrong labels among certified": _wrong(run, certificates),
    }


def _wrong(run: SeedRun, certificates: Certificates) -> float:
    """Return the percentage of certified labels that are not the reference's most frequent class."""
    certified = ~certificates.abstained
    top = run.counts["reference"].argmax(axis=1)
    return 100 * float(np.mean((certificates.label != top)[certified])) if certified.any() else 0.0
