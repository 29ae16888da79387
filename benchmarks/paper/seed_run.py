"""One seed of a recipe: its run, and further surrogates fitted to the same counts, each made once and then kept."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rrise import stages
from rrise.calibration.scored import Scored
from rrise.data import Splits
from rrise.evaluation.thinning import thinned
from rrise.ledger import Ledger
from rrise.recipe import Recipe, load_recipe, run
from rrise.runtime import open_engine
from rrise.runtime.certifier import ROWS, engine_logits
from rrise.stages.calibrate import score_counts
from rrise.targets.store import CountStore
from rrise.training.networks import load_network
from rrise.training.surrogate import FitConfig, fit_surrogate

Counts = NDArray[np.int64]
DEEP = {"lr": (1e-3,), "weight_decay": (0.05,), "epochs": (30,), "folds": 0, "held_out": 0}
"""Settings of the strategies `full` and `scratch`: one, since cross-validating whole networks costs hours here."""

_THINNED = {"calibration": 0, "estimation": 1, "reference": 2, "selection": 3, "train": 4, "profile": 4}
"""Third part of the seed by which draws are thinned; a profile that is the targets is thinned as they are."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What one surrogate's engine says: logits of the test images, and the others beside their counts."""

    logits: NDArray[np.float32]
    calibration: Scored
    profile: Scored


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
        """Noisy draws of a Monte Carlo certificate; these tables take as many of those of a calibration image."""
        return self.recipe.sample.n

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median milliseconds of a single pass and of a fixed-budget Monte Carlo certificate, on one thread."""
        timing = json.loads((self.folder / "evaluation" / "timing.json").read_text())
        return timing["single_pass_ms"][1], timing["monte_carlo_ms"][1]

    def thinned(self, split: str, n: int) -> Counts:
        """Return what n of the draws counted: a random part of them, so in law the counts of n draws."""
        counts = self.counts[split]
        if n >= int(counts.sum(1).min()):
            return counts
        return thinned(counts, n, np.random.default_rng([self.seed, n, _THINNED[split]]))

    def surrogate(self, name: str, config: FitConfig, n: int, say: Callable[[str], object]) -> Answers:
        """Return the answers of a surrogate fitted to n draws a target; fitted now, unless it was before.

        That of the run itself (`head`, `ce`, all draws) is fitted once more, for its time.
        """
        place, ledger = self.folder / "surrogates" / name, Ledger(self.folder / "ledger")
        facts = {f"fit.{f.name}": getattr(config, f.name) for f in dataclasses.fields(config)}
        facts |= {"n": n, "counts": CountStore.open(self.folder / "counts" / "train").sha256}
        verdict = ledger.verdict(f"surrogate-{name}", facts, place)
        if verdict.state != "done":
            if place.exists():
                ledger.set_aside(f"surrogate-{name}", place)
            place.mkdir(parents=True)
            say(f"seed {self.seed}: surrogate {name}: {self._fit(config, n, place)}")
            ledger.record(f"surrogate-{name}", facts, place)
        return self._answers(place / "engine", n)

    def seconds_to_fit(self, name: str) -> float:
        """Return the seconds that cross-validation and fit of a surrogate took when it was made."""
        return float(json.loads((self.folder / "surrogates" / name / "seconds.json").read_text())["fit"])

    def _fit(self, config: FitConfig, n: int, place: Path) -> str:
        network, train = load_network(self.folder / "classifier"), self.splits.targets
        start = time.perf_counter()
        found = fit_surrogate(network, train.images, self.thinned("train", n), config, training_ids=train.ids)
        (place / "seconds.json").write_text(json.dumps({"fit": time.perf_counter() - start}) + "\n")
        store = CountStore.open(self.folder / "counts" / "train")
        found.save(
            place / "surrogate",
            classes=list(train.classes),
            classifier_sha256=network.sha256,
            counts_sha256=store.sha256,
            sigma=store.manifest.sigma,
        )
        stages.export(train, self.recipe.export, self.recipe.plan, place / "surrogate", place / "engine")
        return found.summary()

    def _answers(self, engine: Path, n: int) -> Answers:
        opened = open_engine(engine)

        return Answers(
            engine_logits(opened, self.splits.test.images, 1),
            score_counts(opened, self.splits.calibration, self.thinned("calibration", n)),
            score_counts(opened, self.splits.profile, self.thinned("profile", n), ROWS),
        )


def seed_run(
    source: str,
    overrides: Sequence[str],
    seed: int,
    out: Path,
    *,
    scaled: bool,
    say: Callable[[str], object],
    variant: str = "",
) -> SeedRun:
    """Run a recipe with one seed for everything that is drawn, as far as it was not run before, and open it."""
    drawn = ("data", "train", "sample", "fit", *(("rival",) if load_recipe(source, overrides).rival else ()))
    seeds = [f"{table}.seed={seed}" for table in drawn]
    recipe = load_recipe(source, [*overrides, *seeds, f"out={out / f'seed-{seed}'}"], scaled=scaled, variant=variant)
    run(recipe, say=lambda line: say(f"seed {seed}: {line}"))
    splits, folder = stages.load_splits(recipe.data), Path(recipe.out)
    parts = {"train": "targets", "profile": "profile", "calibration": "calibration"} | dict.fromkeys(
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


def fit_config(recipe: Recipe, strategy: str, loss: str) -> FitConfig:
    """Return the recipe's own settings for a trained head, one fixed setting for a trained network."""
    return dataclasses.replace(recipe.fit, strategy=strategy, loss=loss, **({} if strategy == "head" else DEEP))
