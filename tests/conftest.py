"""Settings that every test shares: seeded Hypothesis, and a header that says which versions ran."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import settings

from rrise.recipe import Recipe, load_recipe, run

settings.register_profile("rrise", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("rrise")


def pytest_report_header() -> str:
    found = []
    for name in ("numpy", "onnxruntime", "torch", "timm", "scipy", "pyarrow"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


RAY = ("test_distributed.py", "test_job_submit.py", "served_over_http")
"""Files and a test that start clusters on this machine and count their processes: never two of them at once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, where they share what is slow to make (with `pytest -n`)."""
    for item in items:
        clusters = any(part in item.nodeid for part in RAY)
        item.add_marker(pytest.mark.xdist_group("ray" if clusters else item.path.name))


SMALL = (
    "data.train=300",
    "data.calibration=150",
    "data.test=40",
    "train.epochs=20",
    "sample.n=100",
    "execution.threads=1",
    "fit.epochs=[20]",
    "rival.epochs=[5]",
    "calibrate.gamma=0.2",
    "evaluate.n_selection=20",
    "evaluate.n_reference=300",
    "evaluate.latency_images=2",
)


def small_recipe(out: Path, *more: str) -> Recipe:
    return load_recipe("digits", [*SMALL, f"out={out}", *more])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run on a small scale and what it said; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("run") / "digits"
    said: list[str] = []
    report = run(small_recipe(out), say=said.append, progress=False)
    assert report == out / "evaluation" / "report.html"
    return out, said
