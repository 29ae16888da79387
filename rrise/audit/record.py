"""What an audit has found so far, and the file in which it survives a restart."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.audit.bets import LARGEST
from rrise.audit.drift import CELLS, DRIFT_BETS, Drift
from rrise.audit.eprocess import BETS, EProcess
from rrise.runtime.bundle_schema import digest
from rrise.runtime.documents import Fields, canonical_json, parse_json, read_file

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

FORMAT = "rrise-audit/1"
_MOST = 1 << 20  # bytes of a state file; it has about 6 thousand
_COUNTERS = ("abstained", "dropped", "evaluations", "failed", "served")
_MOST_STARTS = 1 << 24


@dataclass(frozen=True, eq=False)
class Record:
    """All that an audit remembers.

    Parameters
    ----------
    bundle_sha256 : str
        The bundle whose certificates are audited.
    start : int
        How many auditors have begun on this record; names their random numbers, so that none are drawn twice.
    evidence : EProcess
    drift : Drift
    served : int
        Inputs certified.
    abstained : int
        Audited inputs that were abstained on; they cost nothing and count as not refuted.
    dropped : int
        Chosen inputs that were not audited because the queue was full or the auditor closed.
    failed : int
        Chosen inputs whose audit raised an error; they are not in the evidence.
    evaluations : int
        Noisy evaluations of the base classifier spent.
    """

    bundle_sha256: str
    start: int
    evidence: EProcess
    drift: Drift
    served: int = 0
    abstained: int = 0
    dropped: int = 0
    failed: int = 0
    evaluations: int = 0

    def as_json(self) -> bytes:
        """Return the record as the bytes of a state file."""
        e, d = self.evidence, self.drift
        content: dict[str, Any] = {
            "format": FORMAT,
            "bundle_sha256": self.bundle_sha256,
            "start": self.start,
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "evidence": {
                "m": e.m,
                "audits": e.audits,
                "refuted": e.refuted,
                "capital": e.capital.tolist(),
                "largest": e.largest,
            },
            "drift": {
                "counts": d.counts.tolist(),
                "steps": d.steps,
                "capital": d.capital.tolist(),
                "largest": d.largest,
            },
        }
        return canonical_json({**content, "sha256": digest(content)}, "audit state")

    @classmethod
    def parse(cls, data: bytes) -> Record:
        """Return the record of a state file, or raise ValueError naming what is damaged."""
        content = parse_json(data, "audit state")
        fields = Fields(content, "audit state", "Restore the file, or name a new one and lose what was found.")
        fields.value("format", str, repr(FORMAT), lambda name: name == FORMAT)
        own = digest(content)
        fields.value("sha256", str, f"its content's, {own}", lambda recorded: recorded == own)
        fields.exactly("bundle_sha256", "counters", "drift", "evidence", "format", "sha256", "start")
        counters = fields.section("counters")
        counters.exactly(*_COUNTERS)
        return cls(
            fields.value("bundle_sha256", str, "a sha256", lambda text: len(text) == 64),
            fields.value("start", int, f"1 to {_MOST_STARTS - 1}", lambda start: 1 <= start < _MOST_STARTS),
            _evidence(fields.section("evidence")),
            _drift(fields.section("drift")),
            **{name: _count(counters, name) for name in _COUNTERS},
        )


def resume(path: Path | None, fresh: Record) -> Record:
    """Return the record to go on with: that of the file if there is one, else ``fresh``; under a new start, on disk.

    Raises
    ------
    ValueError
        If the file is damaged, or of another bundle or another promised rate.
    OSError
        If it cannot be written.
    """
    if path is None:
        return fresh
    found = fresh
    try:
        data = read_file(path, _MOST, "audit state")
    except FileNotFoundError:
        pass
    else:
        found = Record.parse(data)
        for name, wanted, got in (
            ("bundle", fresh.bundle_sha256, found.bundle_sha256),
            ("promised rate m", fresh.evidence.m, found.evidence.m),
        ):
            if got != wanted:
                raise ValueError(
                    f"audit state: expected that of {name} {wanted}, got {got} in {path}. Evidence about one says "
                    "nothing about another; name another file."
                )
        found = replace(found, start=found.start + 1)
    write(path, found)
    return found


def save(path: Path, record: Record) -> None:
    """Write the record in place of an earlier one of the same start.

    Raises
    ------
    ValueError
        If another auditor has begun on the file meanwhile: each would undo what the other found.
    OSError
        If it cannot be written.
    """
    there = parse_json(read_file(path, _MOST, "audit state"), "audit state").get("start")
    if there != record.start:
        raise ValueError(
            f"audit state: expected start {record.start} in {path}, got {there}: another auditor uses the file. Give "
            "each its own."
        )
    write(path, record)


def write(path: Path, record: Record) -> None:
    """Put the record on disk: the whole file, or the one before it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(record.as_json())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _evidence(fields: Fields) -> EProcess:
    fields.exactly("audits", "capital", "largest", "m", "refuted")
    audits = _count(fields, "audits")
    return EProcess(
        fields.value("m", float, "a rate between 0 and 1", lambda m: 0.0 < m < 1.0),
        audits,
        fields.value("refuted", int, f"0 to audits = {audits}", lambda refuted: 0 <= refuted <= audits),
        _money(fields, BETS),
        _largest(fields),
    )


def _drift(fields: Fields) -> Drift:
    fields.exactly("capital", "counts", "largest", "steps")
    expected = f"{CELLS + 1} counts"
    counts = fields.values("counts", int, expected, lambda count: 0 <= count < 1 << 62)
    if len(counts) != CELLS + 1:
        fields.refuse("counts", expected)
    return Drift(np.array(counts, np.int64), _count(fields, "steps"), _money(fields, DRIFT_BETS), _largest(fields))


def _money(fields: Fields, bets: int) -> NDArray[np.float64]:
    expected = f"{bets} amounts from 0 to {LARGEST:g}"
    amounts = fields.values("capital", float, expected, lambda amount: 0.0 <= amount <= LARGEST)
    if len(amounts) != bets:
        fields.refuse("capital", expected)
    return np.array(amounts, np.float64)


def _largest(fields: Fields) -> float:
    return fields.value("largest", float, "at least 1.0", lambda value: 1.0 <= value <= 2 * LARGEST)


def _count(fields: Fields, name: str) -> int:
    return fields.value(name, int, "a count", lambda count: 0 <= count < 1 << 62)
