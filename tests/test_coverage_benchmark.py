"""The long-run check of the promises: its truth is exact, it passes where they hold, and it can fail."""

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
SETTINGS = Namespace(calibrations=60, images=300, n=500, beta=0.01, gamma=0.09, eta=0.1)


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_stripes_probability_is_that_of_the_noise(coverage) -> None:
    truth = norm.cdf(coverage.stripes(np.random.default_rng(5), 3))
    position = np.random.default_rng(5).uniform(0, 6, 3)
    noisy = position + np.random.default_rng(6).normal(size=(400_000, 1))
    seen = np.mean(np.floor(noisy / 3).astype(int) % 2 == 0, axis=0)
    np.testing.assert_allclose(truth, seen, atol=6 * 0.5 / np.sqrt(400_000))


@pytest.mark.slow
def test_a_promise_that_is_kept_and_one_that_is_not(coverage) -> None:
    rng = np.random.default_rng(0)
    truth = coverage.half_space(2, rng, 5_000)
    noisy = coverage.pool(truth, coverage.SURROGATES["noisy"](truth, rng))
    for guarantee in ("marginal", "training-conditional", "certified"):
        missed = coverage.misses(noisy, "scaled", guarantee, SETTINGS, rng)
        assert coverage.kept(missed, guarantee, 0.1, 0.1)
        assert not coverage.kept(missed + 0.1, guarantee, 0.1, 0.1)
    plain = Namespace(**{**vars(SETTINGS), "gamma": 0.3})  # calibrated for 0.303, held against 0.1
    missed = coverage.misses(noisy, "offset", "marginal", plain, rng)
    assert not coverage.kept(missed, "marginal", 0.1, 0.1)


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8])
def test_a_promise_of_gamma_alone_is_called_broken(coverage, beta: float) -> None:
    large = Namespace(calibrations=30, images=4_000, n=10_000, beta=beta, gamma=0.1 * (1 - beta), eta=0.1)
    hard = coverage.concentrated(0.085, 20_000)
    for guarantee in ("marginal", "training-conditional"):
        missed = coverage.misses(hard, "offset", guarantee, large, np.random.default_rng(1))
        assert coverage.kept(missed, guarantee, 0.1, 0.1)
        assert not coverage.kept(missed, guarantee, large.gamma, 0.1)


@pytest.mark.slow
def test_every_promise_is_kept() -> None:
    command = [sys.executable, str(SCRIPT), "--calibrations", "20", "--betas", "0.01", "0.5", "--draws", "500"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "160 promises, 20 calibrations each: 0 broken" in done.stdout
