"""The report's figure of more passes: what they buy beside the surrogate, and what Monte Carlo buys with as many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rrise.evaluation.comparison import Comparison, Row
from rrise.evaluation.contender import BUDGET, PASSES
from rrise.evaluation.drawing import Picture, legend, picture, style, tall
from rrise.promise import percent


def more_passes(comparison: Comparison) -> Picture | None:
    """Return average radius over passes and over time, or nothing where no certifier takes more passes."""
    ours = [row for row in comparison.rows if row.name == comparison.deployed or row.role == PASSES]
    theirs = [row for row in comparison.rows if row.name == comparison.baseline or row.role == BUDGET]
    if len(ours) < 2:
        return None

    def milliseconds(row: Row) -> float | None:
        times = comparison.milliseconds(row.name)
        return times[1] if times else None

    axes_of: list[tuple[str, Callable[[Row], float | None]]] = [("forward passes", lambda row: row.forward_passes)]
    if comparison.latency:
        axes_of.append(("milliseconds (median)", milliseconds))

    highest = max(row.average_certified_radius for row in [*ours, *theirs]) or 1.0

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(axes_of), sharey=True, squeeze=False)[:, 0]
        for axes, (label, cost) in zip(panels, axes_of, strict=True):
            for rows, name, marker in ((ours, comparison.deployed, "o"), (theirs, comparison.baseline, "s")):
                colour, dashes = style(comparison, name)
                points = _points(rows, cost)
                text = f"{name}, with more passes" if rows is ours else f"{name}, with fewer draws"
                axes.plot(*points, color=colour, linestyle=dashes, marker=marker, markersize=4, label=text)
            axes.set(
                xscale="log", ylim=(0, 1.1 * highest), xlabel=f"{label} for a certificate", ylabel="average radius"
            )
        legend(panels[0])

    return picture(
        draw,
        "More passes when there is time",
        f"Leftmost the single pass of {comparison.deployed}, then the same surrogate with more and more noisy passes, "
        f"each number calibrated for itself; beside it {comparison.baseline} with 100 draws more than these, and with "
        f"all.{_promises(ours)}",
        f"Line chart of average certified radius against passes and time for {comparison.deployed} and "
        f"{comparison.baseline}",
        height=tall(0) * (1.5 if len(axes_of) > 1 else 1),
    )


def _promises(ours: Sequence[Row]) -> str:
    """Return that the single pass and those with more passes promise different shares, or nothing."""
    single, more = (sorted({row.error for row in ours if (row.role == PASSES) == passes}) for passes in (False, True))
    if single == more:
        return ""
    shares = " and ".join(", ".join(map(percent, errors)) for errors in (single, more))
    return f" What may be wrong differs: {shares} of the inputs."


def _points(rows: Sequence[Row], cost: Callable[[Row], float | None]) -> tuple[list[float], list[float]]:
    """Return costs and average radii of those rows whose cost is known, the cheapest first."""
    found = sorted((x, row.average_certified_radius) for row in rows if (x := cost(row)) is not None)
    return [x for x, _ in found], [y for _, y in found]
