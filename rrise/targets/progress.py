"""How far a long sampling run is: a live line on a terminal, a line a minute elsewhere, and JSON lines in a file."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import deque
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any

EVERY = 60.0
"""Seconds between two lines where there is no terminal."""
RECENT = 200
"""Shards that the speed and the time left are estimated from."""


class Progress:
    """Follows the shards of one run; a context manager.

    Parameters
    ----------
    total, done : int
        Shards in all, and those finished before this run.
    log : Path, optional
        File that gets one JSON object a line, added to what is there: ``time``, ``event`` (start, shard, failure,
        worker, note, end), ``done``, ``total``, ``evaluations``, ``per_second``, ``eta_s``, ``failures`` and what the
        event says.
    shown : bool
        Show a line on stderr.
    """

    def __init__(self, total: int, done: int, *, log: Path | None = None, shown: bool = True) -> None:
        self.total, self.done = total, done
        self.evaluations = self.failures = 0
        self._workers = ""
        self._said = time.monotonic()
        self._marks = deque([(self._said, done, 0)], maxlen=RECENT)  # time, shards done, evaluations
        self._shown = shown
        self._path = log
        self._log: IO[str] | None = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._path.open("a", encoding="utf-8")
        hidden = None if self._shown else True  # None: shown on a terminal only
        self._bar = tqdm(total=self.total, initial=self.done, unit="shard", disable=hidden, smoothing=0.1)
        self._begin()
        self._write("start", {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._write("end", {} if error is None else {"error": f"{kind.__name__ if kind else ''}: {error}"})
        if self._log is not None:
            self._log.close()

    def finished(self, shard: int, evaluations: int, **facts: Any) -> None:
        """Count a shard that is on disk now."""
        self.done += 1
        self.evaluations += evaluations
        self._marks.append((time.monotonic(), self.done, self.evaluations))
        self._show()
        self._bar.update()
        self._write("shard", {"shard": shard, **facts})
        if self._shown and self._bar.disable and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def failed(self, text: str, **facts: Any) -> None:
        """Count a failure; the text goes to the log, and the number to the line."""
        self.failures += 1
        self._write("failure", {"error": text, **facts})
        self._show()

    def workers(self, ready: int, wanted: int) -> None:
        """Tell how many workers are at work, of how many."""
        if not self._workers:
            self._begin()  # the start of the workers is no work
        self._workers = f"{ready}/{wanted} workers"
        self._write("worker", {"ready": ready, "wanted": wanted})
        self._show()

    def note(self, text: str, *, aloud: bool = True) -> None:
        """Say something in words, above the line; not aloud: to the log only."""
        self._write("note", {"text": text})
        if self._shown and aloud:
            self._bar.write(text, file=sys.stderr)

    def line(self) -> str:
        """Return shards done of all, evaluations a second, the time left, failures and workers."""
        rate, left = self._rate()
        parts = [f"{self.done}/{self.total} shards", f"{rate:,.0f} evaluations/s"]
        parts += [f"ETA {self._bar.format_interval(left)}"] if left is not None else []
        parts += [f"{self.failures} failures"]
        return ", ".join(parts + ([self._workers] if self._workers else []))

    def _begin(self) -> None:
        self._said = time.monotonic()
        self._marks[0] = (self._said, self.done, self.evaluations)

    def _rate(self) -> tuple[float, float | None]:
        """Return evaluations a second and the seconds left, from the recent shards."""
        start, done, evaluations = self._marks[0]
        elapsed = max(time.monotonic() - start, 1e-9)
        recent = self.done - done
        left = (self.total - self.done) * elapsed / recent if recent else None
        return (self.evaluations - evaluations) / elapsed, left

    def _show(self) -> None:
        parts = [f"{self._rate()[0]:,.0f} evaluations/s", f"{self.failures} failures", self._workers]
        self._bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        if self._log is None:
            return
        rate, left = self._rate()
        row = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": event,
            "done": self.done,
            "total": self.total,
            "evaluations": self.evaluations,
            "per_second": round(rate, 1),
            "eta_s": None if left is None else round(left, 1),
            "failures": self.failures,
        }
        try:
            self._log.write(json.dumps(row | facts) + "\n")
            self._log.flush()
        except OSError as error:  # a log must not end the work it tells of; a full disk ends it where shards are kept
            log, self._log = self._log, None
            with contextlib.suppress(OSError):
                log.close()
            print(f"log: {self._path} is not written any more ({error}).", file=sys.stderr)
