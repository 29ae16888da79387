"""Results over seeds as Markdown: mean ± standard deviation in every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rrise.evaluation.seeds import over_seeds
from rrise.evaluation.tables import markdown_table

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""What was measured, a list with one entry a seed for each row."""
_COLUMNS = (
    ("share of B1's radius", "share of B1", 1),
    ("of larger B1's", "share of larger B1", 1),
    ("average radius", "average certified radius", 4),
    ("points behind B1", "points behind B1", 2),
    ("abstains", "abstention", 1),
    ("promised", "promised", 2),
    ("coverage", "coverage", 1),
    ("in the boundary", "coverage in the boundary", 1),
    ("if certified", "coverage if certified", 1),
    ("refuted", "refuted", 2),
    ("evaluations", "evaluations", 0),
    ("break-even", "break-even", 0),
    ("β", "beta", 3),
)


def cell(entries: Sequence[Mapping[str, Any]], key: str, digits: int = 1, at: int | None = None) -> str:
    """Return mean ± standard deviation of one number over the seeds that have it."""
    given = [entry[key] if at is None else entry[key][at] for entry in entries if entry.get(key) is not None]
    return over_seeds(given).text(digits)


def rows(results: Results, seeds: Sequence[int]) -> str:
    """Return the table of what each row keeps of Monte Carlo's radius (%), its cost, and why one has no numbers."""
    shown = [column for column in _COLUMNS if any(column[1] in entry for each in results.values() for entry in each)]
    head = ["", *(title for title, _, _ in shown)]
    body = [[name, *(cell(entries, key, digits) for _, key, digits in shown)] for name, entries in results.items()]
    notes = [
        f"- {name}, seed {seed}: refused: {entry['refused']}"
        for name, entries in results.items()
        for seed, entry in zip(seeds, entries, strict=True)
        if entry.get("refused")
    ]
    return "\n\n".join([markdown_table([head, *body]), *(["\n".join(notes)] if notes else [])])


def certified_accuracy(results: Results, radii: Sequence[float]) -> str:
    """Return the table of certified accuracy (%) by radius, and of what lies at the decision boundary."""
    head = ["certifier", *(f"r ≥ {r:g}" for r in radii), "0.5 < bound < 0.75", "accuracy there", "wrong labels"]
    keys = (("boundary mass", 1), ("boundary accuracy", 1), ("wrong labels among certified", 2))
    body = [
        [
            name,
            *(cell(entries, "certified accuracy", 1, i) for i in range(len(radii))),
            *(cell(entries, key, digits) for key, digits in keys),
        ]
        for name, entries in results.items()
    ]
    return markdown_table([head, *body])


def ablation(results: Results, radii: Sequence[float], what: str) -> str:
    """Return a table of one setting varied: certified accuracy at two radii, average radius, coverage and cost."""
    middle = len(radii) // 2
    head = [what, "r ≥ 0", f"r ≥ {radii[middle]:g}", "average radius", "abstains", "coverage", "evaluations"]
    body = [
        [
            name,
            cell(entries, "certified accuracy", 1, 0),
            cell(entries, "certified accuracy", 1, middle),
            cell(entries, "average certified radius", 4),
            cell(entries, "abstention"),
            cell(entries, "coverage"),
            cell(entries, "evaluations", 0),
        ]
        for name, entries in results.items()
    ]
    return markdown_table([head, *body])


def claims(found: Sequence[tuple[str, str, str]]) -> str:
    """Return the table of the paper's claims, with a verdict and the figure it rests on."""
    return markdown_table([["claim of the paper", "here", "figure"], *found])
