"""What more draws of the calibration images are worth, from the counts of a finished run, without any new draw.

rrise run digits --set calibrate.n=100000 --set out=runs/ladder
python benchmarks/calibration_draws.py --recipe digits --set calibrate.n=100000 out=runs/ladder

The run's calibration counts are thinned to fewer draws: a random part of them, which in law is what fewer draws would
have given; a smaller number's draws are a part of a larger one's. With each number the run's own engine is calibrated
anew, with the scaled curve and the split of alpha that a rehearsal on the profile chooses, and certifies the run's test
images. Targets, fit and profile stay as they are. Printed for each alpha and guarantee:

of n, of larger   average certified radius as a share of Monte Carlo's (B1) with sample.n draws, and with the larger
                  budget of the run (evaluate.n_larger), at the same alpha
behind            certified accuracy at radius 0, in points below B1's with sample.n draws
certified, holds  share of test images certified, and share of bounds that the reference draws reach
paid once         noisy evaluations of the calibration images

A guarantee that the calibration images are too few for has the reason in place of numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rrise import _C, stages
from rrise.calibration.conformal import calibrate
from rrise.calibration.guarantees import MARGINAL, TRAINING_CONDITIONAL
from rrise.calibration.levels import choose_levels
from rrise.calibration.scored import Scored
from rrise.evaluation import metrics
from rrise.evaluation.baselines import cohen_certify
from rrise.evaluation.tables import markdown_table
from rrise.evaluation.thinning import thinned
from rrise.recipe import Recipe, load_recipe
from rrise.runtime import open_engine
from rrise.runtime.certificates import Certificates
from rrise.runtime.certifier import ROWS, engine_logits
from rrise.stages.calibrate import as_of, score_counts
from rrise.stages.contenders import few_of
from rrise.targets.store import CountStore

Counts = NDArray[np.int64]
GUARANTEES = (MARGINAL, TRAINING_CONDITIONAL)
ETA = 0.01
STEPS = (1, 3, 10, 30, 100)
"""Draws of a calibration image in units of Monte Carlo's."""
_THINNING = 5
"""Second part of the seed by which draws are picked; the first is that of the noise."""


@dataclass(frozen=True, eq=False)
class World:
    """A finished run, as far as calibration and test need it.

    Parameters
    ----------
    logits : float32[B, K]
        Of the test images.
    calibration_label : int64[M]
        The engine's label of each calibration image, -1 where it has none.
    calibration_q : float64[M]
    calibration : int64[M, K]
        Class counts of all draws.
    profile : Scored
        With the draws that it has.
    labels : int64[B]
        True classes of the test images.
    selection, estimation, larger, reference : int64[B, K]
        Class counts of the test images; ``larger`` may be the same as ``estimation``.
    """

    logits: NDArray[np.float32]
    calibration_label: Counts
    calibration_q: NDArray[np.float64]
    calibration: Counts
    profile: Scored
    labels: Counts
    selection: Counts
    estimation: Counts
    larger: Counts
    reference: Counts
    sigma: float
    seed: int

    def numbers(self, wanted: Sequence[int]) -> list[int]:
        """Return the numbers of draws, rising: those wanted, or the usual steps as far as there are draws."""
        most = int(self.calibration.sum(axis=1).min())
        if too_many := [n for n in wanted if n > most]:
            raise ValueError(f"n: expected at most the {most} draws of a calibration image, got {too_many}. Draw more.")
        n = int(self.estimation[0].sum())
        return sorted(set(wanted)) or [step * n for step in STEPS if step * n <= most]

    def thinned(self, numbers: Sequence[int]) -> dict[int, Scored]:
        """Return the calibration points with so many draws each; the fewer are among the more."""
        rng, left, found = np.random.default_rng([self.seed, _THINNING]), self.calibration, {}
        rows = np.arange(len(left))
        for n in sorted(numbers, reverse=True):
            left = left if int(left.sum(axis=1).max()) == n else thinned(left, n, rng)
            k = np.where(self.calibration_label >= 0, left[rows, np.maximum(self.calibration_label, 0)], 0)
            found[n] = Scored(self.calibration_q, k, np.full(len(left), n))
        return dict(sorted(found.items()))


def open_world(recipe: Recipe) -> World:
    """Return what the folder ``recipe.out`` of a finished run holds; ValueError if an artifact is missing there."""
    splits, folder = stages.load_splits(recipe.data), Path(recipe.out)
    if not (folder / "evaluation").is_dir():
        raise ValueError(f"out: expected a finished run in {folder}, got none. Make it: rrise run.")
    engine = open_engine(folder / "engine")

    def counts(name: str, split: str) -> Counts:
        store = CountStore.open(folder / "counts" / name)
        return store.table().rows(getattr(splits, split).ids).counts.astype(np.int64)

    label, q = _C.top(engine_logits(engine, splits.calibration.images, 1))
    estimation = counts("estimation", "test")
    shape = counts("profile" if recipe.data.shaping else "train", "profile")
    return World(
        engine_logits(engine, splits.test.images, 1),
        label,
        q,
        counts("calibration", "calibration"),
        score_counts(engine, splits.profile, shape, ROWS),
        splits.test.labels,
        counts("selection", "test"),
        few_of(estimation, recipe.sample.n, recipe.sample.seed),
        estimation,
        counts("reference", "test"),
        recipe.sample.sigma,
        recipe.sample.seed,
    )


def rows(world: World, points: Scored, alpha: float, guarantee: str) -> list[str]:
    """Return one number of draws' cells at one level."""
    n, name = int(points.n[0]), f"{int(points.n[0]):,}"
    shape = as_of(n, world.profile)
    settings = {"curve": "scaled", "guarantee": guarantee, "eta": ETA}
    try:
        levels = choose_levels(shape.q, shape.k, shape.n, alpha=alpha, images=len(points.q), draws=n, **settings)
        beta, gamma = levels
        found = calibrate(
            points.q, points.k, points.n, beta=beta, gamma=gamma, profile=(shape.q, shape.k, shape.n), **settings
        )
    except ValueError as error:  # too few calibration images for this guarantee at this level
        return [name, f"refused: {error}", *[""] * 7]
    label, q, p_lower, radius = _C.certify(world.logits, found.knots_q, found.knots_p, world.sigma)
    ours = Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=np.zeros_like(label))
    few, more = (
        cohen_certify(world.selection, counts, alpha=alpha, sigma=world.sigma)
        for counts in (world.estimation, world.larger)
    )
    mine, theirs, most = (metrics.average_certified_radius(each, world.labels) for each in (ours, few, more))
    accuracy, other = (metrics.certified_accuracy(each, world.labels, [0.0])[0] for each in (ours, few))
    holds = metrics.coverage(ours, _C.top(world.logits)[0], world.reference).overall.value
    return [
        name,
        f"{beta:g}",
        f"{mine:.4f}",
        *(f"{mine / of:.3f}" if of > 0 else "none" for of in (theirs, most)),
        f"{100 * (other - accuracy):.1f}",
        f"{100 * (1 - metrics.abstention_rate(ours)):.1f}%",
        f"{100 * holds:.1f}%",
        f"{int(points.n.sum()):,}",
    ]


def tables(world: World, alphas: Sequence[float], numbers: Sequence[int]) -> Iterator[str]:
    """Yield a headline and a Markdown table for each alpha and guarantee."""
    points = world.thinned(world.numbers(numbers))
    n, most = int(world.estimation[0].sum()), int(world.larger[0].sum())
    head = ["draws", "beta", "mean r", "of n", "of larger", "behind", "certified", "holds", "paid once"]
    for alpha in alphas:
        for guarantee in GUARANTEES:
            yield f"\nalpha = {alpha:g}, {guarantee}; Monte Carlo: n = {n:,}, larger {most:,}"
            yield markdown_table([head, *(rows(world, each, alpha, guarantee) for each in points.values())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="the recipe of the run, a name or a TOML file")
    parser.add_argument("--variant", default="", help="its variant")
    parser.add_argument("--scale", action="store_true", help="the run was scaled down")
    parser.add_argument("--set", nargs="*", default=[], help="the settings that the run was given, out among them")
    parser.add_argument(
        "--n", type=int, nargs="*", default=[], help="draws of a calibration image; none: 1, 3, 10 … × n"
    )
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.25, 0.05, 0.01], help="failure probabilities")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set, variant=arguments.variant, scaled=arguments.scale)
    for text in tables(open_world(recipe), arguments.alphas, arguments.n):
        print(text)


if __name__ == "__main__":
    main()
