"""A connection to Ray: the user's cluster, or a private one on this machine that leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}


def quieten(address: str) -> str:
    """Set Ray's environment, which it may read when it is first imported, and return the address to join, or none."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    if not wanted and "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray writes a token to the home folder
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return wanted


@contextmanager
def session(address: str, note: Callable[[str], None]) -> Iterator[None]:
    """Join a cluster, or start Ray on this machine for the time of the block.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` or ``auto``; if empty RAY_ADDRESS of the environment, and if that is empty too a private Ray on
        this machine: no dashboard, no usage reports, its files in a temporary folder. A session that the program has
        opened itself is used as it is.
    note : callable
        Gets what Ray would print.

    Raises
    ------
    ConnectionError
        If there is no cluster at the address.
    """
    wanted = quieten(address)
    import ray

    if ray.is_initialized():
        yield
        return
    folder = "" if wanted else tempfile.mkdtemp(prefix="rrise-ray-")
    try:
        with _told(note):
            try:
                _require_listener(wanted)
                _start(wanted, folder)
            except (OSError, RuntimeError, ValueError) as error:
                if not wanted:
                    raise
                raise ConnectionError(
                    f"address: expected a Ray cluster at {wanted}, got {_first_line(error)}. Start one with "
                    "`ray start --head`, or leave the address out to use this machine."
                ) from error
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _require_listener(wanted: str) -> None:
    """Raise OSError at once where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = wanted.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _start(wanted: str, folder: str) -> None:
    import ray

    if wanted:
        ray.init(address=wanted, log_to_driver=False, logging_level="ERROR")
        return
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        _temp_dir=folder,
    )


@contextmanager
def _told(note: Callable[[str], None]) -> Iterator[None]:
    """Give Ray's messages about dying workers to ``note``, one line each, instead of the program's own output."""
    import ray

    module = sys.modules.get("ray._private.worker")
    before: Any = getattr(module, "print_to_stdstream", None)
    if before is None:  # another Ray: it prints as it likes
        yield
        return

    def tell(data: dict[str, Any], *_: Any, **__: Any) -> None:
        if ray.is_initialized() and (lines := [line for line in data.get("lines", []) if line.strip()]):
            note("ray: " + " ".join(lines[0].split())[:500])

    module.print_to_stdstream = tell  # type: ignore[union-attr]
    try:
        yield
    finally:
        module.print_to_stdstream = before  # type: ignore[union-attr]


def capacity(cpus: float, gpus: float) -> int:
    """Return how many workers of that size fit on the living nodes."""
    import ray

    asked = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # Shares such as 0.1 are no exact fractions: a hair more must not cost a worker.
    return sum(min(int(has.get(name, 0) / share + 1e-6) for name, share in asked.items()) for has in living)


def dead_nodes() -> set[str]:
    """Return the ids of the nodes that the cluster has lost."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
