"""A real Ray cluster of several nodes on this machine, a job of rrise to run on it, and the means to break both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from own_processes import LIMIT, Found, Run, account, descendants, end_all, everything, keep, wait_for

TESTS = Path(__file__).parent
TOKEN = "0123456789abcdef" * 4
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A dead node is noticed after two seconds, a silent one after 16; a busy machine is not taken for a silent one.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    # Ray's workers run at nice 15, where beside two busy processes they get a thirtieth of a core.
    "RAY_worker_niceness": "0",
    # One worker is started for each that is wanted, not one for each core.
    "RAY_prestart_worker_first_driver": "0",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
}
SIDE, CLASSES, IMAGES, SHARD = 8, 5, 60, 3
PASSES = 6
"""Of a shard: 3 images, 100 draws each, in batches of 50."""
STORE_BYTES = 80_000_000


@dataclass(frozen=True)
class Job:
    """A classifier and images on disk, a folder of faults, and the command that samples them."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Job:
        import torch

        from rrise.images import DataConfig, load_splits
        from rrise.training.networks import NetworkSpec, build_network, save_network

        pixels = np.random.default_rng(3).integers(40, 120, (IMAGES + 2, SIDE, SIDE), dtype=np.uint8)
        pixels[0] = 255
        np.savez(folder / "images.npz", x=pixels, y=np.arange(IMAGES + 2) % CLASSES)
        (folder / "faults").mkdir()
        sys.path.insert(0, str(TESTS))
        spec = NetworkSpec("faulty_network:Faulty", {}, CLASSES, (1, SIDE, SIDE), (0.3,), (0.2,))
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
        from rrise.images import DataConfig, load_splits

        train = load_splits(DataConfig(str(self.folder / "images.npz"), train=IMAGES, calibration=1, test=1)).train
        return int(np.flatnonzero((train.images == 255).all(axis=(1, 2)))[0]) // SHARD

    def command(self, out: Path | str, *more: str) -> list[str]:
        data = ["--data.source", str(self.folder / "images.npz"), "--data.train", str(IMAGES)]
        data += ["--data.calibration", "1", "--data.test", "1"]
        sampling = ["--n", "100", "--batch-size", "50", "--shard-size", str(SHARD), "--threads", "1"]
        where = ["--classifier", str(self.folder / "classifier"), "--out", str(out)]
        return [sys.executable, "-m", "rrise", "sample", *where, *sampling, *data, *more]

    def start(self, out: Path | str, *more: str, **options: object) -> Sampling:
        """Start the command; ``--executor ray`` and the rest are in ``more``."""
        environment = os.environ | ENVIRONMENT | {"RRISE_FAULTS": str(self.folder / "faults")}
        return Sampling(self.command(out, *more), Path(out), env=environment, **options)

    def run(self, out: Path | str, *more: str) -> tuple[int, str, str]:
        with self.start(out, *more) as run:
            return run.status(), run.said, run.complained

    def fault(self, name: str, text: str = "") -> None:
        """Set a fault, all at once: who finds the file can read what is in it."""
        new = self.folder / "new fault"
        new.write_text(text)
        new.rename(self.folder / "faults" / name)

    def hold(self, shards: int) -> None:
        """Let each process finish so many shards and wait in the next one."""
        self.fault("hold", str(1 + shards * PASSES))  # one when it opens the classifier

    def stopped(self) -> int | None:
        """The pid of the worker that has stopped itself at the marked image, once it has."""
        pids = [int(path.name.removeprefix("stopped-")) for path in (self.folder / "faults").glob("stopped-*")]
        found = everything().get(pids[0]) if pids else None
        return found.pid if found and found.state == "T" else None

    def heal(self) -> None:
        """Take all faults back."""
        for flag in (self.folder / "faults").iterdir():
            flag.unlink(missing_ok=True)


class Sampling(Run):
    """A run of the command, and what it has written so far."""

    def __init__(self, command: list[str], out: Path, **options: object) -> None:
        self.out = out
        super().__init__(command, **options)

    def until(self, condition: Callable[[], Found], what: str) -> Found:
        """Wait for something that only happens while this goes on."""
        return wait_for(condition, what, self)

    def finished(self, least: int) -> None:
        self.until(lambda: len(shards(self.out)) >= least, f"{least} shards")

    def told(self, text: str) -> None:
        """Wait for a note in the log that holds the text."""
        self.until(lambda: text in str(events(self.out, "note")), f"note {text!r} in the log")

    def __str__(self) -> str:
        rows = "".join(f"\n    {row}" for row in log(self.out)[-8:])
        return f"{super().__str__()}\n  shards {sorted(shards(self.out))}; its log ends:{rows}"


def log(out: Path) -> list[dict]:
    """The lines of a run's log, so far."""
    path = out.with_name(out.name + ".jsonl")
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]  # the last may be half written


def events(out: Path, kind: str) -> list[dict]:
    return [row for row in log(out) if row["event"] == kind]


def shards(out: Path) -> set[int]:
    found = (re.fullmatch(r"shard-(\d+)\.parquet", path.name) for path in out.glob("shard-*"))
    return {int(match[1]) for match in found if match}


def actors(under: int | None = None) -> list[int]:
    """Pids of the actors among this process's descendants, or among another one's."""
    found = descendants() if under is None else descendants(under)
    return [each.pid for each in found if each.line.startswith("ray::ShardActor")]


@dataclass(frozen=True)
class Node:
    """A raylet: its id in the cluster and its process."""

    id: str
    pid: int


class Cluster:
    """A head without CPUs and some nodes, held by a process of its own: Ray reads its environment when imported."""

    def __init__(self, faults: Path, nodes: int) -> None:
        keep()
        self._folder = Path(tempfile.mkdtemp(prefix="rrise-", dir="/tmp"))  # short: it holds Unix sockets
        environment = os.environ | ENVIRONMENT | {"RRISE_FAULTS": str(faults), "RRISE_NODE": "1"}
        with (self._folder / "complaints").open("wb") as complaints:
            self._host = subprocess.Popen(
                [sys.executable, __file__],
                env=environment | {"RAY_TMPDIR": str(self._folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
        self.nodes: list[Node] = []
        try:
            self.address: str = self._ask("address")
            for _ in range(nodes):
                self.add()
        except BaseException:
            self.close()
            raise

    def _ask(self, *words: str):
        late = threading.Timer(LIMIT, self._host.kill)  # then no line comes
        late.start()
        try:
            self._host.stdin.write(" ".join(words) + "\n")
            self._host.stdin.flush()
            while line := self._host.stdout.readline():
                if line.startswith("answer "):
                    return json.loads(line.removeprefix("answer "))
        finally:
            late.cancel()
        complaints = (self._folder / "complaints").read_text(errors="replace")[-3000:]
        raise AssertionError(f"the cluster's host did not {words}: {complaints}\n{account()}")

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
        """Kill all of it: how Ray ends a cluster is not what is tested."""
        end_all(self._host.pid)
        self._host.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


def host() -> None:
    from ray.cluster_utils import Cluster as Raylets

    node = {"object_store_memory": STORE_BYTES, "include_log_monitor": False, "dashboard_agent_listen_port": 0}
    head = node | {"num_cpus": 0, "include_dashboard": False, "no_monitor": True}
    cluster = Raylets(initialize_head=True, head_node_args=head)
    for line in sys.stdin:
        word, *rest = line.split()
        answer: object = None
        if word == "address":
            answer = cluster.address
        elif word == "add":
            added = cluster.add_node(num_cpus=2, **node)
            answer = added.node_id, added.all_processes["raylet"][0].process.pid
        elif word == "remove":
            (found,) = [node for node in cluster.worker_nodes if node.node_id == rest[0]]
            cluster.remove_node(found, allow_graceful=rest[1] == "gracefully")
        print("answer", json.dumps(answer), flush=True)


if __name__ == "__main__":
    host()
