"""More passes in a real process: which images are taken, and an engine that outlives a fork."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_processes import Run
from reference_engines import linear_engine, write_bundle

from rrise import Certifier, MultiPass
from rrise.runtime import BundleError, load_bundle
from rrise.stages.service import noisy_source

WEIGHTS = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [2, -2, 1]], np.float32)
FRAMES = np.random.default_rng(0).integers(0, 256, (16, 2, 2), dtype=np.uint8)
PLANES = FRAMES[:, None].astype(np.float32) / np.float32(255)
M = 8


def saved(folder: Path, sampler: str = "grid") -> tuple[Path, Path]:
    """A bundle for m = 8 passes and its base classifier, an ONNX file; written without rrise."""
    engine = linear_engine(WEIGHTS, np.zeros(3, np.float32))
    classifier = folder / "classifier.onnx"
    facts = {"classifier_sha256": hashlib.sha256(engine).hexdigest(), "sampler": sampler}
    bundle = write_bundle(folder / "bundle", engine, extra_passes={"m": M, "kappa": 5.0}, provenance=facts)
    classifier.write_bytes(engine)
    return bundle, classifier


# --- Images ----------------------------------------------------------------------------------------------------------


def test_every_form_of_an_8_bit_image_gives_the_same_certificates(tmp_path: Path) -> None:
    """The forms that `Certifier` takes; one image alone draws what it draws in a batch."""
    certifier = MultiPass.load(*saved(tmp_path), seed=3)
    expected = certifier(FRAMES).to_rows()
    assert certifier(FRAMES[..., None]).to_rows() == expected
    assert [certifier(frame).to_rows()[0] for frame in FRAMES] == expected
    assert [certifier(frame[..., None]).to_rows()[0] for frame in FRAMES] == expected
    assert {row["evaluations"] for row in expected} == {M}
    assert len({row["q"] for row in expected}) > 8
    with pytest.raises(ValueError, match=r"images: expected uint8 images of shape .* got shape \(2, 3\)"):
        certifier(np.zeros((2, 3), np.uint8))


def test_floats_are_refused_where_the_noise_is_exact_for_8_bit_pixels_only(tmp_path: Path) -> None:
    certifier = MultiPass.load(*saved(tmp_path), seed=3)
    with pytest.raises(
        TypeError,
        match=r"^images: expected uint8 for the sampler 'grid' of this bundle, whose noise is exact for 8-bit pixels, "
        r"got float32\. Give the 8-bit pixels themselves, channels last, or use a bundle of counts of rrise sample ",
    ):
        certifier(PLANES)
    with pytest.raises(TypeError, match=r"images: expected uint8, or float32 in \[0,1\], got float64"):
        certifier(PLANES.astype(np.float64))


def test_floats_are_taken_where_the_noise_is_float_too(tmp_path: Path) -> None:
    certifier = MultiPass.load(*saved(tmp_path, "gaussian"), seed=3)
    found, again = certifier(PLANES), certifier(PLANES[::-1])
    assert found.label.tolist() == again.label[::-1].tolist()
    assert found.q.tobytes() == again.q[::-1].tobytes()  # an image's noise is its own, whatever stands beside it
    assert found.q.tolist() != certifier(PLANES * np.float32(1 - 2**-20)).q.tolist()  # and another image's another
    counts = np.bincount(found.label[found.label >= 0], minlength=3)
    assert counts.max() < len(FRAMES)
    for wrong in (PLANES - np.float32(0.5), PLANES * np.float32(2)):
        with pytest.raises(ValueError, match=r"images: expected pixels in \[0,1\], got min"):
            certifier(wrong)


# --- What does not belong together -----------------------------------------------------------------------------------


def test_one_pass_is_refused_a_curve_of_more_and_more_passes_one_of_q(tmp_path: Path) -> None:
    bundle, classifier = saved(tmp_path)
    with pytest.raises(BundleError, match=r"curve of the surrogate's q alone, got one of q and m = 8 noisy passes"):
        Certifier.load(bundle)
    facts = {"classifier_sha256": hashlib.sha256(classifier.read_bytes()).hexdigest(), "sampler": "grid"}
    plain = write_bundle(tmp_path / "plain", classifier.read_bytes(), provenance=facts)
    assert Certifier.load(plain).sigma == 0.5
    with pytest.raises(BundleError, match="expected a curve of q and noisy passes, got one of q alone"):
        MultiPass.load(plain, classifier)


def test_another_number_of_draws_and_other_noise_than_calibrated_are_refused(tmp_path: Path) -> None:
    bundle, classifier = saved(tmp_path)
    certifier = MultiPass.load(bundle, classifier, seed=3)
    certifier.from_counts(FRAMES[:1], np.array([[M, 0, 0]]))
    for counts in ([M + 1, 0, 0], [M - 1, 0, 0], [0, 0, 0]):
        with pytest.raises(ValueError, match="expected m = 8 draws of every image, as calibrated"):
            certifier.from_counts(FRAMES[:1], np.array([counts]))
    source = noisy_source(load_bundle(bundle), classifier, seed=3)
    with pytest.raises(BundleError, match="expected sampler 'grid' as at calibration, got 'gaussian'"):
        MultiPass(certifier.bundle, certifier.engine, replace(source, sampler="gaussian"))


def test_another_classifier_than_calibrated_is_refused(tmp_path: Path) -> None:
    bundle, classifier = saved(tmp_path)
    classifier.write_bytes(linear_engine(WEIGHTS, np.full(3, 1e-3)))
    with pytest.raises(ValueError, match=r"^classifier: expected the one that the bundle was made from, sha256"):
        MultiPass.load(bundle, classifier)


# --- After a fork ----------------------------------------------------------------------------------------------------

FORK = """
import json, os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process with threads: that is what is tried here
import numpy as np
from rrise import MultiPass
from rrise.runtime.engines.protocol import EngineOptions
bundle, classifier, threads = sys.argv[1:4]
certifier = MultiPass.load(bundle, classifier, seed=3, options=EngineOptions(threads=int(threads)))
frames = np.random.default_rng(0).integers(0, 256, (16, 2, 2), dtype=np.uint8)
expected, engine = certifier(frames).to_rows(), certifier.engine
if sys.argv[4:]:
    os.rename(bundle, sys.argv[4])
child = os.fork()
if child == 0:
    try:
        assert certifier(frames).to_rows() == expected
        os._exit(10 if certifier.engine is engine else 11)
    except Exception as error:
        print(error, flush=True)
        os._exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert certifier(frames).to_rows() == expected and certifier.engine is engine  # the parent serves on
print(json.dumps(status))
"""

pytest_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def forked(folder: Path, threads: int, *moved: str) -> list[str]:
    bundle, classifier = saved(folder)
    command = [sys.executable, "-c", FORK, str(bundle), str(classifier), str(threads), *moved]
    with Run(command) as run:
        assert run.status() == 0, run
        return run.said.splitlines()


@pytest.mark.slow
@pytest_fork
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_worker_certifies_with_more_passes(threads: int, tmp_path: Path) -> None:
    """ONNX Runtime's threads do not survive a fork, nor do locks that were held: a call would wait for ever."""
    assert json.loads(forked(tmp_path, threads)[-1]) == 11  # opened again


@pytest.mark.slow
@pytest_fork
def test_a_forked_worker_whose_bundle_is_gone_says_so(tmp_path: Path) -> None:
    said = forked(tmp_path, 2, str(tmp_path / "moved"))
    assert json.loads(said[-1]) == 1
    assert said[0].startswith("bundle: expected a file ")


def test_a_bundle_swapped_before_the_fork_is_refused(tmp_path: Path) -> None:
    bundle, classifier = saved(tmp_path)
    certifier = MultiPass.load(bundle, classifier)
    (bundle / "bundle.json").write_bytes((saved(tmp_path / "other", "gaussian")[0] / "bundle.json").read_bytes())
    with pytest.raises(BundleError, match=r"expected the bundle with sha256 .* that the parent process loaded, got"):
        certifier._engine._reopen()
