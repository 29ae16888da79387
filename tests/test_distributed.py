"""Ray: the same counts to the bit from any number of workers, through failures made for real on real raylets.

Each failure comes at a known place, not after some time: workers are held after a number of shards (``Job.hold``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from own_processes import descendants, everything, signal_all, wait_for
from ray_cluster import IMAGES, SHARD, Cluster, Job, Sampling, actors, events, log, shards

from rrise.__main__ import main
from rrise.targets.store import CountStore

if importlib.util.find_spec("ray") is None:  # Ray reads its environment when imported: not in this process
    pytest.skip("needs rrise[cluster]", allow_module_level=True)
SHARDS = IMAGES // SHARD
PATIENT = ("--patience", "1000")  # a worker that is held is not taken for a stuck one


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job.at(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def truth(job: Job) -> np.ndarray:
    """The counts of a run in one process."""
    out = job.folder / "truth"
    assert main(job.command(out)[3:]) == 0
    counts = CountStore.open(out).table().counts
    assert (counts > 0).sum() > 3 * IMAGES  # labels do vary under the noise
    return counts


@pytest.fixture(scope="module")
def cluster(job: Job) -> Iterator[Cluster]:
    """A head without CPUs and two nodes of two CPUs each: three raylets."""
    made = Cluster(job.folder / "faults", nodes=2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_worker_outlives_its_test(job: Job) -> Iterator[None]:
    """A run ends its workers, a moment after itself; the next test is not to take one of them for its own."""
    yield
    job.heal()
    wait_for(lambda: not actors(), "end of the run's workers")


def on(cluster: Cluster, *more: str) -> list[str]:
    return ["--executor", "ray", "--address", cluster.address, *more]


def same(out: Path, truth: np.ndarray) -> None:
    np.testing.assert_array_equal(CountStore.open(out).table().counts, truth)


def finished_shards(out: Path) -> list[int]:
    return [row["shard"] for row in events(out, "shard")]


def ended(run: Sampling) -> None:
    assert run.status() == 0, run
    assert run.said.startswith(f"{IMAGES} images"), run  # nothing of Ray's on stdout
    assert run.said.count("\n") == 1


def finish(job: Job, out: Path, *more: str) -> None:
    """Run the command again, to its end."""
    with job.start(out, *more) as run:
        ended(run)


def test_ray_on_this_machine_gives_the_same_counts_and_leaves_no_process(job, truth, tmp_path):
    """The quick tier's only cluster: private to the command, one worker, however many cores there are."""
    before = {each.pid for each in descendants()}
    finish(job, tmp_path / "out", "--executor", "ray", "--workers", "1")
    same(tmp_path / "out", truth)
    assert {row["worker"] for row in events(tmp_path / "out", "shard")} == {0}
    wait_for(lambda: {each.pid for each in descendants()} <= before, "end of all that the command started")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_counts(cluster, job, truth, tmp_path, workers):
    out = tmp_path / "out"
    job.hold(shards=1)
    with job.start(out, *on(cluster, *PATIENT, "--workers", str(workers))) as run:
        run.finished(workers)
        assert {row["worker"] for row in events(out, "shard")} <= set(range(workers))
        run.until(lambda: {row["worker"] for row in events(out, "shard")} == set(range(workers)), "row of each worker")
        job.heal()
        ended(run)
    same(out, truth)
    assert sorted(finished_shards(out)) == list(range(SHARDS))
    last = log(out)[-1]
    assert (last["event"], last["evaluations"]) == ("end", IMAGES * 100)


@pytest.mark.slow
def test_views_are_counted_as_in_this_process(cluster, job, tmp_path):
    views = ["--targets.views", "3", "--targets.n", "50", "--targets.shift", "2", "--targets.flip"]
    views += ["--shard-size", "1", "--batch-size", "250"]  # five images a pass, twenty a shard
    status, said, complained = job.run(tmp_path / "here", *views)
    assert (status, said.split(" in ")[0]) == (0, f"{IMAGES} images × 3 views × 50 draws"), complained
    with job.start(tmp_path / "there", *views, *on(cluster, "--workers", "2")) as run:
        assert run.status() == 0, run
    here, there = (CountStore.open(tmp_path / name) for name in ("here", "there"))
    assert here.manifest.images_per_pass > 1
    assert here.shards == 3 * -(-IMAGES // 20)
    for view in range(3):
        np.testing.assert_array_equal(there.table(view).counts, here.table(view).counts)
    assert here.sha256 == there.sha256
    assert (here.table(1).counts != here.table(0).counts).any()


@pytest.mark.slow
def test_a_killed_worker_comes_back_and_nothing_is_lost(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.hold(shards=2)
    with job.start(out, *on(cluster, *PATIENT, "--workers", "2")) as run:
        run.finished(4)
        killed, other = actors()
        os.kill(killed, signal.SIGKILL)
        run.until(lambda: len(shards(out)) == 6 and len(actors()) == 2, "two shards of a worker in its place")
        assert killed not in actors()
        assert other in actors()
        job.heal()
        ended(run)
    same(out, truth)
    assert len(finished_shards(out)) == SHARDS
    (failure,) = events(out, "failure")
    assert "the worker's process ended at it" in failure["error"]


@pytest.mark.slow
def test_a_killed_driver_is_resumed_without_computing_anything_twice(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.hold(shards=3)
    with job.start(out, *on(cluster, *PATIENT, "--workers", "2")) as run:
        run.finished(6)
        run.process.kill()
        assert run.status() == -signal.SIGKILL
    kept = shards(out)
    assert len(kept) == 6
    stamps = {shard: (out / f"shard-{shard:05d}.parquet").stat().st_mtime_ns for shard in kept}
    wait_for(lambda: not actors(), "end of the dead driver's workers")
    job.heal()
    finish(job, out, *on(cluster))
    same(out, truth)
    assert sorted(finished_shards(out)[-(SHARDS - len(kept)) :]) == sorted(set(range(SHARDS)) - kept)
    assert {shard: (out / f"shard-{shard:05d}.parquet").stat().st_mtime_ns for shard in kept} == stamps
    assert f"(0 of {SHARDS} shards sampled now); smoothed accuracy" in job.run(out, *on(cluster))[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error"), [("raise", "this image cannot be evaluated"), ("die", "the worker's process ended at it")]
)
def test_a_poisoned_shard_is_tried_three_times_and_named_while_the_rest_finishes(
    cluster, job, truth, tmp_path, fault, error
):
    out = tmp_path / "out"
    job.fault(fault)
    status, said, complained = job.run(out, *on(cluster, "--workers", "2"))
    assert (status, said) == (1, ""), complained
    assert f"counts: 1 of {SHARDS} missing shards" in complained
    assert f"failed 3 times each (shards {job.marked})" in complained
    assert "All others are finished." in complained
    assert error in complained
    assert shards(out) == set(range(SHARDS)) - {job.marked}
    failed = [row["shard"] for row in events(out, "failure")]
    assert failed in ([job.marked] * 3, [job.marked] * 4)  # 4: a copy of the third try was on its way
    job.heal()
    finish(job, out, *on(cluster))
    same(out, truth)
    assert finished_shards(out)[-1] == job.marked


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line_and_leaves_no_process(job, truth, tmp_path):
    """On a private Ray of this machine, which the command itself starts and ends."""
    out = tmp_path / "out"
    before = {each.pid for each in descendants()}
    job.hold(shards=3)  # where there is one core, there is room for one worker
    with job.start(out, "--executor", "ray", *PATIENT, "--workers", "2", start_new_session=True) as run:
        run.finished(3)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the whole group
        assert run.status() == 130, run
    assert run.said == ""
    assert "interrupted. What was finished is kept" in run.complained
    assert "Traceback" not in run.complained
    wait_for(lambda: {each.pid for each in descendants()} <= before, "end of all that the command started")
    kept, told = shards(out), len(finished_shards(out))  # the last shard may be on disk and not in the log yet
    assert 3 <= len(kept) <= 6
    assert 0 <= len(kept) - told <= 1
    job.heal()
    finish(job, out, "--executor", "ray")
    same(out, truth)
    assert sorted(finished_shards(out)[told:]) == sorted(set(range(SHARDS)) - kept)


@pytest.mark.slow
def test_a_worker_whose_process_is_broken_is_restarted_and_costs_no_shard(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.fault("break", "0")  # the other worker is held from then on
    with job.start(out, *on(cluster, *PATIENT, "--workers", "2")) as run:
        run.told("failed 3 times in a row; it is restarted")
        job.heal()
        ended(run)
    same(out, truth)
    failures = [row for row in events(out, "failure") if "broken for good" in row["error"]]
    assert [row["worker"] for row in failures] == [failures[0]["worker"]] * 3, run


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(cluster, job, truth, tmp_path):
    """The other one finishes all the rest and waits at a copy of its shard, so that the run goes on until then."""
    out = tmp_path / "out"
    for fault, text in (("stop", ""), ("await", ""), ("slow", "0.05")):
        job.fault(fault, text)
    with job.start(out, *on(cluster, "--workers", "2", "--patience", "3")) as run:
        stopped = run.until(job.stopped, "worker that has stopped")
        run.until(lambda: stopped not in everything(), "end of the stopped worker")
        ended(run)
    same(out, truth)
    silent = re.findall(r"worker (\d) has been silent for too long; it is replaced", str(events(out, "note")))
    assert 1 <= len(silent) == len(set(silent)), run  # said once of a worker; on a busy machine perhaps of both


@pytest.mark.slow
def test_a_straggler_at_the_end_is_copied(cluster, job, truth, tmp_path):
    """Stopped for good, with all the patience in the world: an idle worker finishes its shard."""
    out = tmp_path / "out"
    job.fault("stop")
    with job.start(out, *on(cluster, *PATIENT, "--workers", "2")) as run:
        stopped = run.until(job.stopped, "worker that has stopped")
        ended(run)
    same(out, truth)
    assert events(out, "failure") == []
    wait_for(lambda: stopped not in everything(), "end of the stopped worker")


@pytest.mark.slow
def test_a_lost_node_is_replaced_by_one_that_joins_late(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    node, *others = cluster.nodes
    for other in others:  # the run starts with one node
        cluster.remove(other)
    job.hold(shards=2)
    with job.start(out, *on(cluster, *PATIENT, "--workers", "2")) as run:
        run.finished(4)
        cluster.remove(node, graceful=False)
        run.told("waiting for a first worker")
        job.heal()
        for _ in range(2):
            cluster.add()
        ended(run)
    same(out, truth)
    found = {row["node"] for row in events(out, "shard")}
    assert node.id[:8] in found
    assert found <= {each.id[:8] for each in (node, *cluster.nodes)}


@pytest.mark.slow
def test_workers_that_join_late_are_used(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.hold(shards=1)
    with job.start(out, *on(cluster, *PATIENT)) as run:  # as many workers as there is room for: four
        run.finished(4)
        node = cluster.add()
        run.until(lambda: node.id[:8] in {row["node"] for row in events(out, "shard")}, "shard of the late node")
        job.heal()
        ended(run)
    same(out, truth)
    cluster.remove(node)


@pytest.mark.slow
def test_a_node_that_falls_silent_and_comes_back_changes_nothing(cluster, job, truth, tmp_path):
    """A partition as the driver sees it: one node's raylet and workers answer nobody, and go on afterwards."""
    out = tmp_path / "out"
    job.hold(shards=1)
    node = cluster.nodes[-1]
    with job.start(out, *on(cluster, *PATIENT, "--workers", "4")) as run:
        run.finished(4)
        frozen = [node.pid, *actors(under=node.pid)]
        assert len(frozen) == 3
        signal_all(frozen, signal.SIGSTOP)
        try:
            run.told("is lost; its shards are counted elsewhere")
        finally:
            signal_all(frozen, signal.SIGCONT)
        job.heal()
        ended(run)
    same(out, truth)
    assert sorted(finished_shards(out)) == list(range(SHARDS))
    cluster.remove(node, graceful=False)
    cluster.add()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_a_rerun_finishes(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", out], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        status, said, complained = job.run(out, *on(cluster, "--workers", "2"))
        assert (status, said) == (1, "")
        assert "No space left on device" in complained
        assert "Files finished before are kept." in complained
        kept = shards(out)
        assert 0 < len(kept) < SHARDS
        assert not list(out.glob(".*partial"))
        subprocess.run(["mount", "-o", "remount,size=4m", "none", out], check=True)
        finish(job, out, *on(cluster))
        same(out, truth)
        assert len(finished_shards(out)) == SHARDS
    finally:
        subprocess.run(["umount", out], check=True)


MARGIN = 3_000_000  # KiB


def memory_used() -> tuple[int, int]:
    """KiB of this machine's memory that are in use, and all of it."""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return total - free, total


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_does_not_end_the_others(job, truth, tmp_path, monkeypatch):
    """Ray's memory monitor kills the worker; its threshold lies 3 GB above what the machine uses now."""
    out = tmp_path / "out"
    used, total = memory_used()
    if total - used < 2 * MARGIN:
        pytest.skip("needs 6 GB of free memory")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + MARGIN) / total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    job.fault("hog")
    status, _, complained = job.run(out, "--executor", "ray", "--workers", "2")
    failures = events(out, "failure")
    if {row["shard"] for row in failures} != {job.marked} and abs(memory_used()[0] - used) > MARGIN / 2:
        pytest.skip("other work on this machine took or gave back memory meanwhile: Ray counts that too")
    assert status == 1, complained
    assert f"(shards {job.marked})" in complained
    assert "ran out of memory" in complained
    assert {row["shard"] for row in failures} == {job.marked}
    assert shards(out) == set(range(SHARDS)) - {job.marked}
    job.heal()
    finish(job, out)
    same(out, truth)


@pytest.mark.slow
def test_no_cluster_at_the_address_is_said_at_once(job, tmp_path):
    with socket.socket() as mute:  # a port that is taken and where nobody listens
        mute.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        status, said, complained = job.run(tmp_path / "out", "--executor", "ray", "--address", address)
    assert (status, said) == (1, "")
    # The system's own answer to the first knock: Ray, which would try for minutes, was not asked.
    assert re.search(rf"address: expected a Ray cluster at {address}, got \[Errno \d+\] Connection refused", complained)
    assert "Traceback" not in complained


@pytest.mark.slow
def test_workers_that_cannot_open_the_classifier_end_the_run(cluster, job, tmp_path):
    """The driver can build the network and the nodes cannot: the error says what is missing there."""
    job.fault("unopenable")
    status, said, complained = job.run(tmp_path / "out", *on(cluster, "--workers", "2"))
    assert (status, said) == (1, "")
    assert "workers: none of 2 could start" in complained
    assert "a library that only the driver has" in complained
    assert "Traceback" not in complained
