"""Does an engine work on this machine, from building to certificates? Asked on digits, in about a minute.

A small classifier is trained and sampled, its surrogate exported to ONNX Runtime (the measure) and to the engine in
question; both must answer alike, be calibrated, and certify. Nothing is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rrise.runtime.engines import EngineOptions
    from rrise.runtime.engines.tensorrt_build import PlanConfig

PARITY = {"float32": 1e-4, "float16": 2e-2, "int8": 0.2}
"""Largest difference of a probability between two runtimes of one graph that is taken for rounding."""
SMALL = (
    "data.train=600",
    "data.calibration=500",
    "train.epochs=40",
    "sample.n=200",
    "calibrate.n=200",
    "fit.lr=[0.01]",
    "fit.weight_decay=[0.01]",
    "fit.epochs=[40]",
    "fit.folds=2",
)


@dataclass(frozen=True)
class SelftestConfig:
    """Which engine is tried."""

    engine: str = field(
        default="onnxruntime", metadata={"help": "runtime to try: onnxruntime, openvino, tensorrt or tensorrt-rtx"}
    )
    precision: str = field(default="float32", metadata={"help": "arithmetic: float32, float16 or int8"})

    def __post_init__(self) -> None:
        from rrise.training.export import ExportConfig

        ExportConfig(self.engine, self.precision)  # refuses what is unknown


def selftest(
    config: SelftestConfig, plan: PlanConfig, options: EngineOptions, *, say: Callable[[str], object] = print
) -> str:
    """Build, compare, calibrate and certify with an engine; return the last line, "selftest: ok" and its figures.

    Parameters
    ----------
    config : SelftestConfig
    plan : PlanConfig
        Of a TensorRT plan.
    options : EngineOptions
        Threads and device of the engine in question.
    say : callable
        Gets one line a step.

    Raises
    ------
    ImportError, RuntimeError
        If the runtime is not installed, or finds no driver or GPU; before anything else is done.
    ValueError
        If the engine cannot be built, or answers otherwise than ONNX Runtime does.
    """
    from rrise import stages
    from rrise.evaluation.engines import EnginesConfig
    from rrise.recipe import load_recipe
    from rrise.targets.noise import STREAMS

    say(f"runtime: {_found(config.engine, options.device)}")
    recipe = load_recipe("digits", [*SMALL, "out=unused"])
    splits = stages.load_splits(recipe.data)
    with tempfile.TemporaryDirectory(prefix="rrise-selftest-") as name:
        folder = Path(name)
        say(f"classifier: {_brief(stages.train(splits.train, recipe.train, folder / 'classifier', progress=False))}")
        for split in ("train", "calibration"):
            stages.sample(
                splits,
                split,
                recipe.sample,
                recipe.execution,
                folder / "classifier",
                folder / split,
                stream=STREAMS["targets"],
                progress=False,
            )
        stages.fit(
            splits.train, recipe.fit, folder / "classifier", folder / "train", folder / "surrogate", progress=False
        )
        tried = {"measure": replace(recipe.export, engine="onnxruntime", precision="float32")}
        tried["tried"] = replace(recipe.export, engine=config.engine, precision=config.precision)
        for role, export in tried.items():
            said = stages.export(splits.train, export, plan, folder / "surrogate", folder / role)
            say(f"engine: {_brief(said)}")
        say(f"parity: {_parity(folder, config, options, splits.test.images)}")
        for role in tried:
            stages.calibrate(
                splits,
                replace(recipe.calibrate, curves=("scaled",)),
                folder / role,
                folder / "calibration",
                folder / "train",
                folder / f"{role}-bundle",
                options=options if role == "tried" else None,
            )
        say("calibrated and opened: both bundles")
        stages.engines(
            splits,
            EnginesConfig(),
            [folder / "measure-bundle", folder / "tried-bundle"],
            folder / "table",
            options=options,
        )
        say((folder / "table" / "engines.md").read_text(encoding="utf-8"))
    return f"selftest: ok, {config.engine} in {config.precision} builds, agrees, is calibrated and certifies here"


def _parity(folder: Path, config: SelftestConfig, options: EngineOptions, images: np.ndarray) -> str:
    """Return how far the engine is from ONNX Runtime on the same graph (float32's, for a plan in lower precision)."""
    from rrise import _C
    from rrise.runtime.certifier import engine_logits
    from rrise.runtime.engines import open_engine
    from rrise.runtime.engines.opening import open_engine_bytes

    engine = open_engine(folder / "tried", options=options)
    graph = folder / "tried" / "engine.onnx"
    measure = (
        open_engine_bytes(graph.read_bytes(), "onnxruntime") if graph.exists() else open_engine(folder / "measure")
    )
    found, expected = (engine_logits(e, images, 1) for e in (engine, measure))
    together = engine_logits(engine, images, 64)
    (labels, q), (known, p), (batched, _) = (_C.top(logits) for logits in (found, expected, together))
    error, same = float(np.abs(q - p)[labels == known].max(initial=0.0)), float((labels == known).mean())
    if not (error <= PARITY[config.precision] and same >= 0.97 and (labels == batched).mean() >= 0.99):
        raise ValueError(
            f"engine: expected probabilities within {PARITY[config.precision]:g} of ONNX Runtime's and its labels, got "
            f"a difference of {error:.3g}, the same label for {same:.1%}, one by one and in batches for "
            f"{(labels == batched).mean():.1%}. Do not deploy {config.engine} in {config.precision} on this machine."
        )
    return f"top probability within {error:.1e} of {measure.kind} {measure.version}, the same label for {same:.1%}"


def _found(kind: str, device: str) -> str:
    """Return the runtime's name and version; a driver is asked for before any object of TensorRT is made."""
    from rrise.stages.export import PLANS

    if kind in PLANS:
        from rrise.runtime.engines.cuda import find_gpu
        from rrise.runtime.engines.tensorrt_module import load

        gpu = find_gpu(device)
        return f"{kind} {load(kind).version} on {gpu.name}"
    import importlib

    from rrise.runtime.engines.opening import EXTRAS

    try:
        return f"{kind} {importlib.import_module(kind).__version__}"
    except ModuleNotFoundError:
        raise ImportError(
            f"engine: expected the module {kind}, got none. Run pip install 'rrise[{EXTRAS[kind]}]'."
        ) from None


def _brief(said: str) -> str:
    return said.rpartition(", in ")[0]
