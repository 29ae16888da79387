"""Views against draws: what a surrogate gains from more pictures with fewer draws each, at equal evaluations.

python benchmarks/views.py --source data/fashion_mnist/train.npz --out runs/views

A classifier (a small ResNet) is trained under noise on images of the source, and each row of ``--rows`` fits one
surrogate of it: VIEWSxDRAWS counts so many draws of so many shifted and mirrored views of each target image and trains
all weights, one pass over each view (1xDRAWS: ``--epochs`` passes over the images themselves); head:VIEWSxDRAWS trains
the last layer. Rows of one VIEWS x DRAWS cost the same evaluations. Every surrogate is judged on test images that
trained nothing, by other draws (``--reference`` of each):

excess     cross-entropy above the entropy of the reference frequencies, in nats: 0 for who knows p
agreement  share of images whose class is the smoothed classifier's
probit     mean |Φ⁻¹(q) − Φ⁻¹(p)|: times σ it is an error in radius
radius     average certified radius of the scaled curve, marginal, calibrated at each --gamma with --beta and --n draws
           an image, as a share of what the radii σΦ⁻¹(p) of the reference frequencies themselves would give

Everything is kept under --out: what is there is not made again, an interrupted row goes on where it was, and the same
command prints the table again. results.json holds the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from rrise import stages
from rrise.calibration.conformal import calibrate
from rrise.images import DataConfig, ImageSet, Splits
from rrise.targets.noise import REFERENCE, TARGETS
from rrise.targets.settings import ExecutionConfig, SampleConfig, TargetsConfig
from rrise.targets.store import CountStore
from rrise.training.classifier import TrainConfig
from rrise.training.descent import outputs
from rrise.training.held_out import probit_errors
from rrise.training.networks import load_network
from rrise.training.pixels import image_tensor, unit
from rrise.training.surrogate import FitConfig

ROWS = ["head:1x80", "1x80", "5x16", "20x4", "80x1", "5x4", "10x4", "40x4"]


@dataclass(frozen=True)
class Row:
    """A surrogate: what is trained, how many views of an image, how many draws of each."""

    strategy: str
    views: int
    draws: int

    @classmethod
    def of(cls, text: str) -> Row:
        """Return the row that VIEWSxDRAWS names, or STRATEGY:VIEWSxDRAWS."""
        strategy, _, rest = text.rpartition(":")
        views, draws = (int(part) for part in rest.split("x"))
        return cls(strategy or "full", views, draws)

    def __str__(self) -> str:
        return f"{self.strategy}:{self.views}x{self.draws}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help=".npz of uint8 x and integer y, or another source of images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--images", type=int, default=10_000, help="target images, which train the classifier too")
    parser.add_argument("--others", type=int, default=1_000, help="images each for profile, calibration and test")
    parser.add_argument("--n", type=int, default=1_000, help="draws of a calibration and a profile image")
    parser.add_argument("--reference", type=int, default=5_000, help="draws of a test image")
    parser.add_argument("--beta", type=float, default=0.3)
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.175, 0.035])
    parser.add_argument("--shift", type=int, default=2)
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--train-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the images themselves, of rows with 1 view")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    others = options.others
    splits = stages.load_splits(
        DataConfig(
            options.source,
            train=options.images + others,
            targets=options.images,
            profile=others,
            calibration=others,
            test=others,
            seed=options.seed,
        )
    )
    Bench(options, splits).run()


class Bench:
    """The artifacts of one classifier, and a row of figures for each surrogate."""

    def __init__(self, options: argparse.Namespace, splits: Splits) -> None:
        self.options, self.splits, self.out = options, splits, options.out
        self.classifier = self.out / "classifier"
        self.sample = SampleConfig(n=options.n, seed=options.seed)
        self.execution = ExecutionConfig(threads=options.threads)

    def run(self) -> None:
        """Make what is missing, and print the table."""
        options, path = self.options, self.out / "results.json"
        if not self.classifier.exists():
            config = TrainConfig(
                network="rrise.training.cifar_resnet:SmallResNet",
                options={"channels": [32, 64, 128], "stem_stride": 4},
                epochs=options.train_epochs,
                batch_size=128,
                lr=5e-3,
                weight_decay=0.02,
                shift=options.shift,
                flip=options.flip,
                seed=options.seed,
                threads=options.threads,
            )
            print(stages.train(self.splits.train, config, self.classifier), flush=True)
        self.counts = {
            "profile": self.counted("profile", self.splits.profile, "profile", options.n, TARGETS),
            "calibration": self.counted("calibration", self.splits.calibration, "calibration", options.n, TARGETS),
            "test": self.counted("test", self.splits.test, "test", options.reference, REFERENCE),
        }
        found = json.loads(path.read_text()) if path.exists() else {}
        for text in options.rows:
            row = Row.of(text)
            spent = found.get(str(row), {}).get("seconds") or self.fitted(row)
            found[str(row)] = {"seconds": spent, **self.judged(self.out / "surrogates" / self.name(row))}
            path.write_text(json.dumps(found, indent=1) + "\n")
        share = "".join(f" {f'radius, γ = {gamma:g}':>18}" for gamma in options.gamma)
        print(f"{'row':<12} {'draws':>6} {'excess':>8} {'agreement':>10} {'probit':>7}{share} {'sample, fit':>16}")
        for text in options.rows:
            row, its = Row.of(text), found[str(Row.of(text))]
            radii = "".join(f" {its['radius'][f'{gamma:g}']:>18.3f}" for gamma in options.gamma)
            spent = f"{its['seconds'][0]:.0f} s, {its['seconds'][1]:.0f} s"
            figures = f"{its['excess']:>8.4f} {its['agreement']:>10.1%} {its['probit']:>7.3f}{radii} {spent:>16}"
            print(f"{text:<12} {row.views * row.draws:>6} {figures}")

    def name(self, row: Row) -> str:
        """Return the name of a row's folder."""
        return str(row).replace(":", "-")

    def counted(
        self, name: str, images: ImageSet, split: str, n: int, stream: int, targets: TargetsConfig | None = None
    ) -> NDArray[np.int64]:
        """Return the counts of images, made now if they are not there."""
        sample, place = SampleConfig(n=n, seed=self.options.seed), self.out / "counts" / name
        stages.sample(
            self.splits, split, sample, self.execution, self.classifier, place, stream=stream, targets=targets
        )
        return CountStore.open(place).table().rows(images.ids).counts.astype(np.int64)

    def fitted(self, row: Row) -> tuple[float, float]:
        """Make a row's counts and surrogate if they are not there; return the seconds that each took now."""
        options, name = self.options, self.name(row)
        change = {"shift": options.shift, "flip": options.flip} if row.views > 1 else {}
        targets = TargetsConfig(row.views, row.draws, **change)
        start = time.perf_counter()
        self.counted(f"{row.views}x{row.draws}", self.splits.targets, "targets", options.n, TARGETS, targets)
        sampled = time.perf_counter()
        place, store = self.out / "surrogates" / name, self.out / "counts" / f"{row.views}x{row.draws}"
        if not place.exists():
            epochs = () if row.views > 1 or row.strategy == "head" else (options.epochs,)
            config = FitConfig(row.strategy, epochs=epochs, seed=options.seed, threads=options.threads)
            said = stages.fit(self.splits.targets, config, self.classifier, store, place)
            print(f"{row}: {said}", flush=True)
        return sampled - start, time.perf_counter() - sampled

    def judged(self, place: Path) -> dict[str, object]:
        """Return the figures of a surrogate."""
        module, options = load_network(place).module, self.options
        logits = {
            name: outputs(lambda part: module(unit(part)), image_tensor(images.images, images.input_shape)).double()
            for name, images in (
                ("profile", self.splits.profile),
                ("calibration", self.splits.calibration),
                ("test", self.splits.test),
            )
        }
        test = self.counts["test"]
        p = test / test.sum(1, keepdims=True)
        log_q = torch.log_softmax(logits["test"], 1).numpy()
        label = log_q.argmax(1)
        q = {name: torch.softmax(found, 1).max(1).values.numpy() for name, found in logits.items()}
        k = {name: _agreeing(logits[name], self.counts[name]) for name in logits}
        right = label == self.splits.test.labels
        radius = self.sample.sigma * norm.ppf(np.clip(p.max(1), 0.5, 1 - 0.5 / options.reference))
        whole = float((radius * (p.argmax(1) == self.splits.test.labels)).mean())
        shares = {}
        for gamma in options.gamma:
            curve = calibrate(
                q["calibration"],
                k["calibration"],
                options.n,
                beta=options.beta,
                gamma=gamma,
                guarantee="marginal",
                profile=(q["profile"], k["profile"], np.full(len(q["profile"]), options.n)),
            )
            bound = np.clip(np.interp(q["test"], curve.knots_q, curve.knots_p), 0.5, 1)
            shares[f"{gamma:g}"] = float((self.sample.sigma * norm.ppf(bound) * right).mean()) / whole
        entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=1).mean()
        return {
            "excess": float(-np.sum(p * log_q, axis=1).mean() - entropy),
            "agreement": float(np.mean(label == p.argmax(1))),
            "probit": float(probit_errors(logits["test"], torch.from_numpy(test).double()).mean()),
            "radius": shares,
        }


def _agreeing(logits: torch.Tensor, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.take_along_axis(counts, logits.argmax(1)[:, None].numpy(), 1)[:, 0]


if __name__ == "__main__":
    main()
