"""The live line and its log: what they count, and that neither ends the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrise.targets import progress as module
from rrise.targets.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_speed_and_time_left_are_of_the_recent_shards_after_the_workers_started(tmp_path, clock, capsys):
    log = tmp_path / "new" / "log.jsonl"
    with Progress(500, 100, log=log, shown=False) as live:
        clock[0] = 50.0  # the workers' start is no work
        live.workers(2, 2)
        clock[0] = 60.0
        live.finished(7, 1000, worker=1)
        assert live.line() == "101/500 shards, 100 evaluations/s, ETA 1:06:30, 0 failures, 2/2 workers"
        for _ in range(300):
            clock[0] += 1.0
            live.finished(8, 1000)
        assert "401/500 shards, 1,000 evaluations/s, ETA 01:39" in live.line()
        live.failed("it broke", shard=3)
        live.note("a word")
    found = rows(log)
    assert [row["event"] for row in found[:3]] == ["start", "worker", "shard"]
    assert [row["event"] for row in found[-3:]] == ["failure", "note", "end"]
    assert {"done": 101, "total": 500, "evaluations": 1000, "per_second": 100.0, "shard": 7}.items() <= found[2].items()
    assert found[-3]["error"] == "it broke"
    assert found[-1]["failures"] == 1
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_is_a_line_a_minute(clock, capsys):
    with Progress(10, 0) as live:
        for second in range(1, 10):
            clock[0] = 20.0 * second
            live.finished(second, 100)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == ["4/10 shards", "8/10 shards"]
    assert "5 evaluations/s, ETA 02:00, 0 failures" in said[0]


def test_an_error_is_in_the_log_and_a_second_run_is_added(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(OSError, match="full"), Progress(3, 0, log=log, shown=False):
        raise OSError("the disk is full")
    with Progress(3, 1, log=log, shown=False):
        pass
    assert [row["event"] for row in rows(log)] == ["start", "end", "start", "end"]
    assert rows(log)[1]["error"] == "OSError: the disk is full"


def test_a_log_that_cannot_be_written_does_not_end_the_work(capsys):
    with Progress(2, 0, log=Path("/dev/full"), shown=False) as live:
        live.finished(0, 1)
        live.finished(1, 1)
    assert live.done == 2
    assert capsys.readouterr().err.count("is not written any more") == 1
