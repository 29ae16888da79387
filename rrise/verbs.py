"""What each verb of the command line does with its parsed flags; all that is heavy is imported by the verb itself."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

from rrise import recipe as recipes
from rrise.calibration.conformal import CalibrateConfig
from rrise.evaluation.attack_config import AttackConfig
from rrise.evaluation.engines import EnginesConfig
from rrise.evaluation.settings import EvaluateConfig
from rrise.images import DataConfig
from rrise.options import read_options
from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.engines.tensorrt_build import PlanConfig
from rrise.stages.selftest import SelftestConfig
from rrise.targets.noise import STREAMS
from rrise.targets.settings import DrawsConfig, ExecutionConfig, SampleConfig, TargetsConfig
from rrise.training.classifier import TrainConfig
from rrise.training.export import ExportConfig
from rrise.training.seen import SeenConfig
from rrise.training.surrogate import FitConfig


def _timed(do: Callable[[], str]) -> None:
    """Print what a stage says, and how long it took: `rrise evaluate --fit-seconds` asks for that."""
    started = time.perf_counter()
    print(f"{do()} ({time.perf_counter() - started:.1f} s)")


def run(arguments: argparse.Namespace) -> None:
    """Make all artifacts of a recipe and print its table."""
    recipe = recipes.load_recipe(arguments.recipe, arguments.set, variant=arguments.variant, scaled=arguments.scale)
    report = recipes.run(recipe, redo=arguments.redo)
    print("\n" + (report.parent / "table.md").read_text())
    print(f"report: {report}")


def train(arguments: argparse.Namespace) -> None:
    """Train a base classifier."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    print(stages.train(splits.train, read_options(arguments, TrainConfig), arguments.out))


def sample(arguments: argparse.Namespace) -> None:
    """Sample class counts, or print what that will cost."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    if arguments.n is None:
        usual = SampleConfig().n
        arguments.n = CalibrateConfig().draws(usual) if arguments.split == "calibration" else usual
    config, execution = read_options(arguments, SampleConfig), read_options(arguments, ExecutionConfig)
    split = "targets" if arguments.split == "train" else arguments.split
    settings = (splits, split, config, execution, arguments.classifier, arguments.out)
    stream, targets = STREAMS[arguments.stream], read_options(arguments, TargetsConfig, "targets.")
    if arguments.plan:
        draws = read_options(arguments, DrawsConfig, "draws.")
        print(stages.plan(*settings, stream=stream, draws=draws, targets=targets))
    else:
        print(stages.sample(*settings, stream=stream, targets=targets))


def fit(arguments: argparse.Namespace) -> None:
    """Fit the surrogate."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    config, seen = read_options(arguments, FitConfig), read_options(arguments, SeenConfig)
    places = (arguments.classifier, arguments.counts, arguments.out)
    _timed(lambda: stages.fit(splits.targets, config, *places, seen=seen))


def export(arguments: argparse.Namespace) -> None:
    """Export the surrogate to an engine."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    config, plan = read_options(arguments, ExportConfig), read_options(arguments, PlanConfig, "plan.")
    surrogate, *more = arguments.surrogate
    _timed(lambda: stages.export(splits.train, config, plan, surrogate, arguments.out, *more))


def calibrate(arguments: argparse.Namespace) -> None:
    """Calibrate an engine into bundles."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    config, options = read_options(arguments, CalibrateConfig), read_options(arguments, EngineOptions)
    counts, profiles, out = arguments.counts, arguments.profile, arguments.out
    if len(counts) > 1:
        several = (splits, config, arguments.engine, counts, profiles, out)
        _timed(lambda: stages.calibrate_levels(*several, options=options))
        return
    if len(profiles) > 1:
        raise ValueError(f"profile: expected counts at one sigma, as --counts, got {len(profiles)}. Give as many.")
    profile = profiles[0] if profiles else None
    _timed(lambda: stages.calibrate(splits, config, arguments.engine, counts[0], profile, out, options=options))


def certify(arguments: argparse.Namespace) -> None:
    """Print the certificates of images."""
    from rrise.images import read_images
    from rrise.runtime.bundle import read_files
    from rrise.runtime.certificates import ABSTAIN
    from rrise.runtime.certifier import Certifier, opened_engine
    from rrise.runtime.levels_schema import LevelsBundle
    from rrise.runtime.multi_sigma import MultiSigma

    _, loaded, data = read_files(arguments.bundle, arguments.public_key)
    engine = opened_engine(loaded, data, read_options(arguments, EngineOptions))
    several = isinstance(loaded, LevelsBundle)
    certifier = MultiSigma(loaded, engine) if isinstance(loaded, LevelsBundle) else Certifier(loaded, engine)
    names, images = read_images(arguments.images)
    rows = [{"image": name, **row} for name, row in zip(names, certifier(images).to_rows(), strict=True)]
    if arguments.json:
        sigma = {"sigmas": certifier.sigmas} if isinstance(certifier, MultiSigma) else {"sigma": certifier.sigma}
        print(json.dumps({"statement": certifier.statement, **sigma, "certificates": rows}, indent=1))
        return
    width = max(map(len, ["image", *names]))
    print(f"{'image':<{width}} {'label':>12} {'radius':>8} {'p >=':>8} {'q':>8}" + f" {'sigma':>6}" * several)
    for row in rows:
        label = int(row["label"] or 0)
        answer = "abstain" if label == ABSTAIN else certifier.classes[label]
        numbers = " ".join(f"{math.nan if row[key] is None else row[key]:>8.4f}" for key in ("radius", "p_lower", "q"))
        print(f"{row['image']:<{width}} {answer:>12} {numbers}" + f" {row.get('sigma') or '':>6}" * several)
    print(f"\nradius: ℓ2, pixels in [0, 1]. {certifier.statement}\n{certifier.bundle.limits}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Compare bundles with Monte Carlo smoothing and print the table."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    config, sampling = read_options(arguments, EvaluateConfig), read_options(arguments, SampleConfig, "sample.")
    execution = read_options(arguments, ExecutionConfig, "execution.")
    places = (arguments.bundles, arguments.classifier, arguments.counts, arguments.out)
    seen = read_options(arguments, SeenConfig)
    others = {"rivals": dict(arguments.rival), "fit_seconds": arguments.fit_seconds}
    print(stages.evaluate(splits, config, sampling, execution, *places, **others, seen=seen))
    print("\n" + (arguments.out / "table.md").read_text())


def engines(arguments: argparse.Namespace) -> None:
    """Compare engines and precisions and print the table."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    config, options = read_options(arguments, EnginesConfig), read_options(arguments, EngineOptions)
    said = stages.engines(splits, config, arguments.bundles, arguments.out, options=options)
    print((arguments.out / "engines.md").read_text() + "\n" + said)


def attack(arguments: argparse.Namespace) -> None:
    """Attack a bundle's certificates and print what came of it."""
    from rrise import stages

    splits = stages.load_splits(read_options(arguments, DataConfig, "data."))
    places = (arguments.bundle, arguments.surrogate, arguments.classifier, arguments.out)
    said = stages.attack(splits, read_options(arguments, AttackConfig), *places)
    print((arguments.out / "attack.md").read_text() + "\n" + said)


def inspect(arguments: argparse.Namespace) -> None:
    """Print what an artifact is."""
    from rrise.inspection import describe

    print(describe(arguments.artifact, as_json=arguments.json, public_key=arguments.public_key))


def keygen(arguments: argparse.Namespace) -> None:
    """Make a pair of keys."""
    from rrise.runtime.signing import generate_keys

    private, public = generate_keys(arguments.out)
    print(f"{private}: keep it secret; `rrise sign --key` takes it\n{public}: give it to whoever loads your bundles")


def sign(arguments: argparse.Namespace) -> None:
    """Sign a bundle."""
    from rrise.runtime.signing import sign_bundle

    print(sign_bundle(arguments.bundle, arguments.key, overwrite=arguments.force))


def selftest(arguments: argparse.Namespace) -> None:
    """Try an engine on this machine."""
    from rrise import stages

    config, plan = read_options(arguments, SelftestConfig), read_options(arguments, PlanConfig, "plan.")
    print(stages.selftest(config, plan, read_options(arguments, EngineOptions)))
