"""Inputs whose truth is known: a linear classifier's smoothed probabilities are Phi(|w.x + b| / (sigma |w|)) exactly.

A population is a finite pool, drawn from with replacement: the coverage of a curve is a mean over it, free of sampling
error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.curves import Family, offset_family, scaled_family

FALSE_ALARM = 1e-6
"""Probability with which a seeded check of a true guarantee may fail."""


@dataclass(frozen=True)
class Population:
    """A pool of inputs: the surrogate's q and the smoothed classifier's exact probability p of its label."""

    q: np.ndarray
    p: np.ndarray
    q_in_calibration: np.ndarray  # differs from q only where a test cheats

    def stars(self, family: Family, cap: float) -> np.ndarray:
        """The t from which on the curve is right about each input: p >= L_t(q) if and only if t >= star."""
        return family.scores(self.q, self.p, cap)


def linear_population(seed: int, size: int = 20_000) -> Population:
    """Inputs of a linear classifier with a surrogate whose weights are off and whose scale is overconfident."""
    rng = np.random.default_rng(seed)
    sigma, w, b = 0.5, rng.normal(size=6), 0.1
    w_seen, b_seen = w + 0.2 * np.linalg.norm(w) * rng.normal(size=6), 0.15
    x = rng.normal(0, 0.6, size=(size, 6))
    margin = (x @ w + b) / np.linalg.norm(w)
    margin_seen = (x @ w_seen + b_seen) / np.linalg.norm(w_seen)
    p = norm.cdf(margin * np.sign(margin_seen) / sigma)
    q = norm.cdf(np.abs(margin_seen) * 1.5 / sigma)
    return Population(q, p, q)


def two_cluster_population(size: int = 20_000) -> Population:
    """Two distances from the hyperplane, p = 0.9 and (two fifths) p = 0.6, that the surrogate cannot tell apart."""
    p = np.where(np.arange(size) % 5 < 2, 0.6, 0.9)
    q = np.linspace(0.96, 0.97, size)[np.random.default_rng(0).permutation(size)]
    return Population(q, p, q)


def concentrated_population(share: float, size: int = 20_000) -> Population:
    """A share of hard inputs, all at p = 0.9, of which the surrogate is surer; it is modest about all others.

    A curve is wrong about all hard ones or none, and it is about all as soon as their bounds' (1 - beta)-quantile
    may lie below it: the worst that the promise allows.
    """
    hard = np.arange(size) < share * size
    q = np.where(hard, 0.95, 0.6)
    return Population(q, np.where(hard, 0.9, 0.999), q)


def memorised(population: Population) -> Population:
    """The same pool with a surrogate that has seen the calibration inputs and answers their true p."""
    return replace(population, q_in_calibration=np.maximum(population.p, 0.5))


def family_named(curve: str, population: Population, beta: float) -> Family:
    if curve == "offset":
        return offset_family()
    rng = np.random.default_rng(99)
    rows = rng.integers(population.q.size, size=800)
    return scaled_family(population.q[rows], clopper_pearson(rng.binomial(1000, population.p[rows]), 1000, beta))


def cascade_population(size: int = 20_000) -> Population:
    """Nine tenths that a surrogate leaves undecided, just above 1/2, and a tenth of which it is too sure by 0 to 0.2.

    An offset calibrated on these is wrong about gamma of all and undecided about nine tenths, so that a cascade spends
    nearly all of its promise, the surrogate's and Monte Carlo's.
    """
    rng = np.random.default_rng(7)
    undecided = np.arange(size) % 10 > 0
    q = np.where(undecided, rng.uniform(0.515, 0.525, size), rng.uniform(0.94, 0.96, size))
    p = np.where(undecided, 0.55, q - rng.uniform(0, 0.2, size))
    return Population(q, p, q)
