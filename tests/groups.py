"""Which tests share a process, and a watch that sees to it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

RAY = ("test_distributed.py", "test_job_submit.py", "served_over_http")
"""Files and a test that start clusters on this machine: two at once would share its cores between ten processes."""

ALONE = ("test_mutations.py::test_it_is_caught",)
"""Tests that share nothing with others of their file; each is a group."""


def group_of(nodeid: str) -> str:
    """Return the group of a test: with ``pytest -n``, the tests of a group run in one process.

    There they share what is slow to make. A file is a group, and all that starts clusters is another.
    """
    if any(part in nodeid for part in ALONE):
        return nodeid
    return "ray" if any(part in nodeid for part in RAY) else nodeid.partition("::")[0]


# Not by marks of `xdist_group`: pytest-xdist 3.8 adds these to names by an attribute that pytest 9.2 no longer reads.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread groups, not tests, over the processes."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


class GroupsStayTogether:
    """Fails a test run in which two tests of a group ran in different processes."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the process of a test; a single process has no name."""
        if node := getattr(report, "node", None):
            self.seen[group_of(report.nodeid)].add(node.gateway.id)

    def torn(self) -> list[str]:
        """Return the groups that ran in more than one process."""
        return sorted(group for group, processes in self.seen.items() if len(processes) > 1)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, even if every test passed."""
        if self.torn():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which groups they were."""
        for group in self.torn():
            terminalreporter.write_line(f"FAILED group {group}: its tests ran in {len(self.seen[group])} processes")
