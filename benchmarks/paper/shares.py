"""How much of Monte Carlo's average radius each curve keeps at the same α, and what the rest is lost to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from paper.certifiers import fixed_budget, measured, surrogate_certifier
from paper.seed_run import Answers, Counts, SeedRun, fit_config
from rrise import _C
from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.guarantees import CERTIFIED, MARGINAL, TRAINING_CONDITIONAL
from rrise.calibration.levels import BETAS, choose_levels, spent
from rrise.calibration.scored import Scored
from rrise.evaluation.baselines import cohen_select
from rrise.evaluation.thinning import thinned
from rrise.runtime.certificates import Certificates
from rrise.stages.calibrate import as_of

ETA = 0.01
"""Share of calibrations that may break a guarantee that is not marginal."""
WHOLE = {"lr": (1e-3,), "weight_decay": (0.01,), "epochs": (8,), "batch_size": 128}
"""How all weights are trained, in the stead of a head alone."""
ROWS = (
    ("offset", "offset", MARGINAL),
    ("scaled", "scaled", MARGINAL),
    ("binned", "binned", MARGINAL),
    ("scaled, training-conditional", "scaled", TRAINING_CONDITIONAL),
    ("scaled, certified", "scaled", CERTIFIED),
)
"""What the table calls a configuration of the fitted head, its curve and its guarantee."""
PARTS = {"a quarter": 4, "half": 2}
FOLDS = 10
KEPT = (
    "average certified radius",
    "certified accuracy",
    "abstention",
    "coverage",
    "coverage in the boundary",
    "coverage if certified",
    "refuted",
)
"""What is kept of each row's numbers."""
_NEVER = 1e-9
"""Draws that a class which was never drawn counts for, so that its logarithm is finite."""

EXPLAINED = """\
Every curve spends α as γ = α(1 − β), with the β of a rehearsal on its profile, as `rrise calibrate --alpha` does; the
guarantee is marginal unless another is named. *All weights*: trained from the classifier's, on the same targets.
The last rows take from *scaled* one loss after another. *B1 at β*: bounds of calibration images are of level β, not α.
*p known*: a curve must lie below all but a share γ of these bounds, which scatter with their draws, even if it is told
p itself (here B1's frequency) and calibrated on images without end; the row after it takes the β that is best for it.
*p from n draws*: a surrogate without any error but that of n draws, calibrated on nine tenths of the test images at the
β of *scaled*. With fewer calibration images *scaled* chooses a β of its own.""".replace("\n", " ")

Certified = tuple[Certificates, NDArray[np.int64]]


def shares(
    run: SeedRun, alphas: Sequence[float], radii: Sequence[float], say: Callable[[str], object]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by α and row what every configuration gives beside B1, and then what it would give without one loss each.

    Every curve takes its β for α from a rehearsal on its profile. A configuration that has too few images for its
    guarantee is named with the reason, and has no numbers.
    """
    config = fit_config(run.recipe, "head", "ce")
    head = run.surrogate("head-ce", config, run.n, say)
    deep = dataclasses.replace(fit_config(run.recipe, "full", "ce"), **WHOLE)
    whole = run.surrogate("full-ce-8", deep, run.n, say)
    return {f"{alpha:g}": _shares(run, alpha, radii, head, whole) for alpha in alphas}


def _shares(
    run: SeedRun, alpha: float, radii: Sequence[float], head: Answers, all_weights: Answers
) -> dict[str, dict[str, Any]]:
    guess = cohen_select(run.counts["selection"])
    whole = measured(run, fixed_budget(run, alpha, run.n), guess, radii, alpha)
    found = {"B1": _beside(whole, whole, alpha)}

    def add(name: str, certify: Callable[[], tuple[Certified, float]]) -> None:
        try:
            pair, beta = certify()
        except ValueError as error:  # too few calibration images for this guarantee at this level
            found[name] = _refused(str(error))
        else:
            found[name] = _beside(measured(run, *pair, radii, alpha), whole, beta)

    def calibrated(answers: Answers, curve: str = "scaled", guarantee: str = MARGINAL) -> tuple[Certified, float]:
        beta, gamma = split(run, answers, alpha, curve, guarantee)
        how = {"beta": beta, "gamma": gamma, "curve": curve, "guarantee": guarantee}
        return surrogate_certifier(run, answers, **how), beta

    def exact(certifier: Callable[..., Certified]) -> tuple[Certified, float]:
        beta, gamma = split(run, head, alpha, "scaled", MARGINAL)
        return certifier(run, beta=beta, gamma=gamma), beta

    for name, curve, guarantee in ROWS:
        add(name, lambda curve=curve, guarantee=guarantee: calibrated(head, curve, guarantee))
    add("scaled, all weights", lambda: calibrated(all_weights))
    add("B1 at β of scaled", lambda: exact(lambda run, beta, gamma: (fixed_budget(run, beta, run.n), guess)))
    add("p known", lambda: exact(known))
    add("p known, β best for it", lambda: ceiling(run, alpha))
    add("scaled, p from n draws", lambda: exact(oracle))
    images = len(head.calibration.q)
    for name, part in PARTS.items():
        fewer = dataclasses.replace(head, calibration=_rows(head.calibration, np.arange(images // part)))
        add(f"scaled, {name} of the calibration images", lambda fewer=fewer: calibrated(fewer))
    return found


def split(run: SeedRun, answers: Answers, alpha: float, curve: str, guarantee: str) -> tuple[float, float]:
    """Return (β, γ) of α as `rrise calibrate --alpha` would choose them, without a look at calibration scores."""
    profile = as_of(run.n, answers.profile)
    return choose_levels(
        profile.q,
        profile.k,
        profile.n,
        alpha=alpha,
        images=len(answers.calibration.q),
        draws=run.n,
        curve=curve,
        guarantee=guarantee,
        eta=ETA,
    )


def known(run: SeedRun, *, beta: float, gamma: float) -> Certified:
    """Return what a curve of p itself certifies, calibrated on images without end: the γ-quantile of the bounds at p.

    B1's frequency stands for p, its class for the label.
    """
    predicted, draws = cohen_select(run.counts["selection"]), run.thinned("estimation", run.n)
    agreeing = draws[np.arange(len(draws)), predicted]
    lowest = binom.ppf(gamma, run.n, agreeing / run.n).astype(np.int64)
    p_lower = clopper_pearson(lowest, run.n, beta)
    label = np.where(p_lower > 0.5, predicted, -1)
    radius = np.where(label >= 0, _C.radius(p_lower, run.recipe.sample.sigma), 0.0)
    return Certificates(
        label=label, radius=radius, p_lower=p_lower, q=agreeing / run.n, evaluations=np.zeros_like(label)
    ), predicted


def ceiling(run: SeedRun, alpha: float) -> tuple[Certified, float]:
    """Return what p itself certifies with the β, among those a rehearsal tries, that gives the largest radii here."""
    levels = [spent(alpha, beta) for beta in BETAS]
    tried = [(known(run, beta=beta, gamma=gamma), beta) for beta, gamma in levels]
    return max(tried, key=lambda found: found[0][0].radius.mean())


def oracle(run: SeedRun, *, beta: float, gamma: float) -> Certified:
    """Return what the scaled curve certifies by a surrogate that knows the frequencies of n draws.

    Its answers on the test images are the estimation draws' frequencies. The curve is calibrated on those and the
    reference draws: an image in one of ten folds by the images of the other nine, so never by its own reference. The
    shape comes from the calibration images, half of whose draws answer and half of whose draws count.
    """
    answers = _logits(run.thinned("estimation", run.n))
    points = _scored(answers, run.thinned("reference", run.n))
    drawn = run.thinned("calibration", run.n)
    half = thinned(drawn, run.n // 2, np.random.default_rng([run.seed, 3]))
    shape = as_of(run.n, _scored(_logits(half), drawn - half))
    fold = np.random.default_rng([run.seed, 4]).permutation(len(answers)) % FOLDS
    label, predicted = (np.empty(len(answers), np.int64) for _ in range(2))
    radius, p_lower, q = (np.empty(len(answers)) for _ in range(3))
    for number in range(FOLDS):
        here = np.flatnonzero(fold == number)
        others = Answers(answers[here], _rows(points, np.flatnonzero(fold != number)), shape)
        part, predicted[here] = surrogate_certifier(run, others, beta=beta, gamma=gamma, curve="scaled")
        label[here], radius[here], p_lower[here], q[here] = part.label, part.radius, part.p_lower, part.q
    certificates = Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=np.zeros_like(label))
    return certificates, predicted


def _logits(counts: Counts) -> NDArray[np.float64]:
    return np.log(np.maximum(counts, _NEVER))


def _scored(logits: NDArray[np.float64], counts: Counts) -> Scored:
    label, q = _C.top(logits)
    return Scored(q, counts[np.arange(len(label)), label], counts.sum(axis=1))


def _rows(scored: Scored, rows: NDArray[np.intp]) -> Scored:
    return Scored(scored.q[rows], scored.k[rows], scored.n[rows])


def _beside(result: Mapping[str, Any], whole: Mapping[str, Any], beta: float) -> dict[str, Any]:
    radius = max(whole["average certified radius"], 1e-12)
    return {
        **{key: result[key] for key in KEPT},
        "share of B1": 100 * result["average certified radius"] / radius,
        "points behind B1": whole["certified accuracy"][0] - result["certified accuracy"][0],
        "beta": beta,
        "refused": "",
    }


def _refused(why: str) -> dict[str, Any]:
    """Return a result of no numbers."""
    numbers = (*KEPT, "share of B1", "points behind B1", "beta")
    return {**dict.fromkeys(numbers, math.nan), "certified accuracy": [math.nan], "refused": why}
