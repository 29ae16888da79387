"""A recipe (one TOML file) and :func:`run`: the stages in order, where what is done and valid is not done again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrise.calibration.conformal import CalibrateConfig
from rrise.evaluation.settings import EvaluateConfig
from rrise.images import DataConfig
from rrise.ledger import Ledger, tree_sha256
from rrise.recipe_tables import Tree, describe_scale, overlaid, overridden, read_tables
from rrise.runtime.engines.tensorrt_build import PlanConfig
from rrise.targets.settings import ExecutionConfig, SampleConfig, TargetsConfig
from rrise.training.classifier import TrainConfig
from rrise.training.export import ExportConfig
from rrise.training.surrogate import FitConfig

if TYPE_CHECKING:
    from rrise.images import Splits

STAGES = ("train", "sample", "fit", "export", "calibrate", "evaluate")


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run, one table a stage; unknown keys are errors.

    ``rival``, if there is one, is how another surrogate is fitted to the same counts, to be compared with only.
    ``scale`` is no setting of a file: it says how :func:`load_recipe` scaled the run down, or is empty.
    """

    out: str = field(metadata={"help": "folder of the run's artifacts"})
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    rival: FitConfig | None = None
    scale: str = ""


_TABLES: dict[str, Any] = {
    "data": DataConfig,
    "train": TrainConfig,
    "sample": SampleConfig,
    "targets": TargetsConfig,
    "execution": ExecutionConfig,
    "fit": FitConfig,
    "export": ExportConfig,
    "plan": PlanConfig,
    "calibrate": CalibrateConfig,
    "evaluate": EvaluateConfig,
    "rival": FitConfig,
}


def load_recipe(source: str, overrides: Sequence[str] = (), *, variant: str = "", scaled: bool = False) -> Recipe:
    """Return the recipe of a TOML file, or of a built-in name such as ``digits``.

    What comes later wins: the file's tables, ``[variants.NAME]``, ``[scale]``, the overrides. The tables between hold
    settings under the same names as the file itself, and are checked whether they are asked for or not.

    Parameters
    ----------
    source : str
        Path of a TOML file, or the name of a recipe that comes with rrise.
    overrides : sequence of str
        ``key=value`` each, the key dotted (``sample.n=500``), the value as TOML or a bare string.
    variant : str
        A table of ``[variants]`` to apply; the run's folder ``out`` gets the ending ``-NAME``.
    scaled : bool
        Apply ``[scale]``; the run's folder gets the ending ``-scaled``, and ``Recipe.scale`` says what was shrunk.

    Raises
    ------
    FileNotFoundError
        No such file and no such built-in recipe.
    ValueError
        Not TOML, an unknown key, a value that its stage refuses (the message names the key), no such variant, or no
        ``[scale]`` in a recipe that is to be scaled.
    """
    tables = read_tables(source)
    where = f"recipe {source}"
    over_others = {f"variants.{name}.": table for name, table in tables.variants.items()}
    over_others |= {"scale.": tables.scale} if tables.scale else {}
    if over_others:
        _validated(tables.settings, where)  # first, so that what is wrong below is wrong there
    for name, table in over_others.items():
        _validated(overlaid(tables.settings, table), where, name)
    full, over = tables.chosen(variant, scaled)
    tree = overlaid(full, over)
    for override in overrides:
        overridden(tree, override)
    recipe = _validated(tree, where)
    return dataclasses.replace(recipe, scale=describe_scale(_validated(full, where), recipe, over)) if over else recipe


def _validated(tree: Tree, source: str, within: str = "") -> Recipe:
    try:
        import pydantic
    except ImportError as error:
        raise ImportError("recipe: pydantic is missing. pip install 'rrise[train]'") from error

    for config in (Recipe, *_TABLES.values()):
        config.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    try:
        return pydantic.TypeAdapter(Recipe).validate_python(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise ValueError(f"{source}: unknown key {within}{where}. {_known_keys(where)}") from error
        if first["type"] in ("missing", "missing_argument"):
            raise ValueError(f"{source}: key {where} is missing.") from error
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
        raise ValueError(f"{source}: {within}{where}: {message}{got}") from error


def _known_keys(where: str) -> str:
    config: Any = _TABLES.get(where.rpartition(".")[0], Recipe)
    return "Known: " + ", ".join(field_.name for field_ in dataclasses.fields(config) if field_.name != "scale") + "."


@dataclass(frozen=True)
class Step:
    """One artifact of a run: where it goes, what it is made from, and the call that makes it.

    What ``resumes`` goes on where it was interrupted; what is ``costly`` is never replaced without being asked for.
    """

    stage: str
    name: str
    artifact: Path
    facts: dict[str, object]
    make: Callable[[], object]
    resumes: bool = False
    costly: bool = False


def run(recipe: Recipe, *, redo: str = "", say: Callable[[str], object] = print, progress: bool = True) -> Path:
    """Make every artifact of a recipe and return the path of its report.

    A step whose artifact was made from the same settings and inputs is skipped. When they differ, the artifacts of
    `fit`, `export`, `calibrate` and `evaluate` are moved to ``superseded/`` and made again; a classifier or its
    training and calibration counts are refused with both values named unless ``redo`` asks for them. An interrupted run
    goes on where it stopped: finished shards of counts are never computed twice.

    Parameters
    ----------
    recipe : Recipe
    redo : str
        A stage to make again together with all stages after it, even the costly ones.
    say : callable
        Gets one line a step.
    progress : bool
        Show progress bars on a terminal.

    Raises
    ------
    ValueError
        A costly artifact was made from other settings, or any error of a stage.
    """
    from rrise import stages

    if redo and redo not in STAGES:
        raise ValueError(f"redo: expected one of {', '.join(STAGES)}, got {redo!r}.")
    out = Path(recipe.out)
    ledger = Ledger(out / "ledger")
    _require_possible(recipe)
    splits = stages.load_splits(recipe.data)
    say(f"data: {splits.summary()}")
    if recipe.scale:
        say(recipe.scale)
    for step in _steps(recipe, splits, out, ledger, progress):
        verdict = ledger.verdict(step.name, step.facts, step.artifact)
        again = bool(redo) and STAGES.index(step.stage) >= STAGES.index(redo)
        if verdict.state == "done" and not again:
            say(f"{step.name}: done before, kept")
            continue
        if step.costly and verdict.state in ("stale", "damaged") and not again:
            raise ValueError(
                f"{step.name}: {step.artifact} does not fit this recipe ({verdict.why}). "
                f"Use --redo {step.stage} to make it again, or --set out=FOLDER for a new run."
            )
        goes_on = step.resumes and verdict.state == "missing" and not again
        if step.artifact.exists() and not goes_on:
            shelf = ledger.set_aside(step.name, step.artifact)
            say(f"{step.name}: {'asked for again' if again else verdict.why}; the old one is now {shelf}")
        started = time.perf_counter()
        said = step.make()
        ledger.record(step.name, step.facts, step.artifact, seconds=time.perf_counter() - started)
        say(f"{step.name}: {said}")
    return out / "evaluation" / "report.html"


def _require_possible(recipe: Recipe) -> None:
    """Raise ValueError for what no run of these settings can end in, before anything is made."""
    from rrise.calibration.levels import require_enough
    from rrise.stages.first_stage import first_stage

    config, images, draws = recipe.calibrate, recipe.data.calibration, recipe.calibrate.draws(recipe.sample.n)
    recipe.evaluate.draws(recipe.sample.n, config.passes)
    require_enough(config, images, draws)
    if config.passes:
        require_enough(config, images, draws, shared_draws=True)
    if config.cascade:
        require_enough(first_stage(config), images, draws)


def _steps(recipe: Recipe, splits: Splits, out: Path, ledger: Ledger, progress: bool) -> Iterator[Step]:
    """Yield the steps in order; each one's facts are read when the steps before it are complete.

    ``execution`` is no fact: it changes no count.
    """
    from rrise import stages
    from rrise.targets.noise import STREAMS

    def facts(*tables: str, sample: SampleConfig | None = None, **inputs: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for table in tables:
            config = sample if sample and table == "sample" else getattr(recipe, table)
            found |= {f"{table}.{f.name}": getattr(config, f.name) for f in dataclasses.fields(config)}
        # Named by the step, and only where there are such bundles; or by the counts.
        for named in ("passes", "cascade", "n", "profile_n"):
            found.pop(f"calibrate.{named}", None)
        for name, value in inputs.items():
            found[name] = tree_sha256(value) if isinstance(value, Path) else value
        return found

    classifier, counts, bundles, evaluation = (out / name for name in ("classifier", "counts", "bundles", "evaluation"))
    yield Step(
        "train",
        "train",
        classifier,
        facts("train", images=splits.train.sha256),
        lambda: stages.train(splits.train, recipe.train, classifier, progress=progress),
        costly=True,
    )

    def sampled(
        name: str, split: str, config: SampleConfig, stream: str, *, costly: bool, targets: TargetsConfig | None = None
    ) -> Step:
        return Step(
            "sample",
            f"sample-{name}",
            counts / name,
            facts("sample", sample=config, classifier=classifier, images=getattr(splits, split).sha256)
            | ({f"targets.{name}": value for name, value in vars(targets).items()} if targets else {}),
            lambda: stages.sample(
                splits,
                split,
                config,
                recipe.execution,
                classifier,
                counts / name,
                stream=STREAMS[stream],
                targets=targets,
                progress=progress,
            ),
            resumes=True,
            costly=costly,
        )

    def fixed(n: int) -> SampleConfig:  # what bounds are made from
        return dataclasses.replace(recipe.sample, n=n)

    once, each = recipe.calibrate, recipe.sample.n  # draws that are paid once, and those of a Monte Carlo certificate
    own = recipe.targets if recipe.targets != TargetsConfig() else None  # nothing to say of them where nothing is set
    of_targets = dataclasses.replace(recipe.sample, n=recipe.targets.n or each)
    yield sampled("train", "targets", of_targets, "targets", costly=True, targets=own)
    profile = counts / ("profile" if recipe.data.shaping else "train")
    if recipe.data.shaping:
        yield sampled("profile", "profile", fixed(once.profile_draws(each)), "targets", costly=True)
    yield sampled("calibration", "calibration", fixed(once.draws(each)), "targets", costly=True)

    def deployed(name: str, table: str, config: FitConfig, place: Path, curves: tuple[str, ...]) -> Iterator[Step]:
        surrogate, engine, bundles = place / "surrogate", place / "engine", place / "bundles"
        yield Step(
            "fit",
            f"{name}fit",
            surrogate,
            facts(table, classifier=classifier, counts=counts / "train"),
            lambda: stages.fit(splits.targets, config, classifier, counts / "train", surrogate, progress=progress),
        )
        yield Step(
            "export",
            f"{name}export",
            engine,
            facts("export", "plan", surrogate=surrogate),
            lambda: stages.export(splits.train, recipe.export, recipe.plan, surrogate, engine),
        )
        calibrate = dataclasses.replace(once, curves=curves)
        if name:
            calibrate = dataclasses.replace(calibrate, passes=(), cascade=0.0)
        further = {f"calibrate.{key}": value for key in ("passes", "cascade") if (value := getattr(calibrate, key))}
        yield Step(
            "calibrate",
            f"{name}calibrate",
            bundles,
            facts("calibrate", engine=engine, counts=counts / "calibration", profile=profile)
            | {"calibrate.curves": curves}
            | further,
            lambda: stages.calibrate(splits, calibrate, engine, counts / "calibration", profile, bundles),
        )

    curves = recipe.calibrate.curves
    yield from deployed("", "fit", recipe.fit, out, curves)
    rivals: dict[str, Path] = {}
    if recipe.rival:
        curve = stages.DEPLOYED if stages.DEPLOYED in curves else curves[0]
        yield from deployed("rival-", "rival", recipe.rival, out / "rival", (curve,))
        rivals[f"{recipe.rival.loss.upper()} surrogate"] = out / "rival" / "bundles" / curve
    scale: dict[str, object] = {"scale": recipe.scale} if recipe.scale else {}
    for name, n in recipe.evaluate.draws(each, recipe.calibrate.passes).items():
        yield sampled(name, "test", fixed(n), name, costly=False)
    yield Step(
        "evaluate",
        "evaluate",
        evaluation,
        facts("evaluate", bundles=bundles, classifier=classifier, images=splits.test.sha256)
        | {name: tree_sha256(bundle) for name, bundle in rivals.items()}
        | {"sample.n": each}
        | scale,
        lambda: stages.evaluate(
            splits,
            recipe.evaluate,
            recipe.sample,
            recipe.execution,
            bundles,
            classifier,
            counts,
            evaluation,
            rivals=rivals,
            fit_seconds=ledger.seconds("fit", "export", "calibrate"),
            scale=recipe.scale,
            progress=progress,
        ),
    )
