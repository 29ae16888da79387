"""The report's figures of the surrogate: its calibrated curves, and how well it predicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from rrise.evaluation import metrics
from rrise.evaluation.comparison import Comparison
from rrise.evaluation.contender import CalibrationView
from rrise.evaluation.drawing import (
    ALARM,
    GRID,
    MUTED,
    Picture,
    legend,
    picture,
    probability_axis,
    sampled,
    shown,
    stretch,
    style,
    unstretch,
)


def calibration_curve(comparison: Comparison, view: CalibrationView) -> Picture:
    """Return a calibrated curve over its calibration points, both axes stretched towards 1."""
    answered = np.isfinite(view.q)  # an image without an answer makes no claim and has no place on the axis
    q_points, p_points = view.q[answered], view.p_lower[answered]
    above = p_points >= np.interp(q_points, view.knots_q, view.knots_p)
    some = shown(q_points.size)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        colour, _ = style(comparison, view.name)
        start, stop = min(0.9, max(0.2, float(q_points.min(initial=1)))), 1 - 2e-5
        q = unstretch(np.linspace(stretch(start), stretch(stop), 500))
        axes.plot(stretch(q), stretch(q), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for side, marker, size, shade, name in ((above, "o", 9, MUTED, "above"), (~above, "x", 16, ALARM, "below")):
            chosen = some[side[some]]
            axes.scatter(
                stretch(np.clip(q_points[chosen], start, stop)),
                stretch(np.clip(p_points[chosen], 0.1, stop)),
                s=size,
                color=shade,
                alpha=0.5 if marker == "o" else 0.9,
                marker=marker,
                linewidths=0 if marker == "o" else 1,
                label=f"{name} ({np.count_nonzero(side)})",
            )
        height = np.interp(q, view.knots_q, view.knots_p)
        axes.plot(
            stretch(q), stretch(np.where(height >= 0.1, height, np.nan)), color=colour, linewidth=2.2, label=view.name
        )
        top = float(max(view.knots_p.max(), p_points.max(initial=0.9)))
        probability_axis(axes.xaxis, start, stop)
        probability_axis(axes.yaxis, 0.1, top)
        axes.set_xlim(stretch(start) - 0.1, stretch(stop) + 0.1)
        axes.set_ylim(stretch(0.1) - 0.1, stretch(top) + 0.35)
        axes.set_xlabel("surrogate's top probability q")
        axes.set_ylabel("bound on the probability under noise")
        legend(axes)

    return picture(
        draw,
        f"Calibration curve: {view.name}",
        f"Each point is one of {q_points.size:,} calibration images with the bound from its own noisy draws. The curve "
        "is what a certificate claims for a given q; points below it are the errors it is allowed. Dashed: q itself. "
        f"Axes are stretched towards 1, where radii grow.{sampled(q_points.size)}",
        f"Scatter plot of calibration points with the calibrated curve of {view.name}",
    )


def reliability(comparison: Comparison) -> Picture:
    """Return the surrogate's top probability over the reference share of the same class on the test images."""
    contender = comparison.contender(comparison.deployed)
    p_lower, q = contender.certificates.p_lower, contender.certificates.q
    answered = (contender.predicted >= 0) & np.isfinite(q)
    rows = np.flatnonzero(answered)
    reference = comparison.reference[rows]
    share = reference[np.arange(rows.size), contender.predicted[rows]] / reference.sum(axis=1)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        colour, _ = style(comparison, contender.name)
        start = 0.1 * np.floor(10 * min(0.9, float(q[rows].min()), float(share.min()))) if rows.size else 0.0
        inside = (p_lower[rows] > metrics.BOUNDARY[0]) & (p_lower[rows] < metrics.BOUNDARY[1])
        if inside.any():
            band = (float(q[rows][inside].min()), float(q[rows][inside].max()))
            axes.axvspan(*band, color=GRID, alpha=0.6, linewidth=0)
            axes.annotate(
                "bound 0.5–0.75",
                (sum(band) / 2, start),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                fontsize=8.5,
            )
        axes.plot([start, 1], [start, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        some = shown(rows.size)
        axes.scatter(q[rows][some], share[some], s=13, color=colour, alpha=0.55, linewidths=0)
        axes.set(xlim=(start, 1.01), ylim=(start, 1.01))
        axes.set_xlabel("surrogate's top probability q")
        axes.set_ylabel("measured share under noise")

    distance = f"; mean distance {np.abs(q[rows] - share).mean():.3f}" if rows.size else ""
    return picture(
        draw,
        "How well the surrogate predicts",
        f"What one clean pass says against what {comparison.n_reference:,} noisy draws say of the same class, on test "
        f"images{distance}. Shaded: where certificates have little to spare.{sampled(rows.size)}",
        "Scatter plot of the surrogate's top probability against the measured share of that class under noise",
    )
