"""The simulation of many workers: exact where nothing goes wrong, and bounded where something does."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rrise.targets.scheduling import Limits

spec = importlib.util.spec_from_file_location("scale", Path(__file__).parents[1] / "benchmarks" / "scale.py")
scale = importlib.util.module_from_spec(spec)
sys.modules["scale"] = scale  # its dataclasses look themselves up there
spec.loader.exec_module(scale)


@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (10, 3), (64, 8), (100, 7)])
def test_where_nothing_goes_wrong_the_hours_are_the_ideal_ones(shards: int, workers: int) -> None:
    found = scale.simulate(shards, 20.0, workers, scale.CALM, seed=0)
    assert found.seconds == 20.0 * -(-shards // workers)
    assert (found.finished, found.worked, found.kept) == (shards, 20.0 * shards, 20.0 * shards)


def test_a_slow_writer_is_what_the_run_waits_for() -> None:
    found = scale.simulate(100, 1.0, 50, replace(scale.CALM, write=0.5), seed=0)
    assert found.seconds == 1.0 + 100 * 0.5


def test_copies_shorten_the_tail_of_stragglers() -> None:
    world = replace(scale.CALM, straggling=0.02, straggler=20.0)
    pairs = [[scale.simulate(200, 10.0, 20, world, seed, Limits(copies=c)) for c in (1, 2)] for seed in range(10)]
    assert all(found.finished == 200 for pair in pairs for found in pair)
    alone, copied = (sorted(pair[i].seconds for pair in pairs)[5] for i in (0, 1))
    assert copied < 0.75 * alone
    assert all(pair[1].worked >= pair[1].kept for pair in pairs)


def test_lost_workers_and_nodes_cost_time_and_no_shard() -> None:
    world = replace(scale.CALM, worker_life=600.0, worker_back=30.0, node_life=1500.0, node_back=100.0)
    for seed in range(5):
        found = scale.simulate(300, 20.0, 16, world, seed)
        assert found.finished == 300
        assert 300 * 20.0 / 16 < found.seconds < 3 * 300 * 20.0 / 16
        assert found.worked > found.kept


def test_a_dying_worker_loses_half_a_shard_on_average() -> None:
    world = replace(scale.CALM, worker_life=2000.0, worker_back=30.0)
    found = [scale.simulate(5000, 20.0, 16, world, seed, Limits(tries=100, copies=1)) for seed in range(5)]
    lost = sum(one.worked - one.kept for one in found)
    expected = 5 * (5000 * 20.0 / 2000.0) * 10.0  # deaths while at work, and what each loses
    assert 0.75 * expected < lost < 1.25 * expected


def test_workers_start_late_and_a_seed_names_a_run() -> None:
    world = replace(scale.CALM, start=100.0)
    times = [scale.simulate(10, 20.0, 1, world, seed).seconds for seed in (0, 1, 1)]
    assert times[1] == times[2] != times[0]
    assert all(0.0 < seconds - 200.0 < 100.0 for seconds in times)


def test_made_up_counts_are_counts() -> None:
    counts = scale.made_up_counts(scale.np.random.default_rng(0), 50, 1000, 30)
    assert counts.shape == (50, 30)
    assert (counts.sum(axis=1) == 1000).all()
    assert (counts.max(axis=1) > 150).all()
