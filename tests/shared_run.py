"""A finished run that the worker processes of a test run share, and that the next test run finds again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import rrise
from rrise.ledger import tree_sha256
from rrise.recipe import Recipe, load_recipe, run

SMALL = (
    "data.train=300",
    "data.calibration=150",
    "data.test=40",
    "train.epochs=20",
    "sample.n=100",
    "sample.shard_size=20",
    "targets.n=100",
    "execution.threads=1",
    "fit.epochs=[20]",
    "rival.epochs=[5]",
    "calibrate.gamma=0.2",
    "calibrate.n=300",
    "evaluate.n_selection=20",
    "evaluate.n_larger=250",
    "evaluate.n_reference=300",
    "evaluate.latency_images=2",
)
KEPT_SECONDS = 24 * 3600
"""How long runs of other code are kept: another test run may still read one."""


def small_recipe(out: Path, *more: str) -> Recipe:
    return load_recipe("digits", [*SMALL, f"out={out}", *more])


def code_sha256() -> str:
    """Return a digest of all that a run depends on besides its recipe: rrise's files, this one, installed packages.

    A run made by other code is no run of this code, whatever its ledger says: a broken calibration, say, would be
    tested on the bundle of a sound one.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    package = Path(rrise.__file__).parent
    for file in sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{file.relative_to(package)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    for name in sorted(f"{found.name}=={found.version}" for found in distributions()):
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time; its end, however it comes, sets it free."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class SharedRun:
    """A finished run of :func:`small_recipe`.

    Parameters
    ----------
    folder : Path
        Not to be changed.
    said : list of str
        Its lines when it was made.
    sha256 : str
        Of the folder.
    """

    folder: Path
    said: list[str]
    sha256: str

    @classmethod
    def under(cls, cache: Path) -> SharedRun:
        """Return the run of this code in a folder of such runs, made now if there is none that is whole."""
        with locked(cache / "lock"):
            for old in cache.iterdir():
                if old.is_dir() and time.time() - old.stat().st_mtime > KEPT_SECONDS:
                    shutil.rmtree(old)
            place = cache / code_sha256()[:16]
            place.mkdir(exist_ok=True)
            os.utime(place)
            folder, record = place / "digits", place / "said.json"
            if record.exists():
                known = json.loads(record.read_text())
                if folder.exists() and tree_sha256(folder) == known["sha256"]:
                    _require_kept(folder)
                    return cls(folder, known["said"], known["sha256"])
                record.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            said: list[str] = []
            report = run(small_recipe(folder), say=said.append, progress=False)
            assert report == folder / "evaluation" / "report.html"
            made = cls(folder, said, tree_sha256(folder))
            record.write_text(json.dumps({"said": said, "sha256": made.sha256}))
            return made

    def require_unchanged(self) -> None:
        """Refuse a run that a test has changed under the others."""
        found = tree_sha256(self.folder)
        assert found == self.sha256, f"a test changed the shared run in {self.folder}; take a copy of it there"


def _require_kept(folder: Path) -> None:
    """Ask the run's own ledger whether anything of it is stale."""
    said: list[str] = []
    run(small_recipe(folder), say=said.append, progress=False)
    again = [line for line in said if not line.startswith("data: ") and not line.endswith("done before, kept")]
    assert not again, f"the shared run was made by the same code from other settings: {again}"
