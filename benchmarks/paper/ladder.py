"""One seed's rows at one α: every certifier, each lever on tightness alone and together, and what limits them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

from paper.certifiers import (
    PAPER_BETA,
    Certified,
    Method,
    adaptive,
    cascade,
    fixed_budget,
    input_specific,
    measured,
)
from paper.seed_run import ALL, HEAD, ITSELF, JS, SCRATCH, Say, SeedRun
from rrise import _C
from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.guarantees import CERTIFIED, TRAINING_CONDITIONAL
from rrise.calibration.levels import BETAS, spent
from rrise.evaluation.baselines import cohen_select
from rrise.evaluation.metrics import break_even
from rrise.runtime.certificates import Certificates

PAPER, ONE, CASCADE, B4 = "paper: offset, head, β + γ, n draws", "rrise", "rrise, cascade", "B4 JS, offset, β + γ"
FIXED, SPECIFIC, ADAPTIVE = "B1", "B2 input-specific", "B3 adaptive stopping"
MOST_TIMES = (1, 3, 10, 30, 100)
"""Draws of a calibration image, in units of Monte Carlo's n, as far as there are so many."""
SHARES = (0.7, 0.9)
"""Shares of α for a cascade's first stage; the first is that of the recipe's own choice, if it makes one."""
PARTS = {"a quarter": 4, "half": 2}
_PLAIN = Method(HEAD, "offset", times=1, added=True, beta=PAPER_BETA)
LEVERS = {
    PAPER: _PLAIN,
    "scaled curve": Method(HEAD, times=1, added=True),
    "scaled curve, γ / (1 − β)": Method(HEAD, times=1),
    "scaled curve, all weights": Method(ITSELF, times=1, added=True),
    "scaled curve, all weights on views": Method(times=1, added=True),
    "scaled curve, 10 n draws": Method(HEAD, added=True),
    "all but γ / (1 − β)": Method(added=True),
    "all but all weights": Method(HEAD),
    "all but views": Method(ITSELF),
    "binned in place of scaled": Method(curve="binned"),
    "offset in place of scaled": Method(curve="offset"),
}
"""The paper's method, and each lever alone, and all but each; what follows is all of them."""


def rows(run: SeedRun, alpha: float, radii: Sequence[float], say: Say) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by table ("certifiers", "ladder", "limits") and row what every configuration gives at α, beside B1."""
    views = run.recipe.targets.views > 1
    answers = {name: run.surrogate(name, say) for name in (ALL, HEAD, JS, SCRATCH, *((ITSELF,) if views else ()))}
    answers.setdefault(ITSELF, answers[ALL])
    guess = cohen_select(run.counts["selection"])
    one = Method(times=run.draws // run.n)
    share = run.recipe.calibrate.cascade or SHARES[0]

    def kept(certified: Certified, beta: float, promised: float, offline: int = 0) -> dict[str, Any]:
        found = dict(measured(run, *certified, radii, promised))
        return found | {"beta": beta, "promised": 100 * promised, "offline": offline}

    def monte_carlo(certificates: Certificates) -> dict[str, Any]:
        return kept((certificates, guess), alpha, alpha)

    def by(method: Method) -> Callable[[], dict[str, Any]]:
        return lambda: kept(*method.certified(run, answers[method.surrogate], alpha), method.offline(run))

    def both(share: float, n: int) -> Callable[[], dict[str, Any]]:
        return lambda: kept(*cascade(run, answers[ALL], alpha, share, one, n), one.offline(run))

    conditional = Method(guarantee=TRAINING_CONDITIONAL, times=one.times)
    more = {f"B1, n = {run.larger:,}": lambda: monte_carlo(fixed_budget(run, alpha, run.larger))}
    certifiers: dict[str, Callable[[], dict[str, Any]]] = {
        FIXED: lambda: monte_carlo(fixed_budget(run, alpha, run.n)),
        **(more if run.larger > run.n else {}),
        PAPER: by(_PLAIN),
        ONE: by(one),
        f"{ONE}, training-conditional": by(conditional),
        f"{ONE}, certified": by(Method(guarantee=CERTIFIED, times=one.times)),
        CASCADE: both(share, run.n),
        B4: by(Method(JS, "offset", times=1, added=True, beta=PAPER_BETA)),
        "B4 JS, calibrated as rrise": by(Method(JS, times=one.times)),
        "from random weights, calibrated as rrise": by(Method(SCRATCH, times=one.times)),
        SPECIFIC: lambda: monte_carlo(input_specific(run, alpha, 0.01)),
        ADAPTIVE: lambda: monte_carlo(adaptive(run, alpha, 0.01)),
    }
    steps = [times for times in MOST_TIMES if times * run.n <= run.draws]
    levers = {name: how for name, how in LEVERS.items() if how.times <= steps[-1] and (views or "views" not in name)}
    ladder = {name: by(how) for name, how in levers.items()}
    ladder |= {f"all, {times} n draws": by(Method(times=times)) for times in steps}
    ladder |= {
        f"all, {times} n draws, training-conditional": by(Method(guarantee=TRAINING_CONDITIONAL, times=times))
        for times in steps
    }
    for first in sorted({share, *SHARES}):
        ladder |= {f"cascade, {first:g} of α first": both(first, run.n)}
        if run.larger > run.n:
            ladder |= {f"cascade, {first:g} of α first, B1 of {run.larger:,}": both(first, run.larger)}
    limits = {f"{name} of the calibration images": by(Method(times=one.times, images=of)) for name, of in PARTS.items()}
    limits |= {"p known, β best for it": lambda: kept(*ceiling(run, alpha, one.times), one.offline(run))}
    tables = {"certifiers": certifiers, "ladder": ladder, "limits": limits}
    found = {table: {name: _or_why(make) for name, make in entries.items()} for table, entries in tables.items()}
    few, many = (found["certifiers"].get(name) for name in (FIXED, f"B1, n = {run.larger:,}"))
    assert few is not None
    for entries in found.values():
        for entry in entries.values():
            _beside(entry, few, many)
    return found


def known(run: SeedRun, beta: float, gamma: float, times: int) -> Certified:
    """Return what a curve of p itself certifies, calibrated on images without end: the γ-quantile of the bounds at p.

    Monte Carlo's frequency of the larger budget stands for p, its class for the label.
    """
    predicted, draws = cohen_select(run.counts["selection"]), run.counts["estimation"]
    frequency = draws[np.arange(len(draws)), predicted] / draws.sum(axis=1)
    n = times * run.n
    lowest = binom.ppf(gamma, n, frequency).astype(np.int64)
    p_lower = clopper_pearson(lowest, n, beta)
    label = np.where(p_lower > 0.5, predicted, -1)
    radius = np.where(label >= 0, _C.radius(p_lower, run.recipe.sample.sigma), 0.0)
    nothing = np.zeros_like(label)
    return Certificates(label=label, radius=radius, p_lower=p_lower, q=frequency, evaluations=nothing), predicted


def ceiling(run: SeedRun, alpha: float, times: int) -> tuple[Certified, float, float]:
    """Return what p itself certifies with the β, among those a rehearsal tries, that gives the largest radii here."""
    tried = [(known(run, *spent(alpha, beta), times), beta) for beta in BETAS]
    best, beta = max(tried, key=lambda found: found[0][0].radius.mean())
    return best, beta, alpha


def _or_why(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a row, or why there is none: too few calibration images for this guarantee at this level."""
    try:
        return make() | {"refused": ""}
    except ValueError as error:
        return {"refused": str(error)}


def _beside(entry: dict[str, Any], few: Mapping[str, Any], many: Mapping[str, Any] | None) -> None:
    """Add how a row compares with Monte Carlo, and after how many certificates its offline work is paid back."""
    if entry["refused"]:
        return
    radius = entry["average certified radius"]

    def share(of: Mapping[str, Any] | None) -> float:
        return 100 * radius / of["average certified radius"] if of and of["average certified radius"] > 0 else math.nan

    entry["share of B1"], entry["share of larger B1"] = share(few), share(many)
    entry["points behind B1"] = few["certified accuracy"][0] - entry["certified accuracy"][0]
    if entry["offline"]:
        entry["break-even"] = break_even(entry["offline"], few["evaluations"], max(entry["evaluations"], 1.0))
