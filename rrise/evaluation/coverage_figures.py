"""The report's figures of the promise: coverage over all images, and by the size of the bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rrise.calibration.bounds import clopper_pearson_interval
from rrise.evaluation import metrics
from rrise.evaluation.comparison import Comparison
from rrise.evaluation.coverage_bins import CoverageBin
from rrise.evaluation.drawing import ALARM, GRID, MUTED, Picture, legend, picture, style, tall
from rrise.promise import complement

_MARKERS = "osD^vPX"


def promises(comparison: Comparison) -> Picture:
    """Return the measured share of bounds that hold, beside the promised one."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        groups = ("overall", "boundary", "certified")
        count = len(comparison.rows)
        step = min(0.2, 0.8 / count)
        for index, row in enumerate(comparison.rows):
            colour, _ = style(comparison, row.name)
            for level, group in enumerate(groups):
                share: metrics.Share = getattr(row.coverage, group)
                height = level + (index - (count - 1) / 2) * step
                if not share.total:
                    axes.annotate("none", (100, height), ha="right", va="center", color=MUTED, fontsize=8)
                    continue
                low, high = clopper_pearson_interval(share.count, share.total, 0.05)
                axes.plot([100 * float(low), 100 * float(high)], [height] * 2, color=colour, linewidth=1.4)
                marker = _MARKERS[index % len(_MARKERS)]
                axes.plot(100 * share.value, height, marker, color=colour, markersize=5, label=_once(level, row.name))
        for error in sorted({row.error for row in comparison.rows}):
            axes.axvline(100 * (1 - error), color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                f"promised {complement(error)}",
                (100 * (1 - error), -0.62),
                xytext=(-5, 0),
                textcoords="offset points",
                color=ALARM,
                ha="right",
                va="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(3), ["all images", "bound\n0.5–0.75", "certified"])
        axes.set_ylim(2.5, -0.85)
        low_end, _ = axes.get_xlim()
        axes.set_xlim(low_end, 100.5)
        axes.set_xlabel("bounds that hold (%), with 95% intervals")
        axes.grid(axis="y", visible=False)
        legend(axes)

    return picture(
        draw,
        "Is the promise kept?",
        f"Share of lower bounds that {comparison.n_reference:,} other noisy draws an image agree with. The promise is "
        "made for all images; the other two groups show where the failures are.",
        "Dot chart of measured coverage against the promised coverage for "
        + ", ".join(row.name for row in comparison.rows),
        height=tall(len(comparison.rows)),
    )


def by_confidence(comparison: Comparison) -> Picture:
    """Return the share of bounds that hold by the size of the bound, deployed certifier and baseline."""
    rows = [comparison.row(name) for name in dict.fromkeys((comparison.deployed, comparison.baseline))]
    bins = rows[0].coverage_by_bin

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, entry in enumerate(bins):
            if (entry.low, entry.high) == metrics.BOUNDARY:
                axes.axvspan(place - 0.5, place + 0.5, color=GRID, alpha=0.6, linewidth=0)
        for index, row in enumerate(rows):
            colour, _ = style(comparison, row.name)
            label = row.name
            for place, entry in enumerate(row.coverage_by_bin):
                if not entry.holds.total:
                    continue
                x = place + (index - (len(rows) - 1) / 2) * 0.26
                axes.plot([x, x], [100 * end for end in entry.interval], color=colour, linewidth=1.4)
                marker = _MARKERS[index % len(_MARKERS)]
                axes.plot(x, 100 * entry.holds.value, marker, color=colour, markersize=5, label=label)
                label = "_" + row.name
        for error in sorted({row.error for row in rows}):
            axes.axhline(100 * (1 - error), color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                f"promised {complement(error)}",
                (len(bins) - 0.5, 100 * (1 - error)),
                xytext=(0, -4),
                textcoords="offset points",
                color=ALARM,
                ha="right",
                va="top",
                fontsize=8.5,
            )
        names = [f"{entry.low:g}–\n{entry.high:g}\n\n" + _counts(rows, place) for place, entry in enumerate(bins)]
        axes.set_xticks(range(len(bins)), names)
        axes.set_xlim(-0.5, len(bins) - 0.5)
        axes.set_ylim(None, 100.8)
        axes.set_xlabel("size of the bound, and number of bounds of that size")
        axes.set_ylabel("bounds that hold (%)")
        axes.grid(axis="x", visible=False)
        if axes.get_legend_handles_labels()[1]:
            legend(axes)

    return picture(
        draw,
        "Coverage by confidence",
        f"Share of bounds of each size that {comparison.n_reference:,} other noisy draws an image agree with, with "
        "exact 95% intervals. Only a promise made for each bin would have to be kept in each; bounds from 0.5 to "
        "0.75 are shaded. Under the axis, their numbers: " + ", then ".join(row.name for row in rows) + ".",
        "Dot chart of measured coverage by size of the bound for " + ", ".join(row.name for row in rows),
    )


def _counts(rows: Iterable[Any], place: int) -> str:
    entries: list[CoverageBin] = [row.coverage_by_bin[place] for row in rows]
    return "\n".join(f"{entry.holds.total:,}" for entry in entries)


def _once(level: int, name: str) -> str:
    return name if level == 0 else "_" + name
