"""The command line: one verb a stage, one artifact out of each; ``rrise run`` makes them all from a recipe."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rrise import recipe as recipes
from rrise import verbs
from rrise.calibration.conformal import CalibrateConfig
from rrise.evaluation.attack_config import AttackConfig
from rrise.evaluation.engines import EnginesConfig
from rrise.evaluation.settings import EvaluateConfig
from rrise.images import DataConfig
from rrise.options import add_options
from rrise.recipe_tables import built_in
from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.engines.tensorrt_build import PlanConfig
from rrise.stages.selftest import SelftestConfig
from rrise.targets.noise import STREAMS
from rrise.targets.settings import DrawsConfig, ExecutionConfig, SampleConfig, TargetsConfig
from rrise.training.classifier import TrainConfig
from rrise.training.export import ExportConfig
from rrise.training.seen import SeenConfig
from rrise.training.surrogate import FitConfig

SUMMARY = "Certified robustness in one forward pass. One verb a stage, one artifact out of each; `run` makes them all."
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 1 after a one-line error, 2 after wrong usage, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows has no σ and no ℓ: spell them, rather than fail
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"rrise {arguments.verb}: {message}", file=sys.stderr)
    try:
        arguments.do(arguments)
    except KeyboardInterrupt:
        print("\nrrise: interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if arguments.traceback:
            raise
        print(f"rrise {arguments.verb}: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rrise"):
        missing = error.name.partition(".")[0]
        extra = {"matplotlib": "report", "jinja2": "report", "ray": "cluster"}.get(missing, "train")
        return f"{missing} is missing. pip install 'rrise[{extra}]'"
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    return " ".join(text.split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rrise", description=SUMMARY)
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, do: object, summary: str, example: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(do=do)
        added.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
        return added

    def folder(added: argparse.ArgumentParser, flag: str, text: str) -> None:
        added.add_argument(flag, type=Path, required=True, metavar="FOLDER", help=text)

    def public_key(added: argparse.ArgumentParser) -> None:
        text = "Ed25519 public key (PEM) that must have signed the bundle; checked before anything is parsed"
        added.add_argument("--public-key", type=Path, metavar="FILE", help=text)

    run = verb("run", verbs.run, "run all stages of a recipe; what is done and valid is kept", "rrise run digits")
    run.add_argument("recipe", metavar="RECIPE", help=f"a TOML file, or a built-in name: {', '.join(built_in())}")
    run.add_argument(
        "--scale",
        action="store_true",
        help="apply the recipe's [scale] table: fewer images, draws and epochs, or a smaller network, for a laptop; "
        "the report says what was shrunk, and OUT gets the ending -scaled",
    )
    run.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="apply the recipe's [variants.NAME] table, e.g. low-noise; OUT gets the ending -NAME",
    )
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. sample.n=500; comes last"
    )
    run.add_argument("--redo", default="", choices=recipes.STAGES, help="make this stage and all after it again")

    train = verb(
        "train", verbs.train, "train a base classifier under Gaussian noise", "rrise train --out runs/a/classifier"
    )
    folder(train, "--out", "where the classifier goes")
    add_options(train, TrainConfig)

    sample = verb(
        "sample",
        verbs.sample,
        "count the classes a classifier answers under noise; resumes where it stopped",
        "rrise sample --classifier runs/a/classifier --split train --out runs/a/counts/train",
    )
    written = "folder written by `rrise train`, or an ONNX file"
    sample.add_argument("--classifier", required=True, metavar="URI", help=written)
    sample.add_argument(
        "--split", choices=("train", "profile", "calibration", "test"), default="train", help="images to sample"
    )
    sample.add_argument("--stream", choices=tuple(STREAMS), default="targets", help="what the draws are for")
    sample.add_argument("--out", required=True, metavar="URI", help="folder of the counts, local or s3://, gs://")
    sample.add_argument("--plan", action="store_true", help="measure a few images, print what all will cost, and stop")
    usual = SampleConfig().n
    by_split = f"{usual}; of the calibration split {CalibrateConfig().draws(usual)}, which are paid once"
    add_options(sample, SampleConfig, later={"n": by_split})
    add_options(sample, TargetsConfig, "targets.")
    add_options(sample, DrawsConfig, "draws.")
    add_options(sample, ExecutionConfig, title="execution")

    fit = verb(
        "fit",
        verbs.fit,
        "fit the surrogate of the smoothed class distribution",
        "rrise fit --classifier runs/a/classifier --counts runs/a/counts/train --out runs/a/surrogate",
    )
    folder(fit, "--classifier", written)
    fit.add_argument("--counts", required=True, metavar="URI", help="counts of the train split")
    folder(fit, "--out", "where the surrogate goes")
    add_options(fit, FitConfig)
    add_options(fit, SeenConfig, title="classifier")

    export = verb(
        "export",
        verbs.export,
        "export the surrogate to an engine of one runtime and precision, checked against torch",
        "rrise export --surrogate runs/a/surrogate --out runs/a/engine-int8 --engine openvino --precision int8",
    )
    export.add_argument(
        "--surrogate",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folder written by `rrise fit`; several, each of another sigma: one engine that answers for all",
    )
    folder(export, "--out", "where the engine goes")
    add_options(export, ExportConfig)
    add_options(export, PlanConfig, "plan.")

    calibrate = verb(
        "calibrate",
        verbs.calibrate,
        "calibrate an engine's own outputs into bundles, one for each curve",
        "rrise calibrate --engine runs/a/engine --counts runs/a/counts/calibration --profile runs/a/counts/profile "
        "--out runs/a/bundles",
    )
    folder(calibrate, "--engine", "folder written by `rrise export`")
    calibrate.add_argument(
        "--counts",
        nargs="+",
        required=True,
        metavar="URI",
        help="counts of the calibration split, at each sigma of the engine",
    )
    calibrate.add_argument(
        "--profile",
        nargs="+",
        default=[],
        metavar="URI",
        help="counts of the profile split (of the train split with --data.profile 0), for the scaled curve's shape, at "
        "each sigma",
    )
    folder(calibrate, "--out", "where the bundles go: one folder for each curve")
    add_options(calibrate, CalibrateConfig)
    add_options(calibrate, EngineOptions, title="engine")

    certify = verb(
        "certify",
        verbs.certify,
        "certify images with a bundle: label, lower bound and radius from one forward pass",
        "rrise certify runs/a/bundles/scaled photo.png more/ --json",
    )
    certify.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by `rrise calibrate`")
    certify.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="pictures, .npy, .npz, or folders")
    certify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(certify, EngineOptions, title="engine")
    public_key(certify)

    evaluate = verb(
        "evaluate",
        verbs.evaluate,
        "compare bundles with Monte Carlo smoothing on the test split; writes a table and report.html",
        "rrise evaluate --bundles runs/a/bundles --classifier runs/a/classifier --counts runs/a/counts "
        "--out runs/a/evaluation",
    )
    folder(evaluate, "--bundles", "folder of bundles written by `rrise calibrate`")
    folder(evaluate, "--classifier", written)
    evaluate.add_argument(
        "--counts", required=True, metavar="URI", help="holds selection/, estimation/ and reference/; sampled if absent"
    )
    folder(evaluate, "--out", "where table.md, metrics.json and report.html go")
    evaluate.add_argument(
        "--rival",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=BUNDLE",
        help="a bundle to compare under that name, such as that of another surrogate; may be given several times",
    )
    evaluate.add_argument(
        "--fit-seconds",
        type=float,
        metavar="SECONDS",
        help="what fit, export and calibrate took (they say so): the report then gives the break-even in time too",
    )
    add_options(evaluate, EvaluateConfig)
    add_options(evaluate, SeenConfig, title="classifier")
    add_options(evaluate, SampleConfig, "sample.")
    add_options(evaluate, ExecutionConfig, "execution.")

    engines = verb(
        "engines",
        verbs.engines,
        "compare bundles of several engines and precisions: what each costs in radius and gains in latency",
        "rrise engines runs/a/bundles runs/a/bundles-int8 --out runs/a/engines",
    )
    engines.add_argument(
        "bundles", type=Path, nargs="+", metavar="FOLDER", help="bundles, or folders of them; the first is the measure"
    )
    folder(engines, "--out", "where engines.md and engines.json go")
    add_options(engines, EnginesConfig)
    add_options(engines, EngineOptions, title="engine")

    attack = verb(
        "attack",
        verbs.attack,
        "attack certified test images, on the surrogate and on the smoothed classifier: what no certificate covers",
        "rrise attack --bundle runs/a/bundles/scaled --surrogate runs/a/surrogate --classifier runs/a/classifier "
        "--out runs/a/attack",
    )
    folder(attack, "--bundle", "folder written by `rrise calibrate`")
    folder(attack, "--surrogate", "folder written by `rrise fit`: the one inside the bundle")
    folder(attack, "--classifier", "folder written by `rrise train`: the one that the bundle certifies")
    folder(attack, "--out", "where attack.md and attack.json go")
    add_options(attack, AttackConfig)

    inspect = verb(
        "inspect",
        verbs.inspect,
        "print what an artifact is, what it guarantees, and what it was made from",
        "rrise inspect runs/a/bundles/scaled",
    )
    inspect.add_argument(
        "artifact", type=Path, metavar="FOLDER", help="bundle, engine, classifier, surrogate or counts"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    public_key(inspect)

    keygen = verb("keygen", verbs.keygen, "make a pair of keys to sign bundles with", "rrise keygen --out keys/release")
    keygen.add_argument(
        "--out", type=Path, required=True, metavar="NAME", help="writes NAME.pem, to be kept secret, and NAME.pub.pem"
    )

    sign = verb(
        "sign",
        verbs.sign,
        "sign a bundle that loads: writes its bundle.sig",
        "rrise sign runs/a/bundles/scaled --key k.pem",
    )
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by `rrise calibrate`")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key written by `rrise keygen`")
    sign.add_argument("--force", action="store_true", help="replace a signature that is there")

    selftest = verb(
        "selftest",
        verbs.selftest,
        "try an engine on this machine: build, compare with ONNX Runtime, calibrate, certify, time",
        "rrise selftest --engine tensorrt --precision float16",
    )
    add_options(selftest, SelftestConfig)
    add_options(selftest, EngineOptions, title="engine")
    add_options(selftest, PlanConfig, "plan.")

    for added in (train, sample, fit, export, calibrate, evaluate, engines, attack):
        add_options(added, DataConfig, "data.")
    return parser


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=BUNDLE, got {text!r}")
    return name, Path(path)


def _version() -> str:
    from rrise import __version__

    return f"rrise {__version__}"


if __name__ == "__main__":
    sys.exit(main())
