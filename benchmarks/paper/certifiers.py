"""All certifiers of one seed at one level α: rrise's curves, the cascade, Monte Carlo, and what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paper.seed_run import ALL, Answers, Counts, SeedRun
from rrise import _C
from rrise.calibration.cascade import left_over, part
from rrise.calibration.conformal import calibrate
from rrise.calibration.guarantees import MARGINAL
from rrise.calibration.levels import choose_levels
from rrise.calibration.scored import Scored
from rrise.evaluation import metrics
from rrise.evaluation.adaptive_stopping import adaptive_certify
from rrise.evaluation.baselines import cohen_certify, cohen_select
from rrise.evaluation.cascade import cascade_fixed
from rrise.evaluation.input_specific import budget_map, input_specific_budget, input_specific_certify
from rrise.evaluation.thinning import in_order, thinned
from rrise.promise import promise, rounded_up
from rrise.runtime.certificates import Certificates

LOOK = 100
"""Draws between two looks of adaptive stopping, and the unit of an input-specific budget."""
ETA = 0.01
"""Share of calibrations that may break a guarantee that is not marginal."""
PAPER_BETA = 0.001
"""The paper's β; its γ is α − β."""
Certified = tuple[Certificates, Counts]


@dataclass(frozen=True)
class Method:
    """A way to certify by one pass: whose answers, which curve, how α is spent, draws of a calibration image in n.

    Parameters
    ----------
    surrogate : str
        A name of :mod:`paper.seed_run`.
    curve, guarantee : str
    times : int
        Draws of a calibration image, in units of Monte Carlo's n.
    added : bool
        Whether β + γ is promised, as in the paper, in place of γ / (1 − β).
    beta : float
        As given; 0: by a rehearsal on the profile, as ``rrise calibrate --alpha`` does it.
    images : int
        One part in so many of the calibration images.
    """

    surrogate: str = ALL
    curve: str = "scaled"
    guarantee: str = MARGINAL
    times: int = 10
    added: bool = False
    beta: float = 0.0
    images: int = 1

    def levels(self, run: SeedRun, answers: Answers, alpha: float) -> tuple[float, float]:
        """Return the β and γ that α is spent on, without a look at calibration scores."""
        if self.beta:
            return self.beta, round(alpha - self.beta, 12)
        draws = self.times * run.n
        shape = run.points(answers, "profile", draws)
        return choose_levels(
            shape.q,
            shape.k,
            shape.n,
            alpha=alpha,
            images=len(self.rows(run)),
            draws=draws,
            curve=self.curve,
            guarantee=self.guarantee,
            eta=ETA,
            shared_draws=self.added,
        )

    def rows(self, run: SeedRun) -> NDArray[np.int64]:
        """Return which calibration images are used."""
        return np.arange(len(run.splits.calibration) // self.images)

    def certified(self, run: SeedRun, answers: Answers, alpha: float) -> tuple[Certified, float, float]:
        """Return certificates of the test images with the classes they speak of, β, and what is promised."""
        beta, gamma = self.levels(run, answers, alpha)
        draws, rows = self.times * run.n, self.rows(run)
        points, shape = run.points(answers, "calibration", draws), run.points(answers, "profile", draws)
        points = Scored(points.q[rows], points.k[rows], points.n[rows])
        found = calibrate(
            points.q,
            points.k,
            points.n,
            beta=beta,
            gamma=gamma,
            curve=self.curve,
            guarantee=self.guarantee,
            eta=ETA,
            profile=(shape.q, shape.k, shape.n),
        )
        label, q, p_lower, radius = _C.certify(answers.test, found.knots_q, found.knots_p, run.recipe.sample.sigma)
        certificates = Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=np.zeros_like(label))
        promised = rounded_up(promise(beta, gamma, shared_draws=self.added))
        return (certificates, _C.top(answers.test)[0]), beta, promised

    def offline(self, run: SeedRun) -> int:
        """Return the noisy evaluations before the first certificate."""
        targets, shape = run.offline
        return targets + shape + len(self.rows(run)) * self.times * run.n


def cascade(
    run: SeedRun, answers: Answers, alpha: float, share: float, method: Method, n: int
) -> tuple[Certified, float, float]:
    """Return certificates of the surrogate at a share of α, and of B1 at the rest for what it leaves undecided."""
    (first, label), beta, promised = method.certified(run, answers, part("alpha", alpha, share))
    guess, sigma = cohen_select(run.counts["selection"]), run.recipe.sample.sigma
    left = left_over(alpha, promised)
    certificates, replaced = cascade_fixed(
        first, run.counts["selection"], run.thinned("estimation", n), alpha=left, sigma=sigma
    )
    return (certificates, np.where(replaced, guess, label)), beta, alpha


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
    return {
        "certified accuracy": (100 * accuracy).tolist(),
        "average certified radius": metrics.average_certified_radius(certificates, labels),
        "abstention": 100 * metrics.abstention_rate(certificates),
        "evaluations": float(certificates.evaluations.mean()),
        "boundary mass": 100 * edge.mass.value,
        "boundary accuracy": 100 * edge.accuracy.value,
        "boundary mean radius": edge.mean_radius,
        "boundary CRD": (100 * metrics.boundary_crd(certificates, radii)).tolist(),
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
