"""Tests find the processes that they started, all of them and no others, and leave none, whatever ends pytest."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import own_processes
import pytest
from own_processes import Run, descendants, end_all, everything, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in Linux's /proc")
ORPHAN = "setsid sleep 987654 & exec true"  # in a session of its own; its parent ends at once
SLEEP = ["sleep", "987654"]


def sleepers() -> list[int]:
    return [each.pid for each in descendants() if each.line == "sleep 987654"]


def test_an_orphan_is_found_and_ended_and_other_processes_are_not_seen() -> None:
    with Run(["sh", "-c", ORPHAN]) as run:
        assert run.status() == 0
        (pid,) = wait_for(sleepers, "the orphan")
    assert everything()[pid].parent == os.getpid()
    assert not {each.pid for each in descendants()} & {os.getppid(), os.getpid(), 1}
    end_all(pid)
    assert sleepers() == []


def test_ending_a_command_ends_all_that_it_started() -> None:
    with Run(["sh", "-c", "sleep 987654 & setsid sleep 987654 & sleep 987654"]) as run:
        wait_for(lambda: len(sleepers()) == 3, "three processes below the command", run)
    assert sleepers() == []
    assert run.status() == -signal.SIGKILL


def test_nothing_is_signalled_if_it_might_be_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last guard, should processes be found wrongly: it never comes to a signal."""
    signalled: list[object] = []
    monkeypatch.setattr(own_processes, "signal_all", lambda pids, number: signalled.append(pids))
    for roots in ([os.getpid()], [os.getppid()]):
        with pytest.raises(AssertionError, match="that this one did not start, so none is ended"):
            end_all(*roots)
    monkeypatch.setattr(own_processes, "descendants", lambda *roots: list(everything().values()))
    with pytest.raises(AssertionError, match="that this one did not start, so none is ended"):
        end_all(2**22 + 1)  # no process has that number
    assert signalled == []


def test_a_process_that_hides_its_environment_is_found() -> None:
    with Run([sys.executable, "-c", "import os; os.execve('/bin/sleep', ['sleep', '987654'], {})"]) as run:
        assert wait_for(sleepers, "the process", run) == [run.pid]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_process_that_is_killed(how: signal.Signals) -> None:
    """As pytest may be: the keeper ends what carries its tag, and what is below that."""
    script = """if True:
        import time
        from own_processes import Run
        shell = Run(["sh", "-c", "sleep 987654 & wait"])
        print(shell.pid, flush=True)
        time.sleep(600)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with Run([sys.executable, "-c", script], env=environment) as run:
        shell = int(wait_for(lambda: run.said.endswith("\n") and run.said, "the shell's pid", run))
        wait_for(sleepers, "the process below the shell", run)
        assert shell in everything()
        run.process.send_signal(how)
        run.status()
        wait_for(lambda: shell not in everything() and not sleepers(), "end of what it started")


@pytest.mark.slow
def test_tests_run_behind_a_shell_can_interrupt_their_commands() -> None:
    """`make test &` and nohup ignore SIGINT, and what is ignored stays ignored in every command."""
    one = f"{Path(__file__)}::test_nothing_outlives_a_process_that_is_killed"
    deaf = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    with Run([*deaf, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", one]) as run:
        assert run.status() == 0, run
        assert "2 passed" in run.said


def test_what_is_waited_for_in_vain_is_told_with_what_was_said() -> None:
    with (
        Run(["sh", "-c", "echo some words; echo a complaint >&2; exit 3"]) as run,
        pytest.raises(AssertionError, match=r"(?s)^no sign in \d+ s: a command ended before that.*ended with 3") as why,
    ):
        wait_for(lambda: False, "sign", run)
    for told in ("some words", "a complaint", "load ", "own processes"):
        assert told in str(why.value)
    with Run(SLEEP) as run, pytest.raises(AssertionError, match=r"(?s)it seems to hang.*running.*sleep 987654"):
        wait_for(lambda: False, "sign", run, limit=0)
