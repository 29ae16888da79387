"""Results over seeds as Markdown: mean ± standard deviation in every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rrise.evaluation.seeds import over_seeds
from rrise.evaluation.tables import markdown_table

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""What was measured, a list with one entry a seed for each certifier."""


def cell(entries: Sequence[Mapping[str, Any]], key: str, digits: int = 1, at: int | None = None) -> str:
    """Return mean ± standard deviation of one number over the seeds."""
    values = [entry[key] if at is None else entry[key][at] for entry in entries]
    return over_seeds(values).text(digits)


def certified_accuracy(results: Results, radii: Sequence[float]) -> str:
    """Return the table of certified accuracy (%) by radius, average radius and evaluations a certificate."""
    head = ["certifier", *(f"r ≥ {r:g}" for r in radii), "average radius", "abstains", "evaluations"]
    rows = [
        [
            name,
            *(cell(entries, "certified accuracy", 1, i) for i in range(len(radii))),
            cell(entries, "average certified radius", 4),
            cell(entries, "abstention"),
            cell(entries, "evaluations", 0),
        ]
        for name, entries in results.items()
    ]
    return markdown_table([head, *rows])


def boundary(results: Results, radii: Sequence[float]) -> str:
    """Return the table of what lies at the decision boundary, 0.5 < bound < 0.75, and of coverage (%)."""
    every = [entry for entries in results.values() for entry in entries]
    shown = [(i, r) for i, r in enumerate(radii) if i and max(entry["boundary CRD"][i] for entry in every) > 0]
    columns = [
        ("mass", "boundary mass", 1),
        ("accuracy there", "boundary accuracy", 1),
        ("mean radius there", "boundary mean radius", 3),
        ("coverage", "coverage", 1),
        ("in the boundary", "coverage in the boundary", 1),
        ("if certified", "coverage if certified", 1),
        ("refuted", "refuted", 2),
        ("wrong labels", "wrong labels among certified", 2),
    ]
    head = ["certifier", *(title for title, _, _ in columns), *(f"CRD there > {r:g}" for _, r in shown)]
    rows = [
        [
            name,
            *(cell(entries, key, digits) for _, key, digits in columns),
            *(cell(entries, "boundary CRD", 1, i) for i, _ in shown),
        ]
        for name, entries in results.items()
    ]
    return markdown_table([head, *rows])


def break_even(costs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the table of what a certificate costs and after how many the offline work is paid back."""
    head = ["certifier", "evaluations", "ms", "break-even by evaluations", "break-even by seconds"]
    keys = [("evaluations", 0), ("milliseconds", 2), ("queries by evaluations", 0), ("queries by seconds", 0)]
    rows = [[name, *(cell(entries, key, digits) for key, digits in keys)] for name, entries in costs.items()]
    return markdown_table([head, *rows])


def shares(results: Results, seeds: Sequence[int]) -> str:
    """Return the table of what remains of Monte Carlo's average radius (%), and why a row has no numbers."""
    columns = [
        ("β", "beta", 4),
        ("share of B1's radius", "share of B1", 1),
        ("average radius", "average certified radius", 4),
    ]
    covered = [
        ("points behind B1", "points behind B1", 2),
        ("abstains", "abstention", 1),
        ("coverage", "coverage", 1),
        ("in the boundary", "coverage in the boundary", 1),
        ("if certified", "coverage if certified", 1),
    ]
    head = ["certifier", *(title for title, _, _ in columns), "r ≥ 0", *(title for title, _, _ in covered)]
    rows = [
        [
            name,
            *(cell(entries, key, digits) for _, key, digits in columns),
            cell(entries, "certified accuracy", 1, 0),
            *(cell(entries, key, digits) for _, key, digits in covered),
        ]
        for name, entries in results.items()
    ]
    notes = [
        f"- {name}, seed {seed}: refused: {entry['refused']}"
        for name, entries in results.items()
        for seed, entry in zip(seeds, entries, strict=True)
        if entry["refused"]
    ]
    return "\n\n".join([markdown_table([head, *rows]), *(["\n".join(notes)] if notes else [])])


def ablation(results: Results, radii: Sequence[float], what: str) -> str:
    """Return a table of one setting varied: certified accuracy at two radii, average radius, coverage and cost."""
    middle = len(radii) // 2
    head = [what, "r ≥ 0", f"r ≥ {radii[middle]:g}", "average radius", "abstains", "coverage", "evaluations"]
    rows = [
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
    return markdown_table([head, *rows])


def claims(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return the table of the paper's claims, with a verdict and the figure it rests on."""
    return markdown_table([["claim of the paper", "here", "figure"], *rows])
