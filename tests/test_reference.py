"""An engine is asked at loading what it answered at calibration; one that computes something else is refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from reference_engines import linear_engine, write_bundle

from rrise import BundleError, Certifier
from rrise.runtime import open_engine
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.runtime.reference import IMAGES, TOLERANCE, Reference, reference_images, reference_logits

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.25]], np.float32)
BIAS = np.array([0.25, -0.5, 0], np.float32)
ENGINE = linear_engine(WEIGHTS, BIAS)
MEMBERS = {"runtime": "onnxruntime 1.2.3", "device": "cpu", "tolerance": TOLERANCE}


def recorded(weights: np.ndarray = WEIGHTS) -> list[float]:
    pixels = reference_images((1, 2, 2)).reshape(IMAGES, 4) / 255
    return (pixels @ weights.astype(np.float64) + BIAS).ravel().tolist()


def test_reference_images_never_change() -> None:
    images = reference_images((3, 7, 9))
    assert images.shape == (IMAGES, 7, 9, 3)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "bf755939bda812cb"
    assert all(len(np.unique(image)) > 4 for image in images)


def test_the_same_engine_is_accepted_and_its_answers_are_those_of_the_formula(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", ENGINE, reference=MEMBERS | {"logits": recorded()})
    assert Certifier.load(bundle).bundle.reference.runtime == "onnxruntime 1.2.3"
    found = Reference.of(open_engine_bytes(ENGINE, "onnxruntime"))
    np.testing.assert_allclose(found.logits.ravel(), recorded(), atol=1e-6)


@pytest.mark.parametrize("factor", [1 + 3e-3, 0.99, -1, np.nan])
def test_an_engine_that_answers_otherwise_is_refused(factor: float, tmp_path: Path) -> None:
    other = linear_engine(WEIGHTS * factor if factor == factor else WEIGHTS, BIAS, last=("Log",) * (factor != factor))
    bundle = write_bundle(tmp_path / "b", other, reference=MEMBERS | {"logits": recorded()})
    with pytest.raises(BundleError, match=r"bundle: expected the logits that onnxruntime 1\.2\.3 on cpu gave .* got"):
        Certifier.load(bundle)


def test_differences_of_rounding_are_accepted(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", ENGINE, reference=MEMBERS | {"logits": recorded(WEIGHTS * (1 + 1e-4))})
    assert len(Certifier.load(bundle)(np.zeros((2, 2), np.uint8))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": [1.0]}, "logits to be up to 4 × 3 finite numbers"),
        ({"logits": recorded() * 2}, "logits to be up to 4"),
        ({"logits": [1, 2, 3]}, "logits to be up to 4"),
        ({"tolerance": 0.0}, "tolerance to be a finite number above 0"),
        ({"runtime": 1}, "runtime to be a name"),
    ],
)
def test_answers_that_cannot_be_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", ENGINE, reference=MEMBERS | {"logits": recorded()} | changes)
    with pytest.raises(BundleError, match=f"reference.{message}"):
        Certifier.load(bundle)


def test_many_classes_are_cut_at_64(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    (tmp_path / "wide.onnx").write_bytes(linear_engine(weights, np.zeros(100)))
    engine = open_engine(tmp_path / "wide.onnx")
    assert reference_logits(engine, 2).shape == (2, 64)
    assert len(Reference.of(engine).as_dict()["logits"]) == IMAGES * 64
