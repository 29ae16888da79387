"""The whole road on a classifier whose certified radius is known: the distance to a hyperplane.

f(x) = 1[w·x + b > 0] is its own smoothed classifier, p_A = Φ(|w·x + b| / (σ‖w‖)), and its true radius is
|w·x + b| / ‖w‖. Counts, bounds, curve, bundle and Certifier are run as for any network and compared with that truth.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_engines import engine_spec, linear_engine
from scipy.stats import binom, norm

from rrise import _C
from rrise.calibration.bounds import clopper_pearson
from rrise.calibration.conformal import calibrate
from rrise.evaluation.baselines import cohen_certify
from rrise.images import image_ids
from rrise.runtime.bundle_writing import save_bundle
from rrise.runtime.certifier import Certifier
from rrise.targets.noise import ESTIMATION, SELECTION
from rrise.targets.sampling import sample_counts

SIGMA, DRAWS, BETA, GAMMA = 0.25, 400, 0.01, 0.09
RNG = np.random.default_rng(5)
W = RNG.standard_normal(16).astype(np.float32)
B = np.float32(-W.sum() * 0.5)
IMAGES = RNG.integers(0, 256, (900, 4, 4), dtype=np.uint8)
SIGNED = (IMAGES.reshape(len(IMAGES), -1) / 255.0) @ W.astype(float) + float(B)
DISTANCE = np.abs(SIGNED) / np.linalg.norm(W)
TRUTH = norm.cdf(DISTANCE / SIGMA)
LABEL = (SIGNED > 0).astype(int)


def linear(batch: torch.Tensor) -> torch.Tensor:
    score = batch.flatten(1) @ torch.from_numpy(W) + float(B)
    return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return sample_counts(linear, IMAGES, image_ids(IMAGES), sigma=SIGMA, n=DRAWS, seed=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A surrogate that is right on average and off by up to a tenth in its logit: 1.7 z is nearly the logit of Φ(z)."""
    scale = 1.7 / (SIGMA * np.linalg.norm(W))
    slope = (scale * W * RNG.uniform(0.9, 1.1, 16)).astype(np.float32)
    path = tmp_path_factory.mktemp("engine") / "engine.onnx"
    path.write_bytes(linear_engine(np.stack([0 * slope, slope], 1), [0, -slope.sum() * 0.5], (1, 4, 4)))
    return path


def test_counts_follow_the_normal_law(counts: np.ndarray) -> None:
    """Rounding noise to the grid moves p by less than 1e-3 here; each count is tested at 1e-9 beyond that."""
    k = counts[np.arange(len(IMAGES)), LABEL]
    assert (binom.cdf(k, DRAWS, np.maximum(TRUTH - 1e-3, 0)) > 1e-9).all()
    assert (binom.sf(k - 1, DRAWS, np.minimum(TRUTH + 1e-3, 1)) > 1e-9).all()
    assert counts.sum(1).tolist() == [DRAWS] * len(IMAGES)


def test_bounds_hold_as_often_as_promised(counts: np.ndarray) -> None:
    lower = clopper_pearson(counts[np.arange(len(IMAGES)), LABEL].astype(np.int64), DRAWS, BETA)
    wrong = int((lower > TRUTH).sum())
    assert wrong <= binom.isf(1e-6, len(IMAGES), BETA)
    assert (_C.radius(lower, SIGMA) > DISTANCE).sum() == wrong  # the radius exceeds the distance just where p̲ exceeds p


def test_monte_carlo_radii_stay_below_the_distance() -> None:
    few = slice(0, 300)
    selection, estimation = (
        sample_counts(linear, IMAGES[few], image_ids(IMAGES[few]), sigma=SIGMA, n=n, seed=3, stream=stream)
        for n, stream in ((50, SELECTION), (DRAWS, ESTIMATION))
    )
    found = cohen_certify(selection.astype(np.int64), estimation.astype(np.int64), alpha=0.01, sigma=SIGMA)
    issued = ~found.abstained
    assert issued.mean() > 0.5
    wrong = (found.label != LABEL[few]) | (found.radius > DISTANCE[few])
    assert (wrong & issued).sum() <= binom.isf(1e-6, 300, 0.01)


@pytest.mark.parametrize("curve", ["offset", "scaled"])
def test_certificates_of_a_bundle_keep_their_promise(
    curve: str, counts: np.ndarray, engine: Path, tmp_path: Path
) -> None:
    from rrise.runtime.engines import open_engine

    profile, calibration, test = slice(0, 300), slice(300, 600), slice(600, 900)
    label, q = _C.top(open_engine(engine)((IMAGES / np.float32(255)).astype(np.float32)[:, None]))
    k = counts[np.arange(len(IMAGES)), label].astype(np.int64)
    found = calibrate(
        q[calibration],
        k[calibration],
        DRAWS,
        beta=BETA,
        gamma=GAMMA,
        curve=curve,
        profile=(q[profile], k[profile], DRAWS),
    )
    save_bundle(
        tmp_path / "bundle",
        engine_file=engine,
        engine_spec=engine_spec(engine.read_bytes(), input_shape=[1, 4, 4], num_classes=2, classes=["below", "above"]),
        calibration=found.as_dict(),
        sigma=SIGMA,
        statement=found.statement(),
        provenance={},
    )
    certificates = Certifier.load(tmp_path / "bundle")(IMAGES[test])
    issued = ~certificates.abstained
    assert issued.mean() > 0.4
    assert certificates.radius[issued].mean() > 0.3 * DISTANCE[test][issued].clip(max=SIGMA * 2.4).mean()
    wrong = (certificates.label != LABEL[test]) | (certificates.radius > DISTANCE[test])
    # A training-conditional promise: with confidence 0.99 at most 10% of new inputs.
    assert (wrong & issued).sum() <= binom.isf(1e-6, 300, BETA + GAMMA)
