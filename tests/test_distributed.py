"""Ray: the same counts to the bit from any number of workers, through failures made for real on real raylets."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from ray_cluster import IMAGES, SHARD, Cluster, Job, actors, log, shards, signal_all, wait_for

from rrise.targets.store import CountStore

if importlib.util.find_spec("ray") is None:  # Ray reads its environment when imported: not in this process
    pytest.skip("needs rrise[cluster]", allow_module_level=True)
SHARDS = IMAGES // SHARD


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job.at(tmp_path_factory.mktemp("job"), slow=0.05)  # 6 passes a shard: 0.3 s


@pytest.fixture(scope="module")
def truth(job: Job) -> np.ndarray:
    """The counts of a run in one process."""
    out = job.folder / "truth"
    status, _, complained = job.run(out)
    assert status == 0, complained
    counts = CountStore.open(out).table().counts
    assert (counts > 0).sum() > 3 * IMAGES  # labels do vary under the noise
    return counts


@pytest.fixture(scope="module")
def cluster(job: Job):
    """A head without CPUs and two nodes of two CPUs each: three raylets."""
    made = Cluster(job.folder / "faults", nodes=2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_worker_of_another_test() -> None:
    """Workers outlive their run by a moment; a test that stops or kills one must not take one of the test before."""
    wait_for(lambda: not actors(), "end of the last run's workers")


def on(cluster, *more: str) -> list[str]:
    return ["--executor", "ray", "--address", cluster.address, *more]


def same(out: Path, truth: np.ndarray) -> None:
    np.testing.assert_array_equal(CountStore.open(out).table().counts, truth)


def finished_shards(out: Path) -> list[int]:
    return [row["shard"] for row in log(out) if row["event"] == "shard"]


def started(process, out: Path, least: int = 3) -> None:
    wait_for(lambda: len(shards(out)) >= least or process.poll() is not None, f"{least} shards")
    assert process.poll() is None, process.stderr.read()


def ended(process, timeout: float = 360) -> str:
    said, complained = process.communicate(timeout=timeout)
    assert process.returncode == 0, complained
    assert said.startswith(f"{IMAGES} images"), said  # nothing of Ray's on stdout
    assert said.count("\n") == 1
    return complained


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_gives_the_same_counts(cluster, job, truth, tmp_path, workers):
    ended(job.start(tmp_path / "out", *on(cluster, "--workers", str(workers))))
    same(tmp_path / "out", truth)
    rows = log(tmp_path / "out")
    assert {row["worker"] for row in rows if row["event"] == "shard"} == set(range(workers))
    assert sorted(finished_shards(tmp_path / "out")) == list(range(SHARDS))
    assert rows[-1]["event"] == "end"
    assert rows[-1]["evaluations"] == IMAGES * 100


def test_views_are_counted_as_in_this_process(cluster, job, tmp_path):
    views = ["--targets.views", "3", "--targets.n", "5", "--targets.shift", "2", "--targets.flip", "--shard-size", "1"]
    status, said, complained = job.run(tmp_path / "here", *views)
    assert (status, said.split(" in ")[0]) == (0, f"{IMAGES} images × 3 views × 5 draws"), complained
    ended(job.start(tmp_path / "there", *views, *on(cluster, "--workers", "2")))
    here, there = (CountStore.open(tmp_path / name) for name in ("here", "there"))
    assert here.manifest.images_per_pass > 1
    assert here.shards == 3 * -(-IMAGES // 20)
    for view in range(3):
        np.testing.assert_array_equal(there.table(view).counts, here.table(view).counts)
    assert here.sha256 == there.sha256
    assert (here.table(1).counts != here.table(0).counts).any()


def test_a_killed_worker_comes_back_and_nothing_is_lost(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    process = job.start(out, *on(cluster, "--workers", "2"))
    started(process, out)
    killed = actors()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(actors()) == 2 and killed not in actors(), "worker in its place")
    ended(process)
    same(out, truth)
    assert len(finished_shards(out)) == SHARDS
    failures = [row for row in log(out) if row["event"] == "failure"]
    assert len(failures) == 1
    assert "the worker's process ended at it" in failures[0]["error"]


@pytest.mark.slow
def test_a_killed_driver_is_resumed_without_computing_anything_twice(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    process = job.start(out, *on(cluster, "--workers", "2"))
    started(process, out, 5)
    process.kill()
    process.communicate()
    kept = shards(out)
    stamps = {shard: (out / f"shard-{shard:05d}.parquet").stat().st_mtime_ns for shard in kept}
    wait_for(lambda: not actors(), "end of the dead driver's workers")
    ended(job.start(out, *on(cluster)))
    same(out, truth)
    assert sorted(finished_shards(out)[-(SHARDS - len(kept)) :]) == sorted(set(range(SHARDS)) - kept)
    assert {shard: (out / f"shard-{shard:05d}.parquet").stat().st_mtime_ns for shard in kept} == stamps
    assert job.run(out, *on(cluster))[1].endswith(f"(0 of {SHARDS} shards sampled now)\n")


@pytest.mark.parametrize(
    ("fault", "error"), [("raise", "this image cannot be evaluated"), ("die", "the worker's process ended at it")]
)
def test_a_poisoned_shard_is_tried_three_times_and_named_while_the_rest_finishes(
    cluster, job, truth, tmp_path, fault, error
):
    out = tmp_path / "out"
    job.fault(fault)
    try:
        status, said, complained = job.run(out, *on(cluster, "--workers", "2"))
    finally:
        job.fault(fault, on=False)
    assert (status, said) == (1, "")
    assert f"counts: 1 of {SHARDS} missing shards" in complained
    assert f"(shards {job.marked})" in complained
    assert "All others are finished." in complained
    assert error in complained
    assert shards(out) == set(range(SHARDS)) - {job.marked}
    failures = [row for row in log(out) if row["event"] == "failure"]
    assert [row["shard"] for row in failures] == [job.marked] * 3
    ended(job.start(out, *on(cluster)))
    same(out, truth)
    assert finished_shards(out)[-1] == job.marked


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line_and_leaves_no_process(job, truth, tmp_path):
    """On a private Ray of this machine, which the command itself starts and ends."""
    out = tmp_path / "out"
    process = job.start(out, "--executor", "ray", "--workers", "2", start_new_session=True)
    started(process, out)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    said, complained = process.communicate(timeout=240)
    assert process.returncode == 130, complained
    assert said == ""
    assert "interrupted. What was finished is kept" in complained
    assert "Traceback" not in complained
    wait_for(lambda: not actors(), "end of the workers", 10)
    kept, told = shards(out), len(finished_shards(out))  # the last shard may be on disk and not in the log yet
    assert 3 <= len(kept) < SHARDS
    assert 0 <= len(kept) - told <= 1
    ended(job.start(out, "--executor", "ray"))
    same(out, truth)
    assert sorted(finished_shards(out)[told:]) == sorted(set(range(SHARDS)) - kept)


@pytest.mark.slow
def test_a_worker_whose_process_is_broken_is_restarted_and_costs_no_shard(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.fault("break")
    job.fault("slow")
    try:
        complained = ended(job.start(out, *on(cluster, "--workers", "2")))
    finally:
        job.fault("slow", on=False)
    same(out, truth)
    failures = [row for row in log(out) if row["event"] == "failure" and "broken for good" in row["error"]]
    assert [row["worker"] for row in failures] == [failures[0]["worker"]] * 3, complained
    assert "failed 3 times in a row; it is restarted" in str(log(out))


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.fault("slow")  # and small shards: far more work is left than the ten shards' time that silence is borne
    try:
        process = job.start(out, *on(cluster, "--workers", "2", "--patience", "3", "--shard-size", "1"))
        started(process, out)
        stopped = actors()[0]
        os.kill(stopped, signal.SIGSTOP)
        wait_for(lambda: stopped not in actors(), "end of the stopped worker")
    finally:
        job.fault("slow", on=False)
    complained = ended(process)
    assert str(log(out)).count("has been silent for too long; it is replaced") == 1, complained
    same(out, truth)


@pytest.mark.slow
def test_a_straggler_at_the_end_is_copied(cluster, job, truth, tmp_path):
    """Stopped for good, with all the patience in the world: an idle worker finishes its shard."""
    out = tmp_path / "out"
    process = job.start(out, *on(cluster, "--workers", "2", "--patience", "1000"))
    started(process, out)
    stopped = actors()[0]
    os.kill(stopped, signal.SIGSTOP)
    ended(process)
    same(out, truth)
    wait_for(lambda: stopped not in actors(), "end of the stopped worker", 30)


@pytest.mark.slow
def test_a_lost_node_is_replaced_by_one_that_joins_late(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    node, *others = cluster.nodes
    for other in others:  # the run starts with one node
        cluster.remove(other)
    process = job.start(out, *on(cluster, "--workers", "2"))
    started(process, out)
    cluster.remove(node, graceful=False)
    wait_for(lambda: [row for row in log(out) if row["event"] == "note" and "waiting" in row["text"]], "word of it")
    for _ in range(2):
        cluster.add()
    ended(process)
    same(out, truth)
    nodes = {row["node"] for row in log(out) if row["event"] == "shard"}
    assert len(nodes) >= 2


@pytest.mark.slow
def test_workers_that_join_late_are_used(cluster, job, truth, tmp_path):
    out = tmp_path / "out"
    job.fault("slow")
    try:
        process = job.start(out, *on(cluster))  # as many workers as there is room for: four
        started(process, out, 1)
        job.fault("hold")  # on a busy machine the others would be done before the late one has started
        node = cluster.add()
        wait_for(lambda: actors(under=node.pid), "a worker on the late node")
        job.fault("hold", on=False)
        ended(process)
    finally:
        job.fault("hold", on=False)
        job.fault("slow", on=False)
    same(out, truth)
    assert node.id[:8] in {row["node"] for row in log(out) if row["event"] == "shard"}
    cluster.remove(node)


@pytest.mark.slow
def test_a_node_that_falls_silent_and_comes_back_changes_nothing(cluster, job, truth, tmp_path):
    """A partition as the driver sees it: one node's raylet and workers answer nobody, and go on afterwards."""
    out = tmp_path / "out"
    job.fault("slow")
    try:
        process = job.start(out, *on(cluster, "--workers", "4"))
        started(process, out)
        node = cluster.nodes[-1]
        frozen = [node.pid, *actors(under=node.pid)]
        assert len(frozen) > 1
        signal_all(frozen, signal.SIGSTOP)
        wait_for(lambda: [row for row in log(out) if "is lost" in row.get("text", "")], "word of the lost node")
        signal_all([pid for pid in frozen if Path(f"/proc/{pid}").exists()], signal.SIGCONT)
        ended(process)
    finally:
        job.fault("slow", on=False)
    same(out, truth)
    assert sorted(finished_shards(out)) == list(range(SHARDS))
    cluster.remove(node, graceful=False)
    cluster.add()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_a_rerun_finishes(cluster, job, truth, tmp_path):
    import subprocess

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
        ended(job.start(out, *on(cluster)))
        same(out, truth)
        assert len(finished_shards(out)) == SHARDS
    finally:
        subprocess.run(["umount", out], check=True)


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_does_not_end_the_others(job, truth, tmp_path):
    """Ray's memory monitor kills the worker; its threshold lies 3 GB above what the machine uses now."""
    out = tmp_path / "out"
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    if free < 6_000_000:
        pytest.skip("needs 6 GB of free memory")
    job.fault("hog")
    threshold = (total - free + 3_000_000) / total
    environment = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        status, _, complained = job.run(out, "--executor", "ray", "--workers", "2", timeout=480)
    finally:
        os.environ.clear()
        os.environ.update(before)
        job.fault("hog", on=False)
    assert status == 1, complained
    assert f"(shards {job.marked})" in complained
    assert "ran out of memory" in complained
    assert len([row for row in log(out) if row["event"] == "failure"]) == 3
    assert shards(out) == set(range(SHARDS)) - {job.marked}
    ended(job.start(out))
    same(out, truth)


def test_no_cluster_at_the_address_is_said_at_once(job, tmp_path):
    begin = time.monotonic()
    status, said, complained = job.run(tmp_path / "out", "--executor", "ray", "--address", "127.0.0.1:9")
    assert (status, said) == (1, "")
    assert "address: expected a Ray cluster at 127.0.0.1:9" in complained
    assert "Traceback" not in complained
    assert time.monotonic() - begin < 60


def test_workers_that_cannot_open_the_classifier_end_the_run(cluster, job, tmp_path):
    """The driver can build the network and the nodes cannot: the error says what is missing there."""
    job.fault("unopenable")
    try:
        status, said, complained = job.run(tmp_path / "out", *on(cluster, "--workers", "2"))
    finally:
        job.fault("unopenable", on=False)
    assert (status, said) == (1, "")
    assert "workers: none of 2 could start" in complained
    assert "a library that only the driver has" in complained
    assert "Traceback" not in complained
