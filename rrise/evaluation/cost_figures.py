"""The report's figures of cost: after how many certificates the offline work is paid back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.evaluation.comparison import Comparison
from rrise.evaluation.drawing import INK, Picture, legend, picture, style, tall

_WIDE = 6.0
"""Break-evens that lie further apart than this factor are drawn on logarithmic axes."""


@dataclass(frozen=True)
class _Line:
    """A Monte Carlo certifier: its cost for one certificate, and where it meets the single pass."""

    name: str
    each: float
    meets: float


def break_even(comparison: Comparison) -> Picture:
    """Return total noisy evaluations over the number of certificates made, single pass and every Monte Carlo."""
    costs = comparison.costs
    lines = [_Line(entry.name, entry.evaluations_each, entry.evaluations) for entry in costs.against]
    passes = comparison.row(comparison.deployed).forward_passes
    dearest = max((line.each for line in lines), default=passes)
    scale, unit = (1e6, "million ") if dearest * _end(lines) >= 2e6 else (1.0, "")
    return picture(
        _drawing(comparison, costs.offline, passes, lines, scale, f"{unit}evaluations in total"),
        "When the offline work is paid back",
        f"{costs.words} Training and fitting are not counted here.",
        "Line chart of total evaluations against certificates made for " + _names(comparison, lines),
        height=tall(1 + len(lines)),
    )


def break_even_seconds(comparison: Comparison) -> Picture | None:
    """Return total measured seconds over the number of certificates made, or nothing where they were not measured."""
    latency = comparison.latency
    lines = [
        _Line(entry.name, entry.seconds_each, entry.seconds)
        for entry in comparison.costs.against
        if entry.seconds_each is not None and entry.seconds is not None
    ]
    ours = comparison.milliseconds(comparison.deployed)
    if latency is None or latency.offline_seconds is None or ours is None or not lines:
        return None
    slowest = max(line.each for line in lines)
    scale, unit = (3600.0, "hours") if slowest * _end(lines) >= 7200 else (1.0, "seconds")
    return picture(
        _drawing(comparison, latency.offline_seconds, ours[1] / 1e3, lines, scale, f"{unit} in total"),
        "When it is paid back in time",
        f"Targets, fit and calibration took {latency.offline_seconds:,.0f} seconds before the first certificate. "
        "Each certificate counts with its median time, one by one on the machine that measured both.",
        "Line chart of total seconds against certificates made for " + _names(comparison, lines),
        height=tall(1 + len(lines)),
    )


def _drawing(
    comparison: Comparison, offline: float, each: float, lines: Sequence[_Line], scale: float, label: str
) -> Any:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        end = _end(lines)
        meeting = [line for line in lines if 0 < line.meets < np.inf]
        wide = bool(meeting) and max(m.meets for m in meeting) > _WIDE * min(m.meets for m in meeting)
        start = 10 ** np.floor(np.log10(min(m.meets for m in meeting) / 2)) if wide else 0.0
        made = np.geomspace(start, end, 200) if wide else np.array([0.0, end])
        colour, dashes = style(comparison, comparison.deployed)
        axes.plot(made, (offline + each * made) / scale, color=colour, linestyle=dashes, label=comparison.deployed)
        for line in lines:
            colour, dashes = style(comparison, line.name)
            axes.plot(made, line.each * made / scale, color=colour, linestyle=dashes, label=_label(line))
        for line in meeting:
            axes.plot(line.meets, line.each * line.meets / scale, "o", color=INK, markersize=4.5, zorder=3)
        if wide:
            axes.set(xscale="log", yscale="log", xlim=(start, end))
            axes.minorticks_off()
        else:
            axes.set(xlim=(0, end), ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set(xlabel="certificates made", ylabel=label)
        legend(axes)

    return draw


def _label(line: _Line) -> str:
    """Return a line's words in the legend: on the plot, those of neighbours would cover each other."""
    return f"{line.name}: after {line.meets:,.0f}" if np.isfinite(line.meets) else f"{line.name}: never"


def _end(lines: Sequence[_Line]) -> float:
    """Return how many certificates the axis shows: well beyond the last break-even."""
    last = max((line.meets for line in lines if np.isfinite(line.meets)), default=0.0)
    return 2.5 * last if last > 0 else 1000.0


def _names(comparison: Comparison, lines: Sequence[_Line]) -> str:
    return ", ".join([comparison.deployed, *(line.name for line in lines)])
