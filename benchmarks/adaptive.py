"""Training targets whose draws stop early: how many draws that saves, and what it does to the surrogate.

Usage: python benchmarks/adaptive.py [--seeds 3] [--first-n 100] [--recipe digits]

For each seed of the noise, on the recipe's images and one classifier, the surrogate is fitted to

fixed     n draws of every training image
draws     draws that stop early, every draw weighing the same in the loss (unbiased)
images    the same counts, every image weighing the same (biased)
equal     as many draws as `draws` spent in all, the same number for every image

and is judged on test images, which trained nothing, by `excess`, its cross-entropy to a large reference sample of
other draws less that sample's entropy (nats, the lower the better), and by `radius`, the average certified radius of
the scaled curve calibrated with the same fixed-n counts. Printed: each variant's share of the fixed run's draws, its
excess and radius, as mean over the seeds and as the range of the differences to `fixed`, seed by seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from rrise import stages
from rrise.calibration.conformal import calibrate
from rrise.recipe import Recipe, load_recipe
from rrise.stages.workers import local_network
from rrise.targets.noise import REFERENCE, TARGETS
from rrise.targets.settings import ExecutionConfig, SampleConfig
from rrise.targets.store import CountStore
from rrise.training.networks import Network
from rrise.training.pixels import image_tensor, unit
from rrise.training.surrogate import fit_surrogate

LOCAL = ExecutionConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-n", type=int, default=100)
    parser.add_argument("--recipe", default="digits")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    with tempfile.TemporaryDirectory() as room:
        rows = measure(recipe, Path(room), arguments.seeds, arguments.first_n)
    print(f"{arguments.recipe}: n = {recipe.sample.n}, first_n = {arguments.first_n}")
    print(f"{'variant':<8} {'draws':>6} {'excess':>8} {'difference':>18} {'radius':>7} {'difference':>18}")
    for name, found in rows.items():
        draws, excess, radius = np.array(found).T
        worse, wider = (column - np.array(rows["fixed"])[:, i] for i, column in ((1, excess), (2, radius)))
        left = f"{name:<8} {draws.mean():>6.0%} {excess.mean():>8.4f} {span(worse):>18}"
        print(f"{left} {radius.mean():>7.4f} {span(wider):>18}")


def span(differences: npt.NDArray[np.float64]) -> str:
    return f"{differences.min():+.4f} to {differences.max():+.4f}"


def measure(recipe: Recipe, room: Path, seeds: int, first_n: int) -> dict[str, list[list[float]]]:
    splits = stages.load_splits(recipe.data)
    stages.train(splits.train, recipe.train, room / "classifier")
    network = local_network(room / "classifier")
    # One shape of forward pass for all, so that they differ in the number of draws alone.
    base = dataclasses.replace(recipe.sample, batch_size=min(recipe.sample.batch_size, first_n))

    def counts(split: str, config: SampleConfig, stream: int) -> npt.NDArray[np.int32]:
        out = room / f"{split}-{stream}-{config.n}-{config.first_n}-{config.seed}"
        stages.sample(splits, split, config, LOCAL, room / "classifier", out, stream=stream)
        return CountStore.open(out).table().rows(getattr(splits, split).ids).counts

    reference = counts("test", dataclasses.replace(base, n=recipe.evaluate.n_reference), REFERENCE)
    rows: dict[str, list[list[float]]] = {name: [] for name in ("fixed", "draws", "images", "equal")}
    for seed in range(seeds):
        config = dataclasses.replace(base, seed=seed)
        early = dataclasses.replace(config, first_n=first_n)
        targets = {"fixed": counts("train", config, TARGETS), "draws": counts("train", early, TARGETS)}
        targets["images"] = targets["draws"]
        mean = round(int(targets["draws"].sum()) / len(splits.train))
        targets["equal"] = counts("train", dataclasses.replace(config, n=mean), TARGETS)
        calibration = counts("calibration", config, TARGETS)
        for name, found in targets.items():
            fit = dataclasses.replace(recipe.fit, weights="images" if name == "images" else "draws")
            surrogate = fit_surrogate(network, splits.train.images, found, fit, training_ids=splits.train.ids)
            share = found.sum() / (config.n * len(splits.train))
            rows[name].append([share, *judge(recipe, splits, network, surrogate.module, reference, calibration, found)])
            print(f"seed {seed}, {name}: {share:.0%} of the draws, excess {rows[name][-1][1]:.4f}", flush=True)
    return rows


def judge(recipe, splits, network: Network, module, reference, calibration, targets) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    def probabilities(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            return torch.softmax(module(unit(image_tensor(images, network.spec.input_shape))).double(), 1).numpy()

    def agreeing(q: npt.NDArray[np.float64], counts: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float64], ...]:
        return q.max(1), np.take_along_axis(counts, q.argmax(1)[:, None], 1)[:, 0], counts.sum(1)

    p = reference / reference.sum(1, keepdims=True)
    q = probabilities(splits.test.images)
    excess = stats.entropy(p, np.maximum(q, 1e-300), axis=1).mean()
    options = recipe.calibrate
    seen, k, n = agreeing(probabilities(splits.train.images), targets)
    drawn = int(calibration[0].sum())
    curve = calibrate(
        *agreeing(probabilities(splits.calibration.images), calibration),
        beta=options.beta,
        gamma=options.gamma,
        eta=options.eta,
        curve="scaled",
        guarantee=options.guarantee,
        profile=(seen, np.rint(k * (drawn / n)).astype(np.int64), np.full(len(n), drawn)),
    )
    lower = np.interp(q.max(1), curve.knots_q, curve.knots_p)
    radius = np.where(lower > 0.5, recipe.sample.sigma * stats.norm.ppf(np.clip(lower, 0.5, 1 - 1e-12)), 0.0)
    return float(excess), float((radius * (q.argmax(1) == splits.test.labels)).mean())


if __name__ == "__main__":
    main()
