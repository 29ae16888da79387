"""The paper's tables for one recipe: certified accuracy, boundary, break-even, ablations, over several seeds.

python benchmarks/paper_tables.py --recipe fashion_mnist --scale --seeds 100 200 300 --out runs/paper/fashion_mnist

Every seed is one run of the recipe (`rrise run`) with all that is drawn under that seed, and further surrogates fitted
to the same counts. What is finished is kept: a run that was stopped goes on where it was. Writes tables.md and
tables.json into --out.

Monte Carlo with fewer draws, input-specific budgets and adaptive stopping take theirs from the n estimation draws of
each image: which of them, and in which order, is drawn at random, so that in law they are what fewer draws would have
given, and no draw of selection, targets or reference is among them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from paper import tables
from paper.certifiers import adaptive, fixed_budget, input_specific, measured, surrogate_certifier
from paper.claims import claims
from paper.seed_run import SeedRun, fit_config, seed_run
from paper.shares import EXPLAINED, shares

import rrise
from rrise.evaluation.baselines import cohen_select
from rrise.evaluation.costs import break_evens

BETA, GAMMAS = 0.001, (0.249, 0.10, 0.05, 0.01)
OURS, SCALED, JS = "rrise, offset (paper)", "rrise, scaled", "B4 JS surrogate, offset"
FIXED, SPECIFIC, ADAPTIVE = "B1 fixed budget", "B2 input-specific budget", "B3 adaptive stopping"
ALPHAS = (0.25, 0.05, 0.01)
BUDGETS = (100, 1_000, 10_000)
Say = Callable[[str], object]


def level(run: SeedRun, gamma: float, radii: list[float], say: Say) -> dict[str, Any]:
    """Return what every certifier of the first tables gives at beta + gamma."""
    alpha = BETA + gamma
    head, js = (run.surrogate(name, fit_config(run.recipe, *how), run.n, say) for name, how in MAIN.items())
    settings = {"beta": BETA, "gamma": gamma}
    certificates = {
        OURS: surrogate_certifier(run, head, curve="offset", **settings),
        SCALED: surrogate_certifier(run, head, curve="scaled", **settings),
        JS: surrogate_certifier(run, js, curve="offset", **settings),
    }
    guess = cohen_select(run.counts["selection"])
    certificates |= {
        FIXED: (fixed_budget(run, alpha, run.n), guess),
        SPECIFIC: (input_specific(run, alpha, 0.01), guess),
        ADAPTIVE: (adaptive(run, alpha, 0.01), guess),
    }
    return {name: measured(run, *pair, radii, alpha) for name, pair in certificates.items()}


MAIN = {"head-ce": ("head", "ce"), "scratch-js": ("scratch", "js")}


def costs(run: SeedRun, results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return for each certifier what one certificate costs and when the offline work is paid back by rrise's.

    Measured are a single pass, a fixed-budget certificate (both on one thread) and the fit; the other times are taken
    to grow with the evaluations.
    """
    single, monte_carlo = run.latency_ms
    draws = run.counts["selection"].sum(1).mean() + run.n
    stores = ("train", "profile", "calibration") if run.recipe.data.shaping else ("train", "calibration")
    offline = int(sum(run.thinned(name, run.n).sum() for name in stores))
    seconds = offline * monte_carlo / draws / 1000 + run.seconds_to_fit("head-ce")
    evaluations = {name: result["evaluations"] for name, result in results.items()}
    milliseconds = {name: each * monte_carlo / draws if each else single for name, each in evaluations.items()}
    paid_back = break_evens(
        {name: each for name, each in evaluations.items() if each},
        offline=offline,
        seconds_each={name: each / 1000 for name, each in milliseconds.items()},
        offline_seconds=seconds,
        single_pass_seconds=single / 1000,
    )
    against = {entry.name: entry for entry in paid_back}
    return {
        name: {
            "evaluations": evaluations[name],
            "milliseconds": milliseconds[name],
            "queries by evaluations": against[name].evaluations if name in against else None,
            "queries by seconds": against[name].seconds if name in against else None,
            "offline evaluations": offline,
            "offline seconds of one core": seconds,
        }
        for name in evaluations
    }


def ablations(run: SeedRun, radii: list[float], say: Say) -> dict[str, dict[str, Any]]:
    """Return results by table and row, everything at the paper's level but what the table varies."""
    gamma, alpha = GAMMAS[0], BETA + GAMMAS[0]
    guess = cohen_select(run.counts["selection"])
    found: dict[str, dict[str, Any]] = {"draws": {}, "training": {}, "baselines": {}, "guarantee": {}}

    def of(answers: Any, **settings: Any) -> Any:
        pair = surrogate_certifier(run, answers, beta=BETA, gamma=gamma, **{"curve": "offset", **settings})
        return measured(run, *pair, radii, alpha)

    for n in (n for n in BUDGETS if n <= run.n):
        answers = run.surrogate(
            f"head-ce-{n}" if n < run.n else "head-ce", fit_config(run.recipe, "head", "ce"), n, say
        )
        found["draws"][f"rrise, offset, n = {n:,}"] = of(answers)
        found["draws"][f"B1, n = {n:,}"] = measured(run, fixed_budget(run, alpha, n), guess, radii, alpha)
    for strategy in ("head", "full", "scratch"):
        for loss in ("ce", "js"):
            answers = run.surrogate(f"{strategy}-{loss}", fit_config(run.recipe, strategy, loss), run.n, say)
            found["training"][f"{strategy}, {loss}"] = of(answers)
    head = run.surrogate("head-ce", fit_config(run.recipe, "head", "ce"), run.n, say)
    for guarantee in ("marginal", "training-conditional"):
        for curve in ("offset", "scaled"):
            found["guarantee"][f"{guarantee}, {curve}"] = of(head, curve=curve, guarantee=guarantee)
    baselines = {
        "B2, 1% of the radius given up": input_specific(run, alpha, 0.01),
        "B2, 5% of the radius given up": input_specific(run, alpha, 0.05),
        "B2, 0.01 of radius given up": input_specific(run, alpha, 0.01, relative=False),
        "B2, 0.05 of radius given up": input_specific(run, alpha, 0.05, relative=False),
        "B3, tolerance 0.01": adaptive(run, alpha, 0.01),
        "B3, tolerance 0.05": adaptive(run, alpha, 0.05),
        "B3 with Clopper-Pearson at the stop (invalid), 0.05": adaptive(run, alpha, 0.05, "clopper-pearson"),
    }
    found["baselines"] = {name: measured(run, one, guess, radii, alpha) for name, one in baselines.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fashion_mnist", help="name of a recipe of rrise's, or a TOML file")
    parser.add_argument("--scale", action="store_true", help="the recipe's [scale]: fewer images, draws and epochs")
    parser.add_argument("--variant", default="", help="a variant of the recipe, such as low-noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 200, 300])
    parser.add_argument("--out", type=Path, help="folder of runs and tables; default: runs/paper/RECIPE")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the recipe to change, as sample.n=500")
    parser.add_argument("--no-ablations", action="store_true", help="only certified accuracy, boundary and break-even")
    arguments = parser.parse_args()
    name = Path(arguments.recipe).stem + (f"-{arguments.variant}" if arguments.variant else "")
    out, how = arguments.out or Path("runs/paper") / name, {"scaled": arguments.scale, "variant": arguments.variant}
    runs = [seed_run(arguments.recipe, arguments.set, seed, out, say=print, **how) for seed in arguments.seeds]
    radii = list(runs[0].recipe.evaluate.radii)
    by_seed = [{f"alpha={BETA + gamma:g}": level(run, gamma, radii, print) for gamma in GAMMAS} for run in runs]
    levels = over(by_seed)
    paid = merged([costs(run, next(iter(found.values()))) for run, found in zip(runs, by_seed, strict=True)])
    kept = over([shares(run, ALPHAS, radii, print) for run in runs])
    varied = {} if arguments.no_ablations else over([ablations(run, radii, print) for run in runs])
    verdicts = claims(
        levels, paid, runs[0].n, len(runs[0].splits.train.classes), {"ours": OURS, "fixed": FIXED, "js": JS}
    )
    facts = about(runs, arguments)
    content = {
        "schema": "rrise-paper-tables/1",
        "about": facts,
        "radii": radii,
        "levels": levels,
        "costs": paid,
        "shares": kept,
        "ablations": varied,
        "claims": verdicts,
    }
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)  # NaN, of an empty set, is null
    (out / "tables.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "tables.md").write_text(markdown(content))
    print(f"{out}/tables.md, {out}/tables.json")


def merged(seeds: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return results by certifier, a list over the seeds each, from a list of results by certifier."""
    return {name: [seed[name] for seed in seeds] for name in seeds[0]}


def over(seeds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, list[Any]]]:
    """Return the same of results by table and certifier."""
    return {table: merged([seed[table] for seed in seeds]) for table in seeds[0]}


def about(runs: list[SeedRun], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was run, on what, by which command."""
    first = runs[0]
    command = f"python benchmarks/paper_tables.py --recipe {arguments.recipe}" + " --scale" * arguments.scale
    command += f" --variant {arguments.variant}" if arguments.variant else ""
    command += f" --seeds {' '.join(map(str, arguments.seeds))}"
    command += " --no-ablations" * arguments.no_ablations
    command += f" --set {' '.join(arguments.set)}" if arguments.set else ""
    return {
        "command": command,
        "data": first.splits.summary(),
        "network": f"{first.recipe.train.network} {json.dumps(first.recipe.train.options)}",
        "noise": f"classifier trained under {first.recipe.train.sigma:g}, smoothed at {first.recipe.sample.sigma:g}",
        "n": first.n,
        "reference draws": int(first.counts["reference"].sum(1).min()),
        "scale": first.recipe.scale,
        "seeds": arguments.seeds,
        "accuracy of the reference's first class": [
            round(100 * float(np.mean(run.counts["reference"].argmax(1) == run.splits.test.labels)), 2) for run in runs
        ],
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "rrise": rrise.__version__,
    }


def markdown(content: dict[str, Any]) -> str:
    """Return all tables as one Markdown page."""
    facts, radii = content["about"], content["radii"]
    lines = [f"- {key}: {value}" for key, value in facts.items() if key != "command" and value]
    parts = [
        f"# {facts['data']}",
        f"Made by `{facts['command']}`. Mean ± standard deviation over the seeds; accuracies, abstention and coverage "
        "in percent, radii in ℓ2 of pixels in [0, 1].",
        "\n".join(lines),
        "## Claims",
        tables.claims(content["claims"]),
    ]
    for name, results in content["levels"].items():
        parts += [f"## Certified accuracy, {name}", tables.certified_accuracy(results, radii)]
        parts += [f"### Boundary and coverage, {name}", tables.boundary(results, radii)]
    offline = next(iter(content["costs"].values()))[0]
    parts += [
        "## Break-even",
        f"Offline: {offline['offline evaluations']:,} noisy evaluations; with the fit "
        f"{offline['offline seconds of one core']:,.0f} seconds of one core (seed {facts['seeds'][0]}).",
        tables.break_even(content["costs"]),
    ]
    parts += ["## Share of Monte Carlo's radius", EXPLAINED]
    for alpha, results in content["shares"].items():
        parts += [f"### At alpha = {alpha}", tables.shares(results, facts["seeds"])]
    titles = {
        "draws": ("noisy draws", "## Ablation: draws of targets, calibration and Monte Carlo"),
        "training": ("strategy, loss", "## Ablation: trained part and loss (offset curve)"),
        "guarantee": ("guarantee, curve", "## Ablation: guarantee and curve"),
        "baselines": ("baseline", "## Ablation: settings of the baselines"),
    }
    for name, results in content["ablations"].items():
        what, title = titles[name]
        parts += [title, tables.ablation(results, radii, what)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
