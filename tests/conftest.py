"""Settings that every test shares: seeded Hypothesis, which tests stay together, one finished run for all of them."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from groups import GroupsStayTogether, pytest_xdist_make_scheduler
from hypothesis import settings
from own_processes import heed_interrupts
from shared_run import SharedRun

__all__ = ["finished", "pytest_configure", "pytest_report_header", "pytest_xdist_make_scheduler"]

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


def pytest_configure(config: pytest.Config) -> None:
    """Watch the groups, and start commands that can be interrupted."""
    heed_interrupts()
    config.pluginmanager.register(GroupsStayTogether())


@pytest.fixture(scope="session")
def finished(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A finished run on a small scale and what it said; tests that change it take a copy.

    Made once for all worker processes, and used again by later invocations where the code is the same and the run's own
    ledger says that nothing is stale.
    """
    cache = getattr(pytestconfig, "cache", None)  # absent with -p no:cacheprovider
    shared = SharedRun.under(cache.mkdir("runs") if cache else tmp_path_factory.mktemp("runs"))
    yield shared.folder, shared.said
    shared.require_unchanged()
