"""Processes that tests start: found by descent, waited for with an account of what they were at, and never left behind.

On Linux a process that imports this adopts the orphans among its descendants. So every process that its tests started,
however deep, descends from it while it lives, whatever became of those between; a process of another pytest, of
another test run or of other work on the machine never does. Descent is asked, not the environment: a process that sets
its title, as Ray's agents do, may overwrite what can be read of its environment.

Each also inherits a tag of this process, by which a keeper ends what is left when pytest itself was killed.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
LIMIT = 600.0
"""Seconds after which what is waited for is taken to hang: many times longer than anything takes on a busy machine."""
TAG = "RRISE_TEST_PROCESS"
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_keeper: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Seen:
    """A living process as /proc tells of it: parent, state, niceness, CPU time in seconds, start in ticks, command."""

    pid: int
    parent: int
    state: str
    nice: int
    seconds: float
    started: int
    line: str

    @classmethod
    def at(cls, entry: Path) -> Seen | None:
        """None if it has ended, be it that its parent has not asked for its status yet."""
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in "ZX":
            return None
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return cls(int(entry.name), int(fields[1]), fields[0], int(fields[16]), seconds, int(fields[19]), line)


def everything() -> dict[int, Seen]:
    """The machine's living processes; none where there is no /proc."""
    seen = (Seen.at(entry) for entry in Path("/proc").glob("[0-9]*"))
    return {process.pid: process for process in seen if process}


def descendants(*roots: int) -> list[Seen]:
    """The living processes below some (this one, if none is given), oldest first; not the keeper."""
    processes, found = everything(), list(roots) or [os.getpid()]
    below: dict[int, list[int]] = {}
    for process in processes.values():
        below.setdefault(process.parent, []).append(process.pid)
    for pid in found:  # grows meanwhile
        found += below.get(pid, [])
    known = {*roots, os.getpid(), _keeper.pid if _keeper else 0}
    return [processes[pid] for pid in sorted(set(found) - known)]


def end_all(*roots: int) -> None:
    """Kill some processes and all below them, and wait until none is left.

    This process, those above it and those older than it cannot be its own: then nothing at all is signalled.
    """
    pids: set[int] = set()
    while new := {*roots, *(each.pid for each in descendants(*roots))} - pids:
        seen, above = everything(), [os.getpid()]
        while above[-1] in seen:
            above.append(seen[above[-1]].parent)
        begin = seen[above[0]].started if seen else 0
        if foreign := [pid for pid in new & seen.keys() if pid in above or seen[pid].started < begin]:
            raise AssertionError(f"processes that this one did not start, so none is ended: {sorted(foreign)}")
        signal_all(new, signal.SIGSTOP)  # what is stopped starts nothing more
        pids |= new
    signal_all(pids, signal.SIGKILL)
    wait_for(lambda: not pids & everything().keys(), f"end of {sorted(pids)}", every=0.02)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def account() -> str:
    """What this process's descendants are at, and how busy the machine is."""
    rows = [
        f"{each.pid} of {each.parent} {each.state} nice {each.nice} {each.seconds:.1f} s  {each.line[:100]}"
        for each in descendants()
    ]
    return "\n  ".join([f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; own processes:", *rows])


def wait_for(condition: Callable[[], Found], what: str, *runs: Run, limit: float = LIMIT, every: float = 0.05) -> Found:
    """Return what the condition gives once it is true.

    AssertionError with an account of it all if a run that has to go on for that has ended, or after the limit.
    """
    begin = time.monotonic()
    while True:
        over = [run for run in runs if run.process.poll() is not None]
        if found := condition():
            return found
        waited = time.monotonic() - begin
        if over or waited > limit:
            why = "a command ended before that" if over else "it seems to hang"
            raise AssertionError("\n".join([f"no {what} in {waited:.0f} s: {why}.", *map(str, runs), account()]))
        time.sleep(every)


class Run:
    """A command in a process of its own; what it says lies in files, so that it never waits for a reader."""

    def __init__(self, command: Sequence[object], **options: object) -> None:
        keep()
        self.command = [str(word) for word in command]
        self._said, self._complained = _nameless(), _nameless()
        weakref.finalize(self, os.close, self._said)
        weakref.finalize(self, os.close, self._complained)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": self._said, "stderr": self._complained}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(self.command, **(pipes | options))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return _text(self._said)

    @property
    def complained(self) -> str:
        return _text(self._complained)

    def status(self) -> int:
        """Its exit status, waited for."""
        wait_for(lambda: self.process.poll() is not None, f"end of {self}")
        return self.process.returncode

    def end(self) -> None:
        """Kill it and all that is below it, if it still runs."""
        if self.process.poll() is None:
            end_all(self.pid)
            self.process.kill()  # where there is no /proc
            self.process.wait()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        status = self.process.poll()
        state = f"pid {self.pid}, " + ("running" if status is None else f"ended with {status}")
        said, complained = self.said[-1000:], self.complained[-3000:]
        return f"{' '.join(self.command)[-300:]} ({state})\n  said: {said!r}\n  complained: {complained!r}"


def _nameless() -> int:
    file, name = tempfile.mkstemp()
    os.unlink(name)
    return file


def _text(file: int) -> str:
    # Read at a place: the command writes at the offset that it shares with this process.
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, for commands that take no 0; below those that systems give to who asks for any."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = 20_000 + secrets.randbelow(12_000)  # Ray's own workers take some of 10,002 to 19,999
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("", port))
                found.append(port)
        return found


def heed_interrupts() -> None:
    """Undo `make test &` and nohup: what runs behind a shell is deaf to Ctrl-C, and so is all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keep() -> None:
    """Have a keeper: it ends what carries this process's tag once this process has ended, in whatever way."""
    global _keeper
    if _keeper is None and sys.platform == "linux":
        without = {name: value for name, value in os.environ.items() if name != TAG}
        os.environ[TAG] = secrets.token_hex(16)
        command = [sys.executable, "-S", __file__, os.environ[TAG]]
        _keeper = subprocess.Popen(command, stdin=subprocess.PIPE, env=without, start_new_session=True)


def tagged(tag: str) -> list[int]:
    found = []
    for pid in everything():
        with suppress(OSError):
            if f"{TAG}={tag}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


if __name__ == "__main__":  # the keeper
    sys.stdin.buffer.read()  # it ends when pytest has
    while pids := tagged(sys.argv[1]):
        end_all(*pids)
elif sys.platform == "linux":
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
