"""The rules of the test tiers take effect: groups stay together, the shared run stays as it was, each tier runs."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import groups
import pytest
import shared_run
from hypothesis import settings
from shared_run import SharedRun, locked

TESTS = Path(__file__).parent
ROOT = TESTS.parent


# Groups


TOY = """
import os, pathlib, time
def test_{name}():
    pathlib.Path("pid-{name}").write_text(str(os.getpid()))
    time.sleep(0.5)  # long enough for the other process to take the next test
def test_more(): pass
"""
CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
from groups import GroupsStayTogether, pytest_xdist_make_scheduler
{more}
def pytest_configure(config):
    config.pluginmanager.register(GroupsStayTogether())
"""
TORN = "del pytest_xdist_make_scheduler"


@pytest.mark.slow
@pytest.mark.parametrize(("more", "processes"), [("", 1), (TORN, 2)], ids=["as here", "without the scheduler"])
def test_a_group_stays_in_one_process_and_one_that_does_not_fails_the_run(
    tmp_path: Path, more: str, processes: int
) -> None:
    """The same tests in two processes: with this folder's scheduler, and without it, which must be found out."""
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=str(TESTS), more=more))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in "abcd":  # one group by their names: all that starts clusters is
        (tmp_path / f"test_served_over_http_{name}.py").write_text(TOY.format(name=name))
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=480)
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    assert len({path.read_text() for path in tmp_path.glob("pid-*")}) == processes
    assert done.returncode == (0 if processes == 1 else 1), done.stdout
    assert ("FAILED group ray: its tests ran in 2 processes" in done.stdout) == (processes == 2)


def test_a_group_is_a_file_or_all_that_starts_clusters() -> None:
    names = [
        "test_store.py::test_a[1]",
        "test_store.py::test_b",
        "test_noise.py::test_a",
        "test_distributed.py::test_a",
    ]
    names += ["test_job_submit.py::test_a", "test_examples.py::test_served_over_http[2]", "test_examples.py::test_b"]
    found = [groups.group_of(f"tests/{name}") for name in names]
    files = ["tests/test_store.py", "tests/test_store.py", "tests/test_noise.py"]
    assert found == [*files, "ray", "ray", "ray", "tests/test_examples.py"]


def test_a_torn_group_is_named() -> None:
    watch = groups.GroupsStayTogether()
    for name, process in (
        ("a.py::test_1", "gw0"),
        ("a.py::test_2", "gw1"),
        ("b.py::test_1", "gw1"),
        ("b.py::x", "gw1"),
    ):
        node = SimpleNamespace(gateway=SimpleNamespace(id=process))
        watch.pytest_runtest_logreport(SimpleNamespace(nodeid=name, node=node))
    watch.pytest_runtest_logreport(SimpleNamespace(nodeid="c.py::test_1"))  # a run in one process
    session = SimpleNamespace(exitstatus=0)
    watch.pytest_sessionfinish(session)
    assert (watch.torn(), session.exitstatus) == (["a.py"], 1)


def test_the_watch_is_set(request: pytest.FixtureRequest) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    assert any(isinstance(plugin, groups.GroupsStayTogether) for plugin in plugins)


def test_property_tests_draw_the_same_examples_every_time() -> None:
    assert settings().derandomize
    assert settings().deadline is None


# The shared run


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were made by a stand-in for a run, which keeps what is there as a real one does."""
    folders: list[Path] = []

    def run(recipe: object, *, say, progress: bool) -> Path:
        folder = Path(recipe.out)
        report = folder / "evaluation" / "report.html"
        if report.exists():
            say("evaluate: done before, kept")
            return report
        folders.append(folder)
        report.parent.mkdir(parents=True)
        report.write_text("report")
        say("evaluate: made")
        return report

    monkeypatch.setattr(shared_run, "run", run)
    return folders


def test_the_run_is_made_once_and_found_again(tmp_path: Path, made: list[Path]) -> None:
    first = SharedRun.under(tmp_path)
    again = SharedRun.under(tmp_path)
    assert (first.folder, first.said, first.sha256) == (again.folder, again.said, again.sha256)
    assert first.said == ["evaluate: made"]
    assert made == [first.folder]


def test_other_code_makes_a_run_of_its_own(tmp_path: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    SharedRun.under(tmp_path)
    monkeypatch.setattr(shared_run, "code_sha256", lambda: "f" * 64)
    SharedRun.under(tmp_path)
    assert len(set(made)) == 2


def test_the_code_is_all_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rrise"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(shared_run, "rrise", SimpleNamespace(__file__=str(package / "__init__.py")))
    seen = {shared_run.code_sha256()}
    for name in ("conformal.py", "digits.toml", "_C.so"):
        (package / name).write_text("1")
        seen.add(shared_run.code_sha256())
        (package / name).write_text("2")
        seen.add(shared_run.code_sha256())
    assert len(seen) == 7


def test_a_test_that_changes_the_run_is_found_out(tmp_path: Path, made: list[Path]) -> None:
    shared = SharedRun.under(tmp_path)
    shared.require_unchanged()
    (shared.folder / "evaluation" / "report.html").write_text("changed")
    with pytest.raises(AssertionError, match="a test changed the shared run"):
        shared.require_unchanged()
    assert SharedRun.under(tmp_path).sha256 == shared.sha256  # made again for the next test run
    assert len(made) == 2


def test_a_run_that_is_stale_by_its_own_ledger_is_not_used(
    tmp_path: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    SharedRun.under(tmp_path)
    monkeypatch.setattr(shared_run, "run", lambda recipe, *, say, progress: say("fit: sample.n was 100, now 200"))
    with pytest.raises(AssertionError, match="from other settings"):
        SharedRun.under(tmp_path)


def test_one_process_at_a_time_has_the_lock(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import fcntl, sys
        with open(sys.argv[1], "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(7)
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with locked(tmp_path / "lock"):
        assert subprocess.run(command, timeout=240).returncode == 7
    assert subprocess.run(command, timeout=240).returncode == 0
