"""The scheduler under any sequence of events: every shard ends once, and each rule holds by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrise.targets.scheduling import Limits, Scheduler

LIMITS = Limits(tries=3, lost=100, copies=2, straggling=1.5, stuck=10.0, patience=60.0)


def started(shards: int, workers: int, limits: Limits = LIMITS) -> Scheduler[str]:
    made: Scheduler[str] = Scheduler(range(shards), limits)
    for number in range(workers):
        made.next(f"w{number}", 0.0)
    return made


@given(st.data(), st.integers(0, 12), st.integers(1, 5))
def test_every_shard_ends_finished_once_or_given_up(data: st.DataObject, shards: int, workers: int) -> None:
    scheduler: Scheduler[int] = Scheduler(range(shards), LIMITS)
    now, kept, failures, on = 0.0, [], dict.fromkeys(range(shards), 0), {}
    for _ in range(2000):
        if scheduler.over:
            break
        now += data.draw(st.sampled_from([0.0, 1.0, 100.0]))
        worker = data.draw(st.integers(0, workers - 1))
        if not scheduler.busy(worker):
            shard = scheduler.next(worker, now)
            if shard is not None:
                on[worker] = shard
                assert shard not in kept
                assert sum(1 for other in on.values() if other == shard) <= LIMITS.copies
            continue
        shard = on.pop(worker)
        fate = data.draw(st.sampled_from(["finished", "finished", "failed", "node lost"]))
        if fate == "finished":
            found = scheduler.finished(worker, now)
            assert found == (None if shard in kept else shard)
            kept += [] if found is None else [found]
        else:
            assert scheduler.failed(worker, "why") == shard
            failures[shard] += 1
            if fate == "node lost":
                scheduler.forgive(shard)
                failures[shard] -= shard not in kept
        assert all(failures[lost] >= LIMITS.tries for lost in scheduler.given_up)
        assert scheduler.unfinished == shards - len(kept)
    assert scheduler.over
    assert len(kept) == len(set(kept))
    assert set(kept) | set(scheduler.given_up) == set(range(shards))
    assert not set(kept) & set(scheduler.given_up)


def test_shards_are_handed_out_in_order_and_once() -> None:
    scheduler: Scheduler[str] = Scheduler([4, 2, 7], LIMITS)
    assert [scheduler.next(worker, 0.0) for worker in "abcd"] == [4, 2, 7, None]


def test_a_failed_shard_waits_for_another_worker_while_there_is_other_work() -> None:
    scheduler = started(3, 1)
    assert scheduler.failed("w0", "why") == 0
    assert [scheduler.next("w0", 0.0), scheduler.next("w1", 0.0)] == [1, 2]
    scheduler.finished("w0", 1.0)
    assert scheduler.next("w0", 1.0) == 0  # nothing else is left: better this worker than none


def test_a_failed_shard_is_passed_over_by_its_worker() -> None:
    scheduler = started(2, 2)
    scheduler.failed("w0", "why")
    scheduler.failed("w1", "why")
    assert scheduler.next("w0", 0.0) == 1
    assert scheduler.next("w1", 0.0) == 0


def test_a_shard_is_given_up_after_three_failures_and_forgiven_ones_do_not_count() -> None:
    scheduler = started(1, 1)
    for _ in range(5):
        scheduler.forgive(scheduler.failed("w0", "its node"))
        assert scheduler.next("w0", 0.0) == 0
    for attempt in range(3):
        assert scheduler.given_up == {}
        scheduler.failed("w0", f"reason {attempt}")
        assert scheduler.over is (attempt == 2)
        assert scheduler.next("w0", 0.0) == (None if attempt == 2 else 0)
    assert scheduler.given_up == {0: "reason 2"}
    scheduler.forgive(0)
    assert scheduler.given_up == {}
    assert scheduler.next("w0", 0.0) == 0


def test_too_many_given_up_shards_end_the_run() -> None:
    scheduler = started(50, 1, Limits(tries=1, lost=3))
    for left in (2, 1, 0):
        assert not scheduler.over
        scheduler.failed("w0", "why")
        assert scheduler.over is (left == 0)
        scheduler.next("w0", 0.0)


def test_an_idle_worker_copies_the_oldest_straggler_once() -> None:
    scheduler = started(3, 0)
    scheduler.next("a", 0.0)
    scheduler.next("b", 1.0)
    scheduler.next("c", 2.0)
    assert scheduler.finished("c", 12.0) == 2  # the median is 10 s
    assert scheduler.next("c", 14.0) is None  # 15 s make a straggler
    assert scheduler.next("c", 15.5) == 0
    assert scheduler.next("d", 15.9) is None  # b's shard is not late yet, and two are on a's
    assert scheduler.next("d", 16.5) == 1
    assert scheduler.finished("c", 17.0) == 0
    assert scheduler.finished("a", 18.0) is None  # the copy was first
    scheduler.failed("b", "why")
    assert scheduler.next("b", 18.0) is None  # d still has the shard
    assert scheduler.finished("d", 19.0) == 1
    assert scheduler.over


def test_before_anything_finished_patience_makes_a_straggler() -> None:
    scheduler = started(1, 1)
    assert scheduler.next("w1", 59.0) is None
    assert scheduler.next("w1", 60.0) == 0


def test_a_worker_is_stuck_after_ten_times_the_longest_shard_and_no_sooner_than_patience() -> None:
    scheduler = started(3, 2)
    assert scheduler.stuck(1e9) == []  # nothing to compare with
    scheduler.finished("w1", 5.0)
    scheduler.next("w1", 5.0)
    assert scheduler.stuck(60.0) == []
    assert scheduler.stuck(61.0) == ["w0"]
    scheduler.finished("w1", 35.0)
    assert scheduler.stuck(300.0) == []
    assert scheduler.stuck(301.0) == ["w0"]


def test_a_worker_without_a_shard_cannot_finish_or_fail() -> None:
    for act in (Scheduler.finished, Scheduler.failed):
        with pytest.raises(KeyError):
            act(Scheduler([0], LIMITS), "stranger", 0.0)
