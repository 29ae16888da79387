"""The paper's tables for one recipe, over several seeds: certifiers, levers on tightness, limits, ablations, claims.

python benchmarks/paper_tables.py --recipe fashion_mnist --scale --seeds 100 200 300

Every seed is one run of the recipe (`rrise run`) with all that is drawn under that seed, and further surrogates of its
classifier. What is finished is kept: a run that was stopped goes on where it was. A seed's numbers are written to
RESULTS/NAME/seed-SEED.json as soon as they are there, and RESULTS/NAME.md is made of all that lie there; --only-tables
makes nothing else.

Monte Carlo with fewer draws, input-specific budgets and adaptive stopping take theirs from the n estimation draws of
each image: which of them, and in which order, is drawn at random, so that in law they are what fewer draws would have
given, and no draw of selection, targets or reference is among them. Calibration images with fewer draws likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from paper import tables
from paper.certifiers import adaptive, input_specific, measured
from paper.claims import claims
from paper.ladder import rows
from paper.seed_run import Say, SeedRun, seed_run

import rrise
from rrise.evaluation.baselines import cohen_select

ALPHAS = (0.25, 0.05, 0.01)
SCHEMA = "rrise-paper-tables/2"
EXPLAINED = """\
Every row of rrise's spends α as γ = α(1 − β), or β + γ = α where it says so, with the β of a rehearsal on images that
calibrate nothing; the guarantee is marginal unless another is named, and Monte Carlo's holds for each input. Shares are
of the average certified radius, in percent; *points behind* are of certified accuracy at radius 0, B1's less the row's.
*Coverage* compares bounds with the plain shares of the reference draws, which err themselves; *refuted* are bounds that
these contradict beyond their own noise. *Break-even*: certificates after which B1 has spent the evaluations of
targets, shape and calibration. The head is the last layer, fitted like *all weights, images themselves* to as many
draws as the views have together. *p known*: no surrogate error, and calibration images without end.""".replace(
    "\n", " "
)


def seed_results(run: SeedRun, say: Say) -> dict[str, Any]:
    """Return every number of one seed."""
    radii = list(run.recipe.evaluate.radii)
    timing = json.loads((run.folder / "evaluation" / "timing.json").read_text())
    first, reference = run.recipe, run.counts["reference"]
    content = {
        "schema": SCHEMA,
        "about": {
            "data": run.splits.summary(),
            "network": f"{first.train.network} {json.dumps(first.train.options)}",
            "noise": f"classifier trained under {first.train.sigma:g}, smoothed at {first.sample.sigma:g}",
            "targets": f"{first.targets.views} views × {first.targets.n or first.sample.n} draws",
            "draws": f"n = {run.n:,} and {run.larger:,}, of a calibration image {run.draws:,}, of the reference "
            f"{int(reference.sum(1).min()):,}",
            "scale": first.scale,
            "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
            "rrise": rrise.__version__,
        },
        "radii": radii,
        "n": run.n,
        "classes": len(run.splits.train.classes),
        "accuracy": 100 * float(np.mean(reference.argmax(1) == run.splits.test.labels)),
        "milliseconds": [timing["single_pass_ms"][1], timing["monte_carlo_ms"][1]],
        "alphas": {f"{alpha:g}": rows(run, alpha, radii, say) for alpha in ALPHAS},
        "baselines": baselines(run, radii),
    }
    return dict(json.loads(json.dumps(content), parse_constant=lambda _: None))  # NaN, of an empty set, is null


def baselines(run: SeedRun, radii: list[float]) -> dict[str, Any]:
    """Return the results of the baselines' settings at the paper's α."""
    alpha, guess = ALPHAS[0], cohen_select(run.counts["selection"])
    found = {
        "B2, 1% of the radius given up": input_specific(run, alpha, 0.01),
        "B2, 5% of the radius given up": input_specific(run, alpha, 0.05),
        "B2, 0.01 of radius given up": input_specific(run, alpha, 0.01, relative=False),
        "B2, 0.05 of radius given up": input_specific(run, alpha, 0.05, relative=False),
        "B3, tolerance 0.01": adaptive(run, alpha, 0.01),
        "B3, tolerance 0.05": adaptive(run, alpha, 0.05),
        "B3 with Clopper-Pearson at the stop (invalid), 0.05": adaptive(run, alpha, 0.05, "clopper-pearson"),
    }
    return {name: measured(run, one, guess, radii, alpha) for name, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fashion_mnist", help="name of a recipe of rrise's, or a TOML file")
    parser.add_argument("--scale", action="store_true", help="the recipe's [scale]: fewer images, draws and epochs")
    parser.add_argument("--variant", default="", help="a variant of the recipe, such as low-noise")
    parser.add_argument("--name", default="", help="what the results are called; default: the recipe and its variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 200, 300])
    parser.add_argument("--out", type=Path, help="folder of the runs; default: runs/paper/NAME")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of numbers and tables")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the recipe to change, as sample.n=500")
    parser.add_argument("--only-tables", action="store_true", help="make the page from the numbers that are there")
    arguments = parser.parse_args()
    name = arguments.name or Path(arguments.recipe).stem + (f"-{arguments.variant}" if arguments.variant else "")
    place, out = arguments.results / name, arguments.out or Path("runs/paper") / name
    if not arguments.only_tables:
        place.mkdir(parents=True, exist_ok=True)
        for seed in arguments.seeds:

            def say(line: object, seed: int = seed) -> None:
                print(f"seed {seed}: {line}", flush=True)

            how = {"scaled": arguments.scale, "variant": arguments.variant}
            run = seed_run(arguments.recipe, arguments.set, seed, out, say=say, **how)
            found = seed_results(run, say) | {"command": command(arguments, name)}
            (place / f"seed-{seed}.json").write_text(json.dumps(found, indent=1) + "\n")
    page = arguments.results / f"{name}.md"
    page.write_text(markdown(place))
    print(page)


def command(arguments: argparse.Namespace, name: str) -> str:
    """Return the command that makes a seed's numbers, without the seed."""
    words = f"python benchmarks/paper_tables.py --recipe {arguments.recipe}" + " --scale" * arguments.scale
    words += f" --variant {arguments.variant}" if arguments.variant else ""
    words += f" --name {name}" if arguments.name else ""
    return words + (f" --set {' '.join(arguments.set)}" if arguments.set else "")


def markdown(place: Path) -> str:
    """Return all tables of a folder of seeds' numbers as one Markdown page."""
    files = {int(path.stem.removeprefix("seed-")): path for path in place.glob("seed-*.json")}
    if not files:
        raise SystemExit(f"results: expected seed-SEED.json in {place}, got none. Run without --only-tables.")
    seeds = sorted(files)
    found = [json.loads(files[seed].read_text()) for seed in seeds]
    if len({json.dumps([each["radii"], each["command"], each["schema"]]) for each in found}) > 1:
        raise SystemExit(f"results: expected seeds of one command in {place}, got several. Remove the others.")
    first = found[0]
    radii, facts = first["radii"], first["about"]
    tables_of = {
        alpha: {table: _merged([each["alphas"][alpha][table] for each in found]) for table in parts}
        for alpha, parts in first["alphas"].items()
    }
    paper = next(iter(tables_of))
    times = (float(np.mean([each["milliseconds"][i] for each in found])) for i in range(2))
    verdicts = claims(
        tables_of[paper]["certifiers"], float(paper), first["n"], first["classes"], (next(times), next(times))
    )
    accuracy = ", ".join(f"{each['accuracy']:.1f}" for each in found)
    lines = [f"- {key}: {value}" for key, value in facts.items() if value]
    lines += [f"- seeds: {seeds}", f"- accuracy of the reference's first class: {accuracy}%"]
    parts = [
        f"# {place.name}: {facts['data']}",
        f"Made by `{first['command']} --seeds {' '.join(map(str, seeds))}`. Mean ± standard deviation over the seeds; "
        "accuracies, abstention and coverage in percent, radii in ℓ2 of pixels in [0, 1].",
        "\n".join(lines),
        "## Claims",
        tables.claims(verdicts),
        "## Certifiers",
        EXPLAINED,
    ]
    for alpha, by_table in tables_of.items():
        parts += [f"### At α = {alpha}", tables.rows(by_table["certifiers"], seeds)]
        parts += ["Certified accuracy (%) by radius:", tables.certified_accuracy(by_table["certifiers"], radii)]
    for alpha, by_table in tables_of.items():
        parts += [f"## Ladder, at α = {alpha}", tables.rows(by_table["ladder"], seeds)]
        parts += ["What limits the last rows:", tables.rows(by_table["limits"], seeds)]
    merged = _merged([each["baselines"] for each in found])
    parts += [f"## Settings of the baselines, at α = {paper}", tables.ablation(merged, radii, "baseline")]
    return "\n\n".join(parts) + "\n"


def _merged(seeds: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return results by row, a list over the seeds each."""
    return {name: [seed[name] for seed in seeds] for name in seeds[0]}


if __name__ == "__main__":
    main()
