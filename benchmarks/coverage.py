"""How often calibrated bounds are wrong beside what was promised, where the truth is known in closed form.

python benchmarks/coverage.py --calibrations 100
python benchmarks/coverage.py --betas 0.01 --draws 500 --calibrations 1000

Classifiers whose smoothed probabilities are exact: a half-space in 2 and in 3,072 dimensions (p = Phi of the distance
in sigmas), and stripes, a periodic union of slabs (p a sum of normal probabilities). Surrogates with planted errors:
exact, noisy, over-confident, biased at the boundary, wrong on a slice. And the worst that a promise allows ("one p"): a
share of hard inputs, just below the promise, that all have one p and are missed all or none.

The promise is alpha, spent as gamma = alpha (1 - beta) at every beta; many draws make the bounds nearly exact. Every
calibration draws its inputs and noisy counts anew; its curve is judged on the whole pool of inputs, so that the only
chance left is in the calibrations.

Prints for each promise the mean miscoverage, and the share of calibrations whose curve misses more than was promised:
a marginal promise bounds the first, a training-conditional or certified one the second (by eta). In the last column,
whether gamma by itself, too small a promise, would have been called broken.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from tqdm import tqdm

from rrise.calibration.conformal import calibrate
from rrise.calibration.levels import spent
from rrise.evaluation.tables import markdown_table
from rrise.promise import percent

Floats = NDArray[np.float64]
FALSE_ALARM = 1e-6
PROMISES = (
    ("offset", "marginal"),
    ("scaled", "marginal"),
    ("offset", "training-conditional"),
    ("scaled", "training-conditional"),
    ("scaled", "certified"),
)


@dataclass(frozen=True)
class Pool:
    """Inputs, each as good as any other: the surrogate's top probability, and the true one of the surrogate's label."""

    q: Floats
    p: Floats


def half_space(dimensions: int, rng: np.random.Generator, inputs: int) -> Floats:
    """Return the distance of random inputs to the boundary, in sigmas, signed towards class 1."""
    weight = rng.normal(size=dimensions)
    weight /= np.linalg.norm(weight)
    return np.concatenate([(2.5 * rng.normal(size=(500, dimensions)) + 0.3) @ weight for _ in range(inputs // 500)])


def stripes(rng: np.random.Generator, inputs: int, width: float = 3.0) -> Floats:
    """Return the probit of class 1 where every other stripe of a width, in sigmas, is of that class."""
    position = rng.uniform(0, 2 * width, inputs)
    edges = width * np.arange(-12, 13)
    inside = ndtr(edges[1::2, None] - position) - ndtr(edges[0:-1:2, None] - position)
    return np.asarray(ndtri(np.clip(inside.sum(axis=0), 1e-12, 1 - 1e-12)))


SURROGATES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "exact": lambda z, rng: z,
    "noisy": lambda z, rng: z + rng.normal(0, 0.4, z.size),
    "over-confident": lambda z, rng: 1.8 * z + rng.normal(0, 0.2, z.size),
    "biased at the boundary": lambda z, rng: z + 0.8 * np.exp(-((np.abs(z) / 0.6) ** 2)) * np.sign(z + 1e-9),
    "wrong on a slice": lambda z, rng: np.where(rng.random(z.size) < 0.02, -z, z + rng.normal(0, 0.2, z.size)),
}


def pool(truth: Floats, says: Floats) -> Pool:
    """Return the pool of a surrogate that says the probit ``says`` of class 1 where ``truth`` is right."""
    return Pool(q=ndtr(np.abs(says)), p=ndtr(truth * np.where(says >= 0, 1.0, -1.0)))


def concentrated(share: float, inputs: int) -> Pool:
    """Return a pool whose hard inputs all have p = 0.9, of which the surrogate is surer; of others it is modest."""
    hard = np.arange(inputs) < share * inputs
    return Pool(q=np.where(hard, 0.95, 0.6), p=np.where(hard, 0.9, 0.999))


def misses(
    population: Pool, curve: str, guarantee: str, settings: argparse.Namespace, rng: np.random.Generator
) -> Floats:
    """Return float64[R], what each calibration's curve misses, of certified inputs where that is promised.

    ``settings`` has calibrations, images, n, beta, gamma and eta.
    """
    found, inputs = [], population.q.size
    for _ in range(settings.calibrations):
        rows, others = rng.integers(inputs, size=settings.images), rng.integers(inputs, size=settings.images)
        k, profile = (rng.binomial(settings.n, population.p[chosen]) for chosen in (rows, others))
        fitted = calibrate(
            population.q[rows],
            k,
            settings.n,
            beta=settings.beta,
            gamma=settings.gamma,
            eta=settings.eta,
            curve=curve,
            guarantee=guarantee,
            profile=(population.q[others], profile, settings.n),
        )
        bound = np.interp(population.q, fitted.knots_q, fitted.knots_p)
        wrong = population.p < bound
        if guarantee == "certified":
            wrong = wrong[bound > 0.5] if np.any(bound > 0.5) else np.zeros(1)
        found.append(float(np.mean(wrong)))
    return np.array(found)


def kept(missed: Floats, guarantee: str, error: float, eta: float) -> bool:
    """Return whether the promise stands, up to a chance of one in a million that a true one seems broken."""
    if guarantee == "marginal":
        slack = -ndtri(FALSE_ALARM) * missed.std(ddof=1) / math.sqrt(missed.size)
        return bool(missed.mean() <= error + slack)
    return bool(np.sum(missed > error) <= binom.isf(FALSE_ALARM, missed.size, eta))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrations", type=int, default=200, help="repeated calibrations of each promise")
    parser.add_argument("--images", type=int, default=500, help="calibration inputs")
    parser.add_argument("--draws", type=int, nargs="+", default=[500, 100_000], help="noisy draws of each")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.01, 0.3, 0.5, 0.8])
    parser.add_argument("--alpha", type=float, default=0.1, help="what is promised, at every beta")
    parser.add_argument("--eta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    rng, inputs = np.random.default_rng(settings.seed), 20_000
    truths = {
        "half-space, 2": half_space(2, rng, inputs),
        "half-space, 3,072": half_space(3072, rng, inputs),
        "stripes": stripes(rng, inputs),
    }
    pools = {
        (name, error): pool(truth, SURROGATES[error](truth, rng))
        for name, truth in truths.items()
        for error in SURROGATES
    }
    pools[("one p", "surer of it")] = concentrated(0.85 * settings.alpha, inputs)
    head = ["beta", "draws", "classifier", "surrogate", "curve", "guarantee", "missed", "promised", "over", "allowed"]
    rows, broken = [[*head, "", "gamma alone"]], 0
    levels = [(beta, n) for beta in settings.betas for n in settings.draws]
    cases = [(*level, *names, *each) for level in levels for names in pools for each in PROMISES]
    for beta, n, name, error, curve, guarantee in tqdm(cases, disable=None):
        settings.n, (settings.beta, settings.gamma) = n, spent(settings.alpha, beta)
        missed = misses(pools[name, error], curve, guarantee, settings, rng)
        stands, marginal = kept(missed, guarantee, settings.alpha, settings.eta), guarantee == "marginal"
        broken += not stands
        alone = "kept" if kept(missed, guarantee, settings.gamma, settings.eta) else "broken"
        over = f"{100 * np.mean(missed > settings.alpha):.1f}%"
        allowed = "–" if marginal else f"{100 * settings.eta:g}%"
        numbers = [f"{100 * missed.mean():.2f}%", percent(settings.alpha), over, allowed]
        row = [f"{beta:g}", f"{n:,}", name, error, curve, guarantee, *numbers]
        rows.append([*row, "kept" if stands else "BROKEN", alone])
    print(markdown_table(rows))
    print(f"\n{len(cases)} promises, {settings.calibrations:,} calibrations each: {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
