"""A small world whose class probabilities are known exactly, for the tests of comparison and report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.evaluation.baselines import cohen_certify, cohen_select
from rrise.evaluation.comparison import Comparison, compare
from rrise.evaluation.contender import LARGER, CalibrationView, Contender
from rrise.evaluation.costs import Sampled
from rrise.runtime.certificates import Certificates

SIGMA, ALPHA, BETA, N = 0.25, 0.05, 0.001, 200
RADII = (0.0, 0.1, 0.2, 0.3)


def truth(seed, images, classes=4):
    """Class probabilities float64[B, K], labels int64[B] and the surrogate's guesses and top probabilities."""
    rng = np.random.default_rng(seed)
    top = rng.integers(0, classes, images)
    p = rng.beta(6, 1, images)
    probabilities = np.repeat((1 - p)[:, None] / (classes - 1), classes, axis=1)
    probabilities[np.arange(images), top] = p
    labels = np.where(rng.random(images) < 0.1, (top + 1) % classes, top)
    q = np.clip(p + rng.normal(0, 0.03, images), 0.01, 0.9999)
    return probabilities, labels, top, q


def draw(seed, probabilities, n):
    return np.random.default_rng(seed).multinomial(n, probabilities)


def single_pass(knots_q, knots_p, q, guess):
    p_lower = np.interp(q, knots_q, knots_p)
    radius = _C.radius(p_lower, SIGMA)
    return Certificates(
        label=np.where(radius > 0, guess, -1),
        radius=radius,
        p_lower=p_lower,
        q=q,
        evaluations=np.zeros(q.size, dtype=np.int64),
    )


def curve(drop):
    knots_q = np.linspace(0, 1, 11)
    return knots_q, np.clip(knots_q - drop, 0, largest_p(N, BETA))


def contenders(images=60, names=("scaled", "offset", "Monte Carlo")):
    probabilities, labels, guess, q = truth(1, images)
    made = [
        Contender(name, single_pass(*curve(drop), q, guess), guess, ALPHA, f"Promise of {name}.")
        for name, drop in zip(names, (0.05, 0.12), strict=False)
    ]
    selection = draw(2, probabilities, 50)
    monte_carlo = cohen_certify(selection, draw(3, probabilities, N), alpha=ALPHA, sigma=SIGMA)
    made.append(Contender(names[2], monte_carlo, cohen_select(selection), ALPHA, "Promise of Monte Carlo."))
    return made, labels, draw(4, probabilities, 2000)


def comparison(images=60, names=("scaled", "offset", "Monte Carlo"), **changes) -> Comparison:
    made, labels, reference = contenders(images, names)
    settings = {
        "deployed": names[0],
        "baseline": names[2],
        "radii": RADII,
        "sigma": SIGMA,
        "targets": Sampled(400, 80_000),
        "calibration": Sampled(100, 20_000),
        "provenance": {"engine_sha256": "a" * 64, "seeds": {"data": 0, "sampling": 1}},
    } | changes
    return compare(made, labels, reference, **settings)


def many(images=60, **changes) -> Comparison:
    """Two curves and a JS surrogate against three Monte Carlo certifiers of falling cost."""
    (scaled, offset, monte_carlo), labels, reference = contenders(images)
    probabilities, _, guess, q = truth(1, images)
    selection = draw(2, probabilities, 50)
    js = single_pass(*curve(0.16), q, guess)
    made = [scaled, offset, Contender("B4 JS surrogate", js, guess, ALPHA, "Promise of B4 JS surrogate.")]
    made.append(replace(monte_carlo, name="B1 Monte Carlo", statement="Promise of B1 Monte Carlo."))
    for seed, name, n in ((7, "B2 input-specific", 120), (8, "B3 adaptive", 60)):
        fewer = cohen_certify(selection, draw(seed, probabilities, n), alpha=ALPHA, sigma=SIGMA)
        made.append(Contender(name, fewer, cohen_select(selection), ALPHA, f"Promise of {name}."))
    settings = {
        "deployed": "scaled",
        "baseline": "B1 Monte Carlo",
        "radii": RADII,
        "sigma": SIGMA,
        "targets": Sampled(400, 80_000),
        "calibration": Sampled(100, 20_000),
        "provenance": {"engine_sha256": "a" * 64, "seeds": {"data": 0, "sampling": 1}},
    } | changes
    return compare(made, labels, reference, **settings)


def with_larger(images=60, **changes) -> Comparison:
    """Two curves against Monte Carlo of 200 draws, and of 2,000."""
    (scaled, offset, monte_carlo), labels, reference = contenders(images)
    probabilities = truth(1, images)[0]
    selection, name = draw(2, probabilities, 50), "Monte Carlo, n = 2,000"
    more = cohen_certify(selection, draw(9, probabilities, 2000), alpha=ALPHA, sigma=SIGMA)
    made = [scaled, offset, monte_carlo, Contender(name, more, cohen_select(selection), ALPHA, "More.", role=LARGER)]
    settings = {
        "deployed": "scaled",
        "baseline": "Monte Carlo",
        "larger": name,
        "radii": RADII,
        "sigma": SIGMA,
        "targets": Sampled(400, 80_000),
        "profile": Sampled(50, 10_000),
        "calibration": Sampled(100, 200_000),
    } | changes
    return compare(made, labels, reference, **settings)


def calibrations(names=("scaled", "offset")):
    probabilities, _, guess, q = truth(5, 80)
    counts = draw(6, probabilities, N)
    p_lower = clopper_pearson(counts[np.arange(80), guess], N, BETA)
    return [CalibrationView(name, *curve(drop), q, p_lower) for name, drop in zip(names, (0.05, 0.12), strict=False)]
