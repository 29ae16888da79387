"""A comparison as text: JSON for programs, Markdown for people. No time enters it, so equal runs give equal text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rrise.evaluation import metrics
from rrise.evaluation.cascade_table import HEAD, cascades, explained
from rrise.evaluation.comparison import Comparison, Row
from rrise.evaluation.costs import Costs
from rrise.promise import complement, percent

METRICS_SCHEMA = "rrise-metrics/1"


def as_json(comparison: Comparison) -> str:
    """Return the comparison as JSON text of schema ``rrise-metrics/1``, without any time: equal runs give equal text.

    Shares are given as count and total, undefined values as null.
    """
    body = {
        "schema": METRICS_SCHEMA,
        "images": comparison.images,
        "sigma": comparison.sigma,
        "n_reference": comparison.n_reference,
        "refutation_level": metrics.REFUTATION_LEVEL,
        "lower_confidence": metrics.LOWER_CONFIDENCE,
        "radius_unit": "l2 distance, pixel values in [0, 1]",
        "radii": list(comparison.radii),
        "deployed": comparison.deployed,
        "baseline": comparison.baseline,
        "larger_baseline": comparison.larger or None,
        "certifiers": [asdict(row) for row in comparison.rows],
        **({"cascades": [asdict(line) for line in found]} if (found := cascades(comparison)) else {}),
        "costs": _untimed(comparison.costs),
        "provenance": dict(comparison.provenance),
    }
    return json.dumps(_finite(body), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """Return two tables, a third of cascades if there are any, and the guarantees as Markdown.

    No time is in them: equal runs give equal text.
    """
    rows = comparison.rows
    second = ["of larger"] if comparison.larger else []
    radii = [f"r ≥ {radius:g}" for radius in comparison.radii]
    certified = [
        ["certifier", "passes", *radii, "mean r", "ratio", *second, "abstains"],
        *(
            [
                row.name,
                f"{row.forward_passes:,.0f}",
                *(f"{100 * share:.1f}%" for share in row.certified_accuracy),
                f"{row.average_certified_radius:.4f}",
                f"{row.relative_radius:.3f}",
                *(f"{row.relative_to_larger:.3f}" for _ in second),
                f"{100 * row.abstention:.1f}%",
            ]
            for row in rows
        ),
    ]
    promised = [
        ["certifier", "promised", "bounds that hold", "bound 0.5-0.75", "if certified", "refuted"],
        *(
            [
                row.name,
                complement(row.error),
                *(_percent(share) for share in (row.coverage.overall, row.coverage.boundary, row.coverage.certified)),
                f"{row.coverage.refuted.count} of {row.coverage.refuted.total}",
            ]
            for row in rows
        ),
    ]
    scale, found = comparison.scale, cascades(comparison)
    parts = [
        *([f"**{scale[:1].upper()}{scale[1:]}.**"] if scale else []),
        f"Certified accuracy of {comparison.images} test images at radius r (ℓ2, pixel values in [0, 1]), σ = "
        f"{comparison.sigma:g}; forward passes for one certificate; mean r counts wrong and withheld labels as 0; "
        f"ratio to {comparison.baseline}{f'; of larger: to {comparison.larger}' if comparison.larger else ''}.",
        markdown_table(certified),
        comparison.costs.words,
        *([explained(comparison), markdown_table([HEAD, *(line.cells() for line in found)])] if found else []),
        f"Bounds checked against {comparison.n_reference:,} other noisy draws an image. A bound holds if the share "
        f"of those draws reaches it; it is refuted if even their upper bound (level {metrics.REFUTATION_LEVEL:g}) "
        "does not. Where a bound is made from about as many draws, their own scatter puts some below bounds that hold.",
        markdown_table(promised),
        *(f"**{row.name}.** {row.statement} {among_certified(row)}" for row in rows),
    ]
    return "\n\n".join(parts) + "\n"


def _untimed(costs: Costs) -> dict[str, Any]:
    """Return costs without what was measured in seconds, which is in timing.json."""
    against = [
        {"name": entry.name, "evaluations_each": entry.evaluations_each, "evaluations": entry.evaluations}
        for entry in costs.against
    ]
    return asdict(costs) | {"against": against}


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of a head and rows, padded to read as a table in its source; the first column is text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        pads = [" " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + pads[0], *(pad + cell for pad, cell in zip(pads[1:], row[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])


def among_certified(row: Row) -> str:
    """Return what a certifier's promise leaves among certified images alone, in words."""
    if row.conditional_bound >= 1:
        return "Among certified images alone this promises nothing: too few are certified here."
    if row.conditional_bound == row.error:
        return f"Among certified images alone: a failure probability of at most {percent(row.error)}."
    least = math.floor(1000 * row.error / row.conditional_bound) / 10
    return (
        f"Among certified images alone: a failure probability of at most {percent(row.conditional_bound)}, which is "
        f"{percent(row.error)} divided by the share of images that is certified, at least "
        f"{least:g}% with confidence {metrics.LOWER_CONFIDENCE:g} "
        f"({100 * (1 - row.abstention):.1f}% here)."
    )


def _percent(share: metrics.Share) -> str:
    return f"{100 * share.value:.1f}% of {share.total}" if share.total else "none"


def _finite(value: Any) -> Any:
    """Return a copy for JSON in which NaN and infinity are null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
