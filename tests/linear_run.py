"""The artifacts of a run around linear networks, made by hand in milliseconds: for what the stages refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reference_engines import linear_engine, write_engine

from rrise import stages
from rrise.calibration.conformal import CalibrateConfig
from rrise.images import ImageSet, Splits
from rrise.targets.noise import TARGETS
from rrise.targets.settings import ExecutionConfig, SampleConfig

WEIGHTS = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [2, -2, 1]], np.float32)
CLASSES = ("zero", "één", "two")
SIGMA, LOW = 0.25, 0.1
LOCAL = ExecutionConfig(threads=1)
SAMPLE = SampleConfig(sigma=SIGMA, n=100)
CALIBRATE = CalibrateConfig(beta=0.01, gamma=0.2)


def images(seed: int, count: int) -> ImageSet:
    """Distinct images uint8[count, 2, 2]."""
    rng = np.random.default_rng(seed)
    return ImageSet.from_arrays(rng.integers(0, 256, (count, 2, 2), np.uint8), rng.integers(0, 3, count), CLASSES)


@dataclass(frozen=True)
class LinearRun:
    """Images, a classifier that is an ONNX file, an engine of a slightly other network, and whatever is sampled.

    Parameters
    ----------
    folder : Path
    splits : Splits
        60 training, 60 calibration and 8 test images of 2 x 2 pixels and 3 classes.
    """

    folder: Path
    splits: Splits

    @classmethod
    def make(cls, folder: Path) -> LinearRun:
        """Write the classifier, an engine of one sigma, one of two, and the counts of one sigma."""
        run = cls(folder, Splits(images(1, 60), images(2, 60), images(3, 8), 0))
        run.classifier.write_bytes(linear_engine(WEIGHTS, np.zeros(3)))
        shifted = WEIGHTS + np.float32(0.2)
        run.write_engine("engine", shifted, sigma=SIGMA)
        both = np.concatenate([1.2 * shifted, shifted], axis=1)
        run.write_engine("engine-both", both, sigmas=[LOW, SIGMA], surrogates=["a", "b"])
        run.sample("train")
        run.sample("calibration")
        return run

    @property
    def classifier(self) -> Path:
        return self.folder / "classifier.onnx"

    @property
    def counts(self) -> Path:
        return self.folder / "counts"

    def write_engine(self, name: str, weights: np.ndarray, **facts: Any) -> Path:
        facts |= {"classifier_sha256": hashlib.sha256(self.classifier.read_bytes()).hexdigest()}
        facts |= {"network_sha256": "1" * 64, "counts_sha256": "2" * 64}
        engine = linear_engine(weights, np.zeros(weights.shape[1]))
        folder = write_engine(self.folder / name, engine, onnx_sha256=hashlib.sha256(engine).hexdigest(), **facts)
        np.save(folder / "training_ids.npy", self.splits.train.ids)
        return folder

    def sample(self, split: str, name: str = "", classifier: Path | None = None, **changes: Any) -> Path:
        """Sample a split into a folder under counts, named as the split unless told otherwise."""
        out = self.counts / (name or split)
        config = SampleConfig(**{**vars(SAMPLE), **changes})
        stages.sample(
            self.splits, split, config, LOCAL, classifier or self.classifier, out, stream=TARGETS, progress=False
        )
        return out

    def calibrate(
        self, name: str, splits: Splits | None = None, config: CalibrateConfig = CALIBRATE, **places: Path
    ) -> Path:
        """Calibrate the engine on counts; the folder of bundles."""
        parts = {"counts": self.counts / "calibration", "profile": self.counts / "train"} | places
        stages.calibrate(splits or self.splits, config, self.folder / "engine", out=self.folder / name, **parts)
        return self.folder / name

    def calibrate_levels(
        self, name: str, counts: Sequence[Path], profiles: Sequence[Path], splits: Splits | None = None
    ) -> Path:
        """Calibrate the engine of two sigma on counts at each; the folder of bundles."""
        engine = self.folder / "engine-both"
        stages.calibrate_levels(splits or self.splits, CALIBRATE, engine, counts, profiles, self.folder / name)
        return self.folder / name
