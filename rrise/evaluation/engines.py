"""What each engine and precision costs in certified radius and gains in latency, as one table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

SCHEMA = "rrise-engines/1"
_COLUMNS = (
    *("bundle", "engine", "precision", "size", "certified", "mean r", "ratio", "abstains", "other label"),
    *("p50", "p99", "speed"),
)


@dataclass(frozen=True)
class EnginesConfig:
    """How engines are compared."""

    timed_images: int = field(default=50, metadata={"help": "test images whose certificates are timed"})
    repeats: int = field(default=20, metadata={"help": "times each of them is timed"})

    def __post_init__(self) -> None:
        for name in ("timed_images", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}. Try the default.")


@dataclass(frozen=True)
class EngineRow:
    """One bundle's line.

    Parameters
    ----------
    bundle : str
        Its name in the table.
    engine, device, precision : str
        Kind and version of the runtime, where it ran, and the network's arithmetic.
    engine_bytes : int
        Size of the engine file.
    certified_accuracy : float
        Share of the test images certified with their true label, at radius 0.
    average_certified_radius : float
        ℓ2 in [0, 1] pixels; wrong and withheld labels count as 0.
    abstention : float
        Share of the test images.
    label_changes : float
        Share of the test images on which the engine's label is not the first bundle's.
    p50_ms, p99_ms : float
        Time of one certificate of one image.
    """

    bundle: str
    engine: str
    device: str
    precision: str
    engine_bytes: int
    certified_accuracy: float
    average_certified_radius: float
    abstention: float
    label_changes: float
    p50_ms: float
    p99_ms: float


def as_json(rows: Sequence[EngineRow], *, images: int, threads: int) -> str:
    """Return the table as JSON text of schema ``rrise-engines/1``; its times differ from run to run."""
    body = {"schema": SCHEMA, "images": images, "threads": threads, "bundles": [asdict(row) for row in rows]}
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(rows: Sequence[EngineRow], *, images: int, threads: int) -> str:
    """Return the table as Markdown; ratios are to its first line."""
    first = rows[0]
    lines = [
        f"{images} test images, one at a time, {threads} thread{'s' * (threads > 1)}; ratios to the first line.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- | --- | --- |" + " ---: |" * (len(_COLUMNS) - 3),
    ]
    for row in rows:
        ratio = _over(row.average_certified_radius, first.average_certified_radius)
        cells = [
            row.bundle,
            row.engine if row.device == "cpu" else f"{row.engine}, {row.device}",
            row.precision,
            f"{row.engine_bytes / 1e6:.2f} MB",
            f"{row.certified_accuracy:.1%}",
            f"{row.average_certified_radius:.4f}",
            "–" if math.isnan(ratio) else f"{ratio:.3f}",
            f"{row.abstention:.1%}",
            f"{row.label_changes:.1%}",
            f"{row.p50_ms:.3f} ms",
            f"{row.p99_ms:.3f} ms",
            f"{first.p50_ms / row.p50_ms:.2f} ×",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _over(value: float, base: float) -> float:
    return value / base if base > 0 else math.nan
