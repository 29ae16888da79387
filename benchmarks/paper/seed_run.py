"""One seed of a recipe: its run, and further surrogates of the same classifier, each made once and then kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rrise import _C, stages
from rrise.calibration.scored import Scored
from rrise.evaluation.thinning import thinned
from rrise.images import Splits
from rrise.ledger import Ledger
from rrise.recipe import Recipe, load_recipe, run
from rrise.runtime import open_engine
from rrise.runtime.certifier import ROWS, engine_logits
from rrise.stages.calibrate import as_of
from rrise.targets.noise import TARGETS
from rrise.targets.settings import TargetsConfig
from rrise.targets.store import CountStore
from rrise.training.surrogate import FitConfig

Counts = NDArray[np.int64]
Say = Callable[[str], object]
ALL, ITSELF, HEAD, SCRATCH, JS = "all weights", "all weights, images themselves", "head", "from scratch", "JS"
"""Surrogates: the run's own; and, fitted to as many draws of the images themselves, four others."""

_THINNED = {"calibration": 0, "estimation": 1, "reference": 2, "selection": 3}
"""Third part of the seed by which draws are thinned."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What one surrogate's engine says: logits of the test images, classes and q of the others."""

    test: NDArray[np.float32]
    calibration: tuple[Counts, NDArray[np.float64]]
    profile: tuple[Counts, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class SeedRun:
    """A finished run of a recipe with one seed, opened."""

    seed: int
    recipe: Recipe
    splits: Splits
    counts: dict[str, Counts]

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.recipe.out)

    @property
    def n(self) -> int:
        """Noisy draws of a Monte Carlo certificate."""
        return self.recipe.sample.n

    @property
    def larger(self) -> int:
        """Noisy draws of the larger Monte Carlo budget."""
        return int(self.counts["estimation"].sum(1).min())

    @property
    def draws(self) -> int:
        """Noisy draws of a calibration image."""
        return int(self.counts["calibration"].sum(1).min())

    def thinned(self, split: str, n: int) -> Counts:
        """Return what n of the draws counted: a random part of them, so in law the counts of n draws."""
        counts = self.counts[split]
        if n >= int(counts.sum(1).min()):
            return counts
        return thinned(counts, n, np.random.default_rng([self.seed, n, _THINNED[split]]))

    def points(self, answers: Answers, split: str, n: int) -> Scored:
        """Return a surrogate's answers on the calibration or profile images beside counts: n draws, or as if n."""
        label, q = getattr(answers, split)
        counts = self.thinned(split, n) if split == "calibration" else self.counts[split]
        agreeing = counts[np.arange(len(label)), np.maximum(label, 0)]
        found = Scored(q, np.where(label >= 0, agreeing, 0), counts.sum(axis=1))
        return found if split == "calibration" else as_of(n, found)

    def surrogate(self, name: str, say: Say) -> Answers:
        """Return the answers of a surrogate: the run's own, or another, fitted now unless it was before."""
        if name == ALL:
            return self._answers(self.folder / "engine")
        config, ledger = fit_config(self.recipe, name), Ledger(self.folder / "ledger")
        file = name.replace(", ", "-").replace(" ", "-")
        place, store = self.folder / "surrogates" / file, self._itself()
        facts = {f"fit.{f.name}": getattr(config, f.name) for f in dataclasses.fields(config)}
        facts |= {"counts": CountStore.open(store).sha256}
        verdict = ledger.verdict(f"surrogate-{file}", facts, place)
        if verdict.state != "done":
            if place.exists() and verdict.state != "missing":
                ledger.set_aside(f"surrogate-{file}", place)
            place.mkdir(parents=True, exist_ok=True)
            classifier, fitted = self.folder / "classifier", place / "surrogate"
            if not fitted.exists():
                said = stages.fit(self.splits.targets, config, classifier, store, fitted, progress=False)
                say(f"surrogate {name}: {said}")
            stages.export(self.splits.train, self.recipe.export, self.recipe.plan, fitted, place / "engine")
            ledger.record(f"surrogate-{file}", facts, place)
        return self._answers(place / "engine")

    @property
    def offline(self) -> tuple[int, int]:
        """Noisy evaluations of the training targets, and of the images that shape the curve."""
        shape = int(self.counts["profile"].sum()) if self.recipe.data.shaping else 0
        return CountStore.open(self.folder / "counts" / "train").manifest.evaluations, shape

    def _itself(self) -> Path:
        """Return counts of the target images themselves, of as many draws as the targets' views have together."""
        recipe, targets = self.recipe, self.recipe.targets
        if targets.views == 1:
            return self.folder / "counts" / "train"
        place, n = self.folder / "counts" / "itself", targets.views * (targets.n or recipe.sample.n)
        stages.sample(
            self.splits,
            "targets",
            recipe.sample,
            recipe.execution,
            self.folder / "classifier",
            place,
            stream=TARGETS,
            targets=TargetsConfig(1, n),
            progress=False,
        )
        return place

    def _answers(self, engine: Path) -> Answers:
        opened = open_engine(engine)
        labelled = {
            split: _C.top(engine_logits(opened, getattr(self.splits, split).images, rows))
            for split, rows in (("calibration", 1), ("profile", ROWS))
        }
        return Answers(engine_logits(opened, self.splits.test.images, 1), **labelled)


def seed_run(
    source: str,
    overrides: Sequence[str],
    seed: int,
    out: Path,
    *,
    scaled: bool,
    say: Say,
    variant: str = "",
) -> SeedRun:
    """Run a recipe with one seed for everything that is drawn, as far as it was not run before, and open it.

    Its rival is left out: the tables fit their own, to draws of the images themselves.
    """
    seeds = [f"{table}.seed={seed}" for table in ("data", "train", "sample", "fit")]
    recipe = load_recipe(source, [*overrides, *seeds, f"out={out / f'seed-{seed}'}"], scaled=scaled, variant=variant)
    recipe = dataclasses.replace(recipe, rival=None)
    run(recipe, say=say, progress=False)
    splits, folder = stages.load_splits(recipe.data), Path(recipe.out)
    parts = {"profile": "profile", "calibration": "calibration"} | dict.fromkeys(
        ("selection", "estimation", "reference"), "test"
    )
    stores = {name: name for name in parts} | ({} if recipe.data.shaping else {"profile": "train"})
    counts = {
        name: CountStore.open(folder / "counts" / stores[name])
        .table()
        .rows(getattr(splits, split).ids)
        .counts.astype(np.int64)
        for name, split in parts.items()
    }
    return SeedRun(seed, recipe, splits, counts)


def fit_config(recipe: Recipe, name: str) -> FitConfig:
    """Return how a surrogate is fitted to draws of the images themselves, one setting each.

    All weights, and the last layer, see as many images as the run's own surrogate does; from random weights 30 passes,
    or more if that does.
    """
    own = recipe.fit
    (passes,) = {setting.epochs for setting in own.settings(recipe.targets.views)}
    whole = {"weight_decay": (0.05,), "lr": (1e-3,), "epochs": (max(passes, 30),), "strategy": "scratch"}
    settings: dict[str, dict[str, object]] = {
        ITSELF: {"epochs": (passes,)},
        HEAD: {"strategy": "head", "lr": (1e-2,), "weight_decay": (0.0,), "epochs": (passes,)},
        SCRATCH: whole,
        JS: {**whole, "loss": "js"},
    }
    return dataclasses.replace(own, **settings[name])  # type: ignore[arg-type]
