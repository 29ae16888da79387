"""The C++ example: built with CMake as its README says, it answers as Python does and refuses what Python refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rrise
from rrise import _C

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "bundle-1" / "bundle.json"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
CMAKE = shutil.which("cmake")


def json_reader() -> list[str]:
    """How CMake finds nlohmann/json: by itself, or in the Python package that carries its headers."""
    package = importlib.util.find_spec("nlohmann_json")
    if package is None or not package.submodule_search_locations:
        return []
    return [f"-DNLOHMANN_JSON_INCLUDE_DIR={Path(next(iter(package.submodule_search_locations))) / 'include'}"]


@pytest.fixture(scope="module")
def certify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None or CMAKE is None:
        pytest.skip("the example needs a C++ compiler and cmake, and one of them is not installed")
    build = tmp_path_factory.mktemp("example")
    source = str(ROOT / "examples" / "cpp")
    arguments = ["-S", source, "-B", str(build), f"-DRRISE_INCLUDE_DIR={rrise.include_dir()}", *json_reader()]
    configured = subprocess.run([CMAKE, *arguments], capture_output=True, text=True, timeout=600, check=False)
    if configured.returncode != 0 and "NLOHMANN_JSON_INCLUDE_DIR" in configured.stderr:
        pytest.skip("the example needs nlohmann/json (Debian: nlohmann-json3-dev), and CMake finds none")
    assert configured.returncode == 0, configured.stderr
    subprocess.run([CMAKE, "--build", str(build)], check=True, capture_output=True, timeout=600)
    return build / "certify"


def run(program: Path, bundle: Path, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(bundle)], input=text, capture_output=True, text=True, timeout=600, check=False
    )


def as_text(logits: NDArray[Any]) -> str:
    return "".join(" ".join(f"{x:.17g}" for x in row) + "\n" for row in logits)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_agrees_with_python_to_the_bit(certify: Path, classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=2.0, size=(250, classes)).astype(np.float32)
    logits[np.arange(250), rng.integers(classes, size=250)] += rng.uniform(0, 30, 250).astype(np.float32)
    logits[7, 1], logits[8, 0], logits[9] = np.nan, np.inf, 4.0
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    knots_q, knots_p = (np.array(content["curve"][name]) for name in ("knots_q", "knots_p"))
    expected = _C.certify(logits, knots_q, knots_p, content["sigma"])
    done = run(certify, GOLDEN, as_text(logits))
    assert (done.returncode, done.stderr) == (0, "")
    got = [line.split() for line in done.stdout.splitlines()]
    np.testing.assert_array_equal([int(row[0]) for row in got], expected[0])
    assert 20 < (expected[0] >= 0).sum() < 248
    for k in (1, 2, 3):
        numbers = np.array([float(row[k]) for row in got])
        np.testing.assert_array_equal(np.isnan(numbers), np.isnan(expected[k]))
        assert (
            np.where(np.isnan(numbers), 0, numbers).tobytes()
            == np.where(np.isnan(expected[k]), 0, expected[k]).tobytes()
        )


def with_changes(**changes: object) -> str:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    content["curve"].update({k: v for k, v in changes.items() if k.startswith("knots")})
    content.update({k: v for k, v in changes.items() if not k.startswith("knots")})
    return json.dumps({k: v for k, v in content.items() if v != "gone"})


def test_a_later_version_with_more_members_is_read(certify: Path, tmp_path: Path) -> None:
    later = tmp_path / "bundle.json"
    later.write_text(with_changes(format="rrise-bundle/2", further={"members": [1]}))
    assert run(certify, later, "3 1 0\n").stdout == run(certify, GOLDEN, "3 1 0\n").stdout != ""


WHOLE = GOLDEN.read_text(encoding="utf-8")
PASSES = "extra_passes: expected a curve of q alone, got one of q and noisy passes."
"""Such a curve at q alone would be a wrong certificate (tests/test_more_passes.py); Python refuses it too."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "parse error"),
        (WHOLE[: len(WHOLE) // 2], "parse error"),
        (WHOLE[:-3], "parse error"),
        ("[" * 100_000, "parse error"),
        ("[]", "type_error"),
        (WHOLE.replace("0.55", "NaN"), "parse error"),
        (WHOLE.replace("0.55", "1e999"), "out_of_range"),
        (WHOLE.replace("0.55", '"0.55"'), "type_error"),
        (WHOLE.replace("é", "\udcff"), "parse error"),
        (with_changes(format="rrise-engine/1"), "format: expected rrise-bundle/"),
        (with_changes(format="gone"), "key 'format' not found"),
        (with_changes(extra_passes={"m": 8, "kappa": 5.0}), PASSES),
        (with_changes(format="rrise-bundle/2", extra_passes={"m": 8, "kappa": 5.0}), PASSES),
        (with_changes(format="rrise-bundle/2", extra_passes=None), PASSES),
        (with_changes(curve="gone"), "key 'curve' not found"),
        (with_changes(curve=[]), "type_error"),
        (with_changes(sigma=0.0), "sigma: expected a finite number above 0"),
        (with_changes(sigma=-1.0), "sigma: expected a finite number above 0"),
        (with_changes(knots_q=[0.0, 0.6, 0.25, 1.0]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_q=[0.0, 0.6, 0.6, 1.0]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_q=[0.1, 0.3, 0.6, 1.0]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_q=[0.0, 0.6, 1.0]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_q=[0.0], knots_p=[0.0]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_q=[], knots_p=[]), "curve.knots_q: expected numbers rising"),
        (with_changes(knots_p=[0.0, 0.1, 0.55, 1.5]), "curve.knots_p: expected bounds"),
        (" " * (4 << 20) + WHOLE, "expected at most 4 MiB"),
    ],
)
def test_refuses_a_hostile_bundle_in_one_line(certify: Path, tmp_path: Path, content: str, message: str) -> None:
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(content.encode("utf-8", "surrogateescape"))
    done = run(certify, bundle, "1 2 3\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.startswith("certify: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 x\n", "logits: expected numbers, got something else in line 1"),
        ("1,2,3\n", "logits: expected numbers"),
        ("1 2 3\n1 2\n", "got 2 in line 2"),
        ("5\n", "got 1 in line 1"),
        ("\n", "got 0 in line 1"),
    ],
)
def test_refuses_other_input_in_one_line(certify: Path, text: str, message: str) -> None:
    done = run(certify, GOLDEN, text)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    missing = run(certify, GOLDEN.parent / "missing.json", text)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert run(certify, GOLDEN, "").returncode == 0  # no image, no certificate


def test_the_headers_are_where_include_dir_says() -> None:
    folder = Path(rrise.include_dir())
    assert folder.is_absolute()
    for name in ("radius.h", "softmax.h", "elementary.h", "lanes.h", "noise.h", "planes.h"):
        assert (folder / name).is_file()
