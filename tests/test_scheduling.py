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


@given(st.data(), st.integers(0, 12), st.integers(1, 5), st.sampled_from([2, 100]))
def test_every_shard_ends_finished_once_or_given_up(data: st.DataObject, shards: int, workers: int, lost: int) -> None:
    limits = Limits(tries=3, lost=lost, copies=2)
    scheduler: Scheduler[int] = Scheduler(range(shards), limits)
    now, kept, failures, on = 0.0, [], dict.fromkeys(range(shards), 0), {}
    failed_on = {shard: set() for shard in range(shards)}
    for _ in range(3000):
        if scheduler.over:
            break
        now += data.draw(st.sampled_from([0.0, 1.0, 100.0]))
        worker = data.draw(st.integers(0, workers - 1))
        if not scheduler.busy(worker):
            shard = scheduler.next(worker, now)
            if shard is not None:
                assert shard not in kept
                assert shard not in scheduler.given_up
                assert not (on and worker in failed_on[shard])  # others are at work: one of them will take it
                on[worker] = shard
                assert sum(1 for other in on.values() if other == shard) <= limits.copies
            assert all(scheduler.busy(other) is (other in on) for other in range(workers))
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
            failed_on[shard].add(worker)
            if fate == "node lost":
                scheduler.forgive(shard)
                failures[shard] -= shard not in kept
        enough = {one for one in failures if failures[one] >= limits.tries and one not in (*kept, *on.values())}
        assert set(scheduler.given_up) == enough
        assert scheduler.unfinished == shards - len(kept)
    assert scheduler.over
    assert len(kept) == len(set(kept))
    if len(scheduler.given_up) < lost:
        assert set(kept) | set(scheduler.given_up) == set(range(shards))
    assert not set(kept) & set(scheduler.given_up)


def test_shards_are_handed_out_in_order_and_once() -> None:
    scheduler: Scheduler[str] = Scheduler([4, 2, 7], LIMITS)
    assert [scheduler.next(worker, 0.0) for worker in "abcd"] == [4, 2, 7, None]


def test_a_failed_shard_waits_for_another_worker_while_one_is_busy() -> None:
    scheduler = started(3, 1)
    assert scheduler.failed("w0", "why") == 0
    assert [scheduler.next("w0", 0.0), scheduler.next("w1", 0.0)] == [1, 2]
    scheduler.finished("w0", 1.0)
    assert scheduler.next("w0", 1.0) is None  # w1 will be free
    scheduler.finished("w1", 1.0)
    assert scheduler.next("w1", 1.0) == 0


def test_a_failed_shard_goes_back_to_its_worker_if_no_other_is_busy() -> None:
    scheduler = started(2, 1)
    scheduler.failed("w0", "why")
    assert scheduler.next("w0", 0.0) == 1
    scheduler.finished("w0", 1.0)
    assert scheduler.next("w0", 1.0) == 0


def test_a_failed_shard_goes_to_none_of_the_workers_that_failed_at_it() -> None:
    scheduler = started(2, 3)  # w0 and w1 have one, w2 has none
    scheduler.failed("w0", "why")
    assert scheduler.next("w2", 0.0) == 0
    scheduler.failed("w2", "why")
    assert [scheduler.next("w0", 0.0), scheduler.next("w2", 0.0)] == [None, None]
    assert scheduler.next("w3", 0.0) == 0


def test_a_worker_finds_a_shard_behind_all_that_it_failed_at() -> None:
    scheduler = started(4, 0)
    for _ in range(2):
        scheduler.next("w0", 0.0)
        scheduler.failed("w0", "why")
    assert [scheduler.next("w1", 0.0), scheduler.next("w2", 0.0)] == [2, 3]
    scheduler.failed("w1", "why")  # 0, 1 and 2 wait, in this order
    assert scheduler.next("w0", 0.0) == 2


def test_a_worker_does_not_copy_a_straggler_that_it_failed_at() -> None:
    scheduler = started(1, 1)
    assert scheduler.next("w1", 60.0) == 0
    scheduler.failed("w1", "why")
    assert scheduler.next("w1", 200.0) is None
    assert scheduler.next("w2", 200.0) == 0


def test_one_broken_worker_among_others_costs_no_shard() -> None:
    scheduler: Scheduler[int] = Scheduler(range(200), Limits())
    ends: dict[int, float] = {}
    now, failures, kept = 0.0, 0, 0
    while not scheduler.over:
        for worker in range(8):
            if not scheduler.busy(worker) and scheduler.next(worker, now) is not None:
                ends[worker] = now + (0.1 if worker == 0 else 60.0)  # worker 0 fails at once, at everything
        worker = min(ends, key=ends.__getitem__)
        now = max(now, ends.pop(worker))
        if worker == 0:
            scheduler.failed(worker, "why")
            failures += 1
        else:
            kept += scheduler.finished(worker, now) is not None
    assert (kept, scheduler.given_up) == (200, {})
    assert now <= 60.0 * (200 // 7 + 2)
    assert failures < 15


def test_a_worker_that_only_fails_pauses_ever_longer_while_others_work() -> None:
    scheduler = started(20, 0)
    scheduler.next("good", 0.0)
    for _ in range(3):
        assert scheduler.next("bad", 10.0) is not None
        scheduler.failed("bad", "why")
    assert scheduler.next("bad", 69.9) is None
    assert scheduler.next("bad", 70.0) is not None
    scheduler.failed("bad", "why")
    assert scheduler.next("bad", 189.9) is None
    assert scheduler.next("bad", 190.0) is not None
    scheduler.finished("bad", 200.0)  # all is forgotten
    for _ in range(2):
        assert scheduler.next("bad", 200.0) is not None
        scheduler.failed("bad", "why")
    assert scheduler.next("bad", 200.0) is not None
    scheduler.failed("bad", "why")
    scheduler.finished("good", 200.0)
    assert scheduler.next("bad", 200.0) is not None  # nobody else works: better it than none


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


def test_a_shard_is_not_given_up_while_another_worker_is_at_it() -> None:
    for copy_finishes in (True, False):
        scheduler = started(1, 1, Limits(tries=1))
        assert scheduler.next("w1", 60.0) == 0
        scheduler.failed("w0", "first")
        assert not scheduler.over
        if copy_finishes:
            assert scheduler.finished("w1", 61.0) == 0
        else:
            scheduler.failed("w1", "second")
        assert scheduler.over
        assert scheduler.given_up == ({} if copy_finishes else {0: "second"})


def test_a_given_up_shard_comes_back_only_when_few_enough_failures_are_left() -> None:
    scheduler = started(1, 1, Limits(tries=1))
    scheduler.next("w1", 60.0)
    scheduler.failed("w0", "why")
    scheduler.failed("w1", "why")
    scheduler.forgive(0)
    assert scheduler.given_up == {0: "why"}
    scheduler.forgive(0)
    assert scheduler.given_up == {}
    assert [scheduler.next("w0", 60.0), scheduler.next("w2", 60.0)] == [0, None]


def test_forgiving_a_finished_or_unharmed_shard_does_nothing() -> None:
    scheduler = started(2, 1, Limits(tries=1))
    scheduler.finished("w0", 1.0)
    for shard in (0, 1):
        scheduler.forgive(shard)
    assert [scheduler.next("w0", 1.0), scheduler.next("w1", 1.0)] == [1, None]
    scheduler.failed("w0", "why")
    assert scheduler.given_up == {1: "why"}  # it bears no more for it


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


def test_without_copies_a_straggler_is_left_alone() -> None:
    scheduler = started(1, 1, Limits(copies=1))
    assert scheduler.next("w1", 1e9) is None


def test_a_worker_of_a_finished_shard_is_no_straggler() -> None:
    scheduler = started(1, 1, Limits(lost=100))
    scheduler.next("w1", 60.0)
    assert scheduler.finished("w1", 61.0) == 0
    assert scheduler.next("w1", 1e9) is None


def test_what_makes_a_straggler_follows_the_shards_that_have_finished() -> None:
    scheduler = started(4, 2)  # w0 and w1
    scheduler.finished("w1", 10.0)
    scheduler.next("w1", 10.0)
    scheduler.next("w2", 10.0)
    assert scheduler.next("w3", 14.0) is None  # the median is 10 s, so 15 s are late
    scheduler.finished("w1", 14.0)
    assert scheduler.next("w3", 14.0) == 0  # now it is 7 s, so 10.5 s are


def test_before_anything_finished_patience_makes_a_straggler() -> None:
    scheduler = started(1, 1)
    assert scheduler.next("w1", 59.0) is None
    assert scheduler.next("w1", 60.0) == 0


def test_a_worker_is_stuck_after_ten_times_the_longest_shard_and_no_sooner_than_patience() -> None:
    scheduler = started(3, 2)
    assert scheduler.stuck(600.0) == []  # nothing to compare with: ten times the patience
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


def test_workers_that_are_silent_in_their_first_shard_are_replaced_after_long_patience() -> None:
    scheduler: Scheduler[str] = Scheduler(range(4), LIMITS)
    assert scheduler.none_for(0.0) == 0
    scheduler.next("a", 0.0)
    scheduler.next("b", 5.0)
    assert scheduler.none_for(61.0) == 61
    assert scheduler.stuck(LIMITS.stuck * LIMITS.patience) == []
    assert scheduler.stuck(LIMITS.stuck * LIMITS.patience + 1) == ["a"]
    scheduler.finished("b", 20.0)
    assert scheduler.none_for(400.0) == 0
    assert scheduler.stuck(160.0) == ["a"]  # ten times the longest shard, of 15 seconds


def test_a_shard_that_fails_waits_behind_others_once_one_has_finished() -> None:
    scheduler: Scheduler[str] = Scheduler(range(3), Limits())
    assert [scheduler.next("a", 0.0), scheduler.next("b", 0.0)] == [0, 1]
    scheduler.finished("b", 1.0)
    scheduler.failed("a", "bad")
    assert [scheduler.next("a", 2.0), scheduler.next("b", 2.0)] == [2, 0]
