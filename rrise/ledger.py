"""What a run has already made, and from what: the record that lets a second run skip, redo or refuse a stage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Facts = Mapping[str, object]
"""What an artifact was made from: settings by their recipe key, and the sha256 of each input artifact."""


def tree_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their relative names, signatures of bundles apart."""
    digest = hashlib.sha256()
    found = (
        file for file in path.rglob("*") if file.is_file() and file.name != "bundle.sig"
    )  # signing changes nothing
    files = [path] if path.is_file() else sorted(found)
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            content = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                content.update(chunk)
            digest.update(content.digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Verdict:
    """Whether an artifact can be kept: ``state`` is missing, done, stale or damaged; ``why`` says it in words."""

    state: str
    why: str


@dataclass(frozen=True)
class Ledger:
    """One JSON file a stage under ``folder``, written after the stage's artifact is complete."""

    folder: Path

    def verdict(self, stage: str, facts: Facts, artifact: Path) -> Verdict:
        """Compare what the artifact was made from with what it would be made from now."""
        record = self.folder / f"{stage}.json"
        if not artifact.exists():
            return Verdict("missing", f"{artifact} does not exist")
        if not record.exists():
            return Verdict("missing", f"{artifact} was not finished")
        known = json.loads(record.read_text())
        now = json.loads(json.dumps(facts))
        keys = sorted(known["facts"].keys() | now.keys())
        changes = [
            f"{key} was {_short(known['facts'].get(key))}, now {_short(now.get(key))}"
            for key in keys
            if known["facts"].get(key) != now.get(key)
        ]
        if changes:
            return Verdict("stale", "; ".join(changes[:3]) + (f"; {len(changes) - 3} more" if len(changes) > 3 else ""))
        found = tree_sha256(artifact)
        if found != known["sha256"]:
            return Verdict("damaged", f"sha256 of {artifact} is {found[:12]}, recorded {known['sha256'][:12]}")
        return Verdict("done", "made from the same settings and inputs")

    def record(self, stage: str, facts: Facts, artifact: Path, *, seconds: float | None = None) -> None:
        """Note that an artifact is complete (atomically: a reader sees the old record or the new one), and its time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        noted = {"facts": facts, "sha256": tree_sha256(artifact)} | ({} if seconds is None else {"seconds": seconds})
        content = json.dumps(noted, indent=1, sort_keys=True)
        partial = self.folder / f".{stage}.json.partial"
        partial.write_text(content + "\n")
        os.replace(partial, self.folder / f"{stage}.json")

    def seconds(self, *stages: str) -> float | None:
        """Return how long some stages took when they were made, None unless all of them were timed."""
        total = 0.0
        for stage in stages:
            record = self.folder / f"{stage}.json"
            seconds = json.loads(record.read_text()).get("seconds") if record.exists() else None
            if seconds is None:
                return None
            total += seconds
        return total

    def set_aside(self, stage: str, artifact: Path) -> Path:
        """Move an artifact (and its record) to ``superseded/`` beside it, so that nothing finished is lost."""
        shelf = self.folder.parent / "superseded"
        shelf.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for entry in shelf.iterdir() if entry.name.rpartition("-")[0] == stage)
        target = shelf / f"{stage}-{number}"
        artifact.rename(target)
        (self.folder / f"{stage}.json").unlink(missing_ok=True)
        return target


def _short(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "unset" if value is None else str(value)
