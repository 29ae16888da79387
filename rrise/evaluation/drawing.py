"""How every figure of the report is drawn: two themes, one colour a certifier, SVG without pyplot or global state.

The colours are told apart with any colour vision, and no figure relies on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from rrise.evaluation.comparison import Comparison

FONTS = "'Inter', 'Segoe UI', 'Helvetica Neue', 'Helvetica', 'Arial', 'DejaVu Sans', sans-serif"
INK, MUTED, GRID, ALARM = "#24292f", "#5f6771", "#e4e7eb", "#b3261e"
SERIES = ("#0067a5", "#c9640a", "#00806a", "#a8508c", "#8a6a12", "#5b5fc7")
"""Colours of the certifiers, the deployed one first; the baseline is drawn in ink."""
DARK = {
    INK: "#e3e6ea",
    MUTED: "#a2abb6",
    GRID: "#333a43",
    ALARM: "#ff8a80",
    **dict(zip(SERIES, ("#62b5ec", "#f0a04b", "#45c4a0", "#dd96c4", "#d3b95a", "#a3a6f5"), strict=True)),
}
"""What each colour becomes on a dark page."""
MOST_POINTS = 3000
"""A figure shows at most this many points, evenly picked, so that the page stays small."""
WIDTH, HEIGHT = 4.6, 3.45
"""Inches of a figure with up to four certifiers."""
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Picture:
    """A figure in both themes, with its words: title, caption, and what it shows for those who cannot see it."""

    title: str
    caption: str
    alt: str
    light: str
    dark: str


def picture(draw: Callable[[Any], None], title: str, caption: str, alt: str, *, height: float = HEIGHT) -> Picture:
    """Return what ``draw`` puts on an empty figure of so many inches, in both themes."""
    light = _svg(draw, height)
    dark = re.sub("|".join(DARK), lambda found: DARK[found.group()], light)
    return Picture(title=title, caption=caption, alt=alt + ".", light=light, dark=dark)


def tall(certifiers: int) -> float:
    """Return the height of a figure with so many certifiers in its legend, which may take several lines."""
    return HEIGHT + 0.18 * max(0, certifiers - 4)


def _svg(draw: Callable[[Any], None], height: float) -> str:
    """Return one figure as SVG: transparent, text as text, the same bytes for the same data."""
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "rrise",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelpad": 6,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 2.2,
        "lines.solid_capstyle": "round",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # Laid out with the font that matplotlib brings, shown in the reader's own.
    return stream.getvalue().replace("'DejaVu Sans'", FONTS)


def style(comparison: Comparison, name: str) -> tuple[str, Any]:
    """Return colour and dashes of a certifier: the baseline in ink, the deployed one first among the colours."""
    if name == comparison.baseline:
        return INK, _DASHES[0]
    others = [
        c.name
        for c in sorted(comparison.contenders, key=lambda c: bool(c.role))
        if c.name not in (comparison.baseline, comparison.deployed)
    ]
    index = 0 if name == comparison.deployed else 1 + others.index(name)
    return SERIES[index % len(SERIES)], _DASHES[index % len(_DASHES)]


def shown(points: int) -> NDArray[np.int64]:
    """Return which of so many points a figure shows: all of them, or evenly picked ones."""
    step = -(-points // MOST_POINTS) or 1
    return np.arange(0, points, step)


def sampled(points: int) -> str:
    """Return the sentence of a caption that says how many points were left out, if any."""
    count = shown(points).size
    return "" if count == points else f" {count:,} of {points:,} points are drawn, evenly picked."


def legend(axes: Any) -> None:
    """Put the legend above the axes, where no data can be hidden by it."""
    labels = axes.get_legend_handles_labels()[1]
    columns = next((n for n in (4, 3, 2) if n * (6 + max(map(len, labels))) <= 60), 1)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.4, columnspacing=1.6)


def stretch(p: Any) -> Any:
    """Return where a probability lies on an axis stretched towards 0 and 1: its normal quantile."""
    return ndtri(p)


def unstretch(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability at a place of the stretched axis."""
    return np.asarray(ndtr(z), dtype=np.float64)


def probability_axis(axis: Any, low: float, high: float) -> None:
    """Label a stretched axis with plain probabilities."""
    marks = [p for p in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999) if low - 1e-9 <= p <= high + 1e-9]
    axis.set_ticks([float(stretch(p)) for p in marks], [f"{p:g}" for p in marks])
