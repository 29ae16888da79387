"""Several sigma in one bundle beside each alone, and beside Monte Carlo at each and at all, over several seeds.

python benchmarks/noise_levels.py --recipe digits --sigmas 0.12 0.25 0.5 --seeds 100 200 300

Every seed is a classifier of the recipe, counts and a surrogate at each sigma, and one engine of all; what is finished
is kept. The reference that bounds are held against has as many draws as Monte Carlo.

A certificate of whichever sigma has the largest radius is compared with a bundle of a single sigma at the same total
error, calibrated on the same engine's answers; with a split of the error as if sigma had nothing to do with each other
(a rank and an eta for each); and with fixed-budget Monte Carlo.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper import tables

from rrise import _C, stages
from rrise.calibration.conformal import calibrate
from rrise.calibration.joint import calibrate_jointly
from rrise.evaluation import metrics
from rrise.evaluation.baselines import cohen_certify, cohen_select
from rrise.evaluation.tables import markdown_table
from rrise.images import Splits
from rrise.promise import decimal, rounded_down
from rrise.recipe import Recipe, load_recipe
from rrise.runtime import Certificates, open_engine
from rrise.runtime.certifier import ROWS, engine_logits
from rrise.runtime.multi_sigma import choose
from rrise.stages.calibrate_levels import score_levels
from rrise.targets.noise import STREAMS
from rrise.targets.store import CountStore

SPLITS: dict[str, str] = {"train": "targets", "calibration": "calibration", "selection": "test", "estimation": "test"}
SPLITS |= {"reference": "test"}
Knots = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Run:
    """The settings, images and folder of one seed."""

    seed: int
    recipe: Recipe
    splits: Splits
    folder: Path

    @classmethod
    def of(cls, source: str, overrides: list[str], seed: int, out: Path, scaled: bool) -> Run:
        """Return a seed's run, its classifier trained unless it was before."""
        seeds = [f"{table}.seed={seed}" for table in ("data", "train", "sample", "fit")]
        recipe = load_recipe(source, ["fit.strategy=head", *overrides, *seeds], scaled=scaled)  # heads share a network
        run = cls(seed, recipe, stages.load_splits(recipe.data), out / f"seed-{seed}")
        if not (run.folder / "classifier").exists():
            print(f"seed {seed}: {stages.train(run.splits.train, recipe.train, run.folder / 'classifier')}")
        return run


def engine_of_all(run: Run, sigmas: list[float]) -> Path:
    """Return the engine of all sigma, made from counts and surrogates at each that are made where they are missing."""
    recipe, surrogates = run.recipe, []
    for sigma in sigmas:
        place = run.folder / f"{sigma:g}"
        for name, split in SPLITS.items():
            n = recipe.evaluate.n_selection if name == "selection" else recipe.sample.n
            config = replace(recipe.sample, sigma=sigma, n=n)
            stream = STREAMS["targets" if name in ("train", "calibration") else name]
            places = (run.folder / "classifier", place / name)
            stages.sample(run.splits, split, config, recipe.execution, *places, stream=stream)
        surrogates.append(place / "surrogate")
        if not surrogates[-1].exists():
            parts = (run.folder / "classifier", place / "train", surrogates[-1])
            print(f"seed {run.seed}, sigma = {sigma:g}: {stages.fit(run.splits.targets, recipe.fit, *parts)}")
    engine, (first, *more) = run.folder / f"engine-{'-'.join(f'{sigma:g}' for sigma in sigmas)}", surrogates
    if not engine.exists():
        print(stages.export(run.splits.train, recipe.export, recipe.plan, first, engine, *more))
    return engine


def certified(run: Run, sigmas: list[float], curve: str, guarantee: str) -> dict[str, dict[str, Any]]:
    """Return what each certifier gives on the test images of one seed."""
    opened = open_engine(engine_of_all(run, sigmas))
    stores = {name: [CountStore.open(run.folder / f"{sigma:g}" / name) for sigma in sigmas] for name in SPLITS}
    counts = {
        name: [store.table().rows(run.splits.test.ids).counts.astype(np.int64) for store in stores[name]]
        for name in ("selection", "estimation", "reference")
    }
    points = score_levels(opened, run.splits.calibration, stores["calibration"])
    profiles = score_levels(opened, run.splits.targets, stores["train"], ROWS)
    logits = np.split(engine_logits(opened, run.splits.test.images, 1), len(sigmas), axis=1)
    levels = run.recipe.calibrate
    settings = {"curve": curve, "guarantee": guarantee}

    def alone(level: int, share: int = 1) -> Knots:
        """Return the curve of one sigma, at its share of gamma and eta; beta is that of each bound anyway."""
        own, profile = points[level], profiles[level]
        gamma, eta = (rounded_down(decimal(error) / share) for error in (levels.gamma, levels.eta))
        error = vars_of(levels) | ({"gamma": gamma, "eta": eta} if share > 1 else {})
        found = calibrate(own.q, own.k, own.n, profile=(profile.q, profile.k, profile.n), **error, **settings)
        return found.knots_q, found.knots_p

    def served(curves: list[Knots] | tuple[Knots, ...]) -> tuple[Certificates, ...]:
        return tuple(
            certificates_of(np.ascontiguousarray(own), knots, sigma)
            for own, knots, sigma in zip(logits, curves, sigmas, strict=True)
        )

    def monte_carlo(alpha: float) -> tuple[Certificates, ...]:
        rows = zip(counts["selection"], counts["estimation"], sigmas, strict=True)
        return tuple(cohen_certify(first, second, alpha=alpha, sigma=sigma) for first, second, sigma in rows)

    joint = calibrate_jointly(sigmas, points, profiles, **vars_of(levels), **settings)
    alpha = joint.error
    top, guesses = [_C.top(np.ascontiguousarray(own))[0] for own in logits], [*map(cohen_select, counts["selection"])]
    found: dict[str, dict[str, Any]] = {}
    for level, sigma in enumerate(sigmas):
        one = served([alone(i) for i in range(len(sigmas))])[level]
        found[f"sigma = {sigma:g}"] = measured(run, one, top[level], counts["reference"][level])
    together = {"all, one rank": served(joint.curves)}
    together["all, a rank each"] = served([alone(level, len(sigmas)) for level in range(len(sigmas))])
    for name, one in together.items():
        found[name] = measured(run, *chosen(one, sigmas, top, counts["reference"]))
    for level, sigma in enumerate(sigmas):
        found[f"B1, sigma = {sigma:g}"] = measured(
            run, monte_carlo(alpha)[level], guesses[level], counts["reference"][level]
        )
    each = monte_carlo(rounded_down(decimal(alpha) / len(sigmas)))
    found["B1, all"] = measured(run, *chosen(each, sigmas, guesses, counts["reference"]))
    shares = [float(np.mean(choose(together["all, one rank"], tuple(sigmas)).sigma == sigma)) for sigma in sigmas]
    print(
        f"seed {run.seed}: chosen sigma: "
        + ", ".join(f"{s:g}: {share:.0%}" for s, share in zip(sigmas, shares, strict=True))
    )
    return found


def vars_of(levels: Any) -> dict[str, float]:
    """Return the error probabilities of a calibration's settings."""
    return {"beta": levels.beta, "gamma": levels.gamma, "eta": levels.eta}


def certificates_of(logits: NDArray[np.float32], knots: Knots, sigma: float) -> Certificates:
    """Return what the kernel certifies."""
    label, q, p_lower, radius = _C.certify(logits, *knots, sigma)
    return Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=np.zeros_like(label))


def chosen(
    levels: tuple[Certificates, ...], sigmas: list[float], top: list[NDArray[np.int64]], reference: list[NDArray[Any]]
) -> tuple[Certificates, NDArray[np.int64], NDArray[Any]]:
    """Return the chosen certificates, the class each is about, and reference counts at its sigma.

    Where none is chosen, those of the level with the largest bound: it is what the abstaining row reports.
    """
    certificates = choose(levels, tuple(sigmas)).certificates
    rows = np.arange(len(certificates))
    level = np.stack([one.radius for one in levels]).argmax(axis=0)
    return certificates, np.stack(top)[level, rows], np.stack(reference)[level, rows]


def measured(
    run: Run, certificates: Certificates, predicted: NDArray[np.int64], reference: NDArray[Any]
) -> dict[str, Any]:
    """Return accuracy, radius and coverage of one certifier, shares in percent."""
    labels, cover = run.splits.test.labels, metrics.coverage(certificates, predicted, reference)
    accuracy = metrics.certified_accuracy(certificates, labels, run.recipe.evaluate.radii)
    return {
        "certified accuracy": (100 * accuracy).tolist(),
        "average certified radius": metrics.average_certified_radius(certificates, labels),
        "abstention": 100 * metrics.abstention_rate(certificates),
        "coverage": 100 * cover.overall.value,
        "coverage in the boundary": 100 * cover.boundary.value,
        "coverage if certified": 100 * cover.certified.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="name of a recipe of rrise's, or a TOML file")
    parser.add_argument("--scale", action="store_true", help="the recipe's [scale]: fewer images, draws and epochs")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.12, 0.25, 0.5], help="noise levels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 200, 300])
    parser.add_argument("--curve", default="scaled", choices=("offset", "scaled"))
    parser.add_argument("--guarantee", default="training-conditional", choices=("marginal", "training-conditional"))
    parser.add_argument("--out", type=Path, help="folder of runs and tables; default: runs/levels/RECIPE")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the recipe to change, as sample.n=500")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs/levels") / Path(arguments.recipe).stem
    sigmas = sorted(arguments.sigmas)
    runs = [Run.of(arguments.recipe, arguments.set, seed, out, arguments.scale) for seed in arguments.seeds]
    by_seed = [certified(run, sigmas, arguments.curve, arguments.guarantee) for run in runs]
    results = {name: [one[name] for one in by_seed] for name in by_seed[0]}
    radii = list(runs[0].recipe.evaluate.radii)
    head = ["certifier", *(f"r ≥ {r:g}" for r in radii), "average radius", "abstains", "coverage", "if certified"]
    keys = (("average certified radius", 4), ("abstention", 1), ("coverage", 1), ("coverage if certified", 1))
    rows = [
        [
            name,
            *(tables.cell(entries, "certified accuracy", 1, i) for i in range(len(radii))),
            *(tables.cell(entries, key, digits) for key, digits in keys),
        ]
        for name, entries in results.items()
    ]
    table = markdown_table([head, *rows])
    (out / "levels.md").write_text(table + "\n")
    (out / "levels.json").write_text(
        json.dumps({"sigmas": sigmas, "radii": radii, "results": results}, indent=1) + "\n"
    )
    print(f"\n{table}\n\n{out}/levels.md, {out}/levels.json")


if __name__ == "__main__":
    main()
