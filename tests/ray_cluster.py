"""A real Ray cluster of several nodes on this machine, a job of rrise to run on it, and the means to break both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent
TOKEN = "0123456789abcdef" * 4
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A dead node is noticed after a second or two instead of 15.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "PYTHONPATH": str(TESTS),
}
SIDE, CLASSES, IMAGES, SHARD = 8, 5, 60, 3
STORE_BYTES = 80_000_000


@dataclass(frozen=True)
class Job:
    """A classifier and images on disk, a folder of faults, and the command that samples them."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, slow: float) -> Job:
        import torch

        from rrise.data import DataConfig, load_splits
        from rrise.training.networks import NetworkSpec, build_network, save_network

        pixels = np.random.default_rng(3).integers(40, 120, (IMAGES + 2, SIDE, SIDE), dtype=np.uint8)
        pixels[0] = 255
        np.savez(folder / "images.npz", x=pixels, y=np.arange(IMAGES + 2) % CLASSES)
        (folder / "faults").mkdir()
        sys.path.insert(0, str(TESTS))
        spec = NetworkSpec("faulty_network:Faulty", {"slow": slow}, CLASSES, (1, SIDE, SIDE), (0.3,), (0.2,))
        module = build_network(spec)
        with torch.no_grad():
            module.network.linear.bias.zero_()
        config = DataConfig(str(folder / "images.npz"), train=IMAGES, calibration=1, test=1)
        splits = load_splits(config)
        if pixels[0].tobytes() not in {image.tobytes() for image in splits.train.images}:
            raise AssertionError("the marked image must be among those that are sampled")
        save_network(folder / "classifier", spec, module, splits.train.ids[:0])
        return cls(folder)

    @property
    def marked(self) -> int:
        """The shard of the image that sets off the faults."""
        from rrise.data import DataConfig, load_splits

        train = load_splits(DataConfig(str(self.folder / "images.npz"), train=IMAGES, calibration=1, test=1)).train
        return int(np.flatnonzero((train.images == 255).all(axis=(1, 2)))[0]) // SHARD

    def command(self, out: Path | str, *more: str) -> list[str]:
        data = ["--data.source", str(self.folder / "images.npz"), "--data.train", str(IMAGES)]
        data += ["--data.calibration", "1", "--data.test", "1"]
        sampling = ["--n", "100", "--batch-size", "50", "--shard-size", str(SHARD), "--threads", "1"]
        where = ["--classifier", str(self.folder / "classifier"), "--out", str(out)]
        return [sys.executable, "-m", "rrise", "sample", *where, *sampling, *data, *more]

    def start(self, out: Path | str, *more: str, **options: object) -> subprocess.Popen[str]:
        """Start the command; ``--executor ray`` and the rest are in ``more``."""
        environment = os.environ | ENVIRONMENT | {"RRISE_FAULTS": str(self.folder / "faults")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.command(out, *more), env=environment, **pipes, **options)

    def run(self, out: Path | str, *more: str, timeout: float = 360) -> tuple[int, str, str]:
        process = self.start(out, *more)
        said, complained = process.communicate(timeout=timeout)
        return process.returncode, said, complained

    def fault(self, name: str, on: bool = True) -> None:
        flag = self.folder / "faults" / name
        flag.touch() if on else flag.unlink(missing_ok=True)


def log(out: Path) -> list[dict]:
    """The lines of a run's log, so far."""
    path = out.with_name(out.name + ".jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def shards(out: Path) -> set[int]:
    found = (re.fullmatch(r"shard-(\d+)\.parquet", path.name) for path in out.glob("shard-*"))
    return {int(match[1]) for match in found if match}


PATIENCE = 4
"""Times longer than it takes on an idle machine: a limit is there to end what hangs, not what waits for a core."""


def wait_for(condition, what: str, timeout: float = 60.0, every: float = 0.05):
    """Return what the condition gives once it is true."""
    end = time.monotonic() + PATIENCE * timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"no {what} within {PATIENCE * timeout:g} s")


def processes(title: str, under: int | None = None) -> list[int]:
    """Pids whose command line starts with the title, of this test's clusters; ``under``: descendants of that pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = TOKEN.encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        pid = int(entry.name)
        if line.startswith(title) and ours and (under is None or under in ancestors(pid)):
            found.append(pid)
    return sorted(found)


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def actors(under: int | None = None) -> list[int]:
    return processes("ray::ShardActor", under)


@dataclass(frozen=True)
class Node:
    """A raylet: its id in the cluster and its process."""

    id: str
    pid: int


class Cluster:
    """A head without CPUs and some nodes, held by a process of its own: Ray reads its environment when imported."""

    def __init__(self, faults: Path, nodes: int) -> None:
        environment = os.environ | ENVIRONMENT | {"RRISE_FAULTS": str(faults), "RRISE_NODE": "1"}
        self._host = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address: str = self._ask("address")
        self.nodes: list[Node] = []
        for _ in range(nodes):
            self.add()

    def _ask(self, *words: str):
        self._host.stdin.write(" ".join(words) + "\n")
        self._host.stdin.flush()
        while line := self._host.stdout.readline():
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise AssertionError("the cluster's host is gone")

    def add(self) -> Node:
        """Add a node of two CPUs."""
        node = Node(*self._ask("add"))
        self.nodes.append(node)
        return node

    def remove(self, node: Node, graceful: bool = True) -> None:
        """Remove a node; not gracefully: kill its raylet."""
        self._ask("remove", node.id, "gracefully" if graceful else "killed")
        self.nodes.remove(node)

    def close(self) -> None:
        self._host.communicate("quit\n", timeout=240)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def host() -> None:
    from ray.cluster_utils import Cluster as Raylets

    cluster = Raylets(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    for line in sys.stdin:
        word, *rest = line.split()
        answer: object = None
        if word == "address":
            answer = cluster.address
        elif word == "add":
            node = cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)
            answer = node.node_id, node.all_processes["raylet"][0].process.pid
        elif word == "remove":
            (found,) = [node for node in cluster.worker_nodes if node.node_id == rest[0]]
            cluster.remove_node(found, allow_graceful=rest[1] == "gracefully")
        else:
            break
        print("answer", json.dumps(answer), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    host()
