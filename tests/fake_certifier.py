"""A certifier without an engine: each image says in its first pixels what becomes of it."""

from types import SimpleNamespace

import numpy as np

from rrise.runtime.calibration_record import CalibrationRecord
from rrise.runtime.certificates import Certificate, Certificates

SHAPE = (1, 4, 4)
CLASSES = ("no", "yes")


class FakeCertifier:
    """Certifies "yes" with p_lower = 0.9; a first pixel of 0 abstains. q is the second pixel / 255."""

    input_shape, classes, sigma = SHAPE, CLASSES, 0.5

    def __init__(self, guarantee: str = "marginal", sha256: str = "a" * 64, gamma: float = 0.04) -> None:
        calibration = CalibrationRecord(guarantee, 0.2, gamma, 0.01, n=1000, images=500, rank=490, t=0.1)
        self.bundle = SimpleNamespace(sha256=sha256, calibration=calibration)

    def __call__(self, images: np.ndarray) -> Certificates:
        batch = images.reshape(-1, 4, 4)
        certified = batch[:, 0, 0] > 0
        return Certificates(
            np.where(certified, 1, -1).astype(np.int64),
            np.where(certified, 0.5, 0.0),
            np.where(certified, 0.9, 0.3),
            batch[:, 0, 1] / 255,
            np.zeros(len(batch), np.int64),
        )

    def certify_one(self, image: np.ndarray) -> Certificate:
        found = self(image)
        return Certificate(int(found.label[0]), float(found.q[0]), float(found.p_lower[0]), float(found.radius[0]))


def stream(count: int, seed: int = 0, abstain: float = 0.0) -> np.ndarray:
    """Images uint8[count, 4, 4] of a fake camera; the third pixel says whether the certificate is wrong."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
    images[:, 0, 0] = rng.random(count) >= abstain
    images[:, 0, 2] = 0
    return images


def evaluate(image: np.ndarray, n: int, name: int) -> np.ndarray:
    """Counts as of a class that has probability 0.5 if the third pixel says so, else 0.99."""
    p = 0.5 if image[0, 2, 0] else 0.99
    k = np.random.default_rng(name).binomial(n, p)
    return np.array([n - k, k])
