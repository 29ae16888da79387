"""The report's figures; each function returns one, in both themes and with its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rrise.evaluation import metrics
from rrise.evaluation.calibration_figures import calibration_curve, reliability
from rrise.evaluation.comparison import Comparison
from rrise.evaluation.contender import CalibrationView
from rrise.evaluation.cost_figures import break_even, break_even_seconds
from rrise.evaluation.coverage_figures import by_confidence, promises
from rrise.evaluation.drawing import GRID, MUTED, Picture, legend, picture, sampled, shown, stretch, style, tall
from rrise.evaluation.passes_figure import more_passes

RADIUS = "radius (ℓ₂, pixel values in [0, 1])"


def all_figures(comparison: Comparison, calibrations: Sequence[CalibrationView]) -> list[Picture]:
    """Return the figures of the report, in order."""
    timed, trade = break_even_seconds(comparison), more_passes(comparison)
    return [
        certified_accuracy(comparison),
        radius_against_monte_carlo(comparison),
        radius_exceedance(comparison),
        radius_distribution(comparison),
        promises(comparison),
        by_confidence(comparison),
        *(calibration_curve(comparison, view) for view in calibrations),
        reliability(comparison),
        break_even(comparison),
        *([timed] if timed else []),
        *([trade] if trade else []),
    ]


def certified_accuracy(comparison: Comparison) -> Picture:
    """Return certified accuracy over radius, one line a certifier."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        end = _largest_radius(comparison)
        radii = np.linspace(0.0, end, 600)
        for contender in comparison.drawn:
            colour, dashes = style(comparison, contender.name)
            share = 100 * metrics.certified_accuracy(contender.certificates, comparison.labels, radii)
            axes.plot(radii, share, color=colour, linestyle=dashes, linewidth=1.9, label=contender.name)
        axes.set(xlim=(0, end), ylim=(0, 100), xlabel=RADIUS, ylabel="certified and correct (% of images)")
        legend(axes)

    return picture(
        draw,
        "Certified accuracy",
        "Share of all test images whose label is right and certified at least up to the radius.",
        "Line chart of certified accuracy against radius for " + _names(comparison),
        height=tall(len(comparison.drawn)),
    )


def radius_against_monte_carlo(comparison: Comparison) -> Picture:
    """Return the deployed certifier's radius over Monte Carlo's, one point an image."""
    ours = comparison.contender(comparison.deployed).certificates.radius
    theirs = comparison.contender(comparison.baseline).certificates.radius
    some = shown(ours.size)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        colour, _ = style(comparison, comparison.deployed)
        end = _largest_radius(comparison)
        axes.plot([0, end], [0, end], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.scatter(theirs[some], ours[some], s=13, color=colour, alpha=0.55, linewidths=0)
        axes.annotate(
            "equal", (0.8 * end, 0.8 * end), xytext=(-8, 4), textcoords="offset points", ha="right", color=MUTED
        )
        axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end))
        axes.set_xlabel(f"{comparison.baseline}: {RADIUS}")
        axes.set_ylabel(f"{comparison.deployed}: radius")

    below = metrics.Share(int(np.count_nonzero(ours <= theirs)), ours.size)
    return picture(
        draw,
        "Radius, image by image",
        f"Below the dashed line the single pass claims less than {comparison.baseline} does, or as much: "
        f"{100 * below.value:.0f}% of images. An abstention has radius 0.{sampled(ours.size)}",
        f"Scatter plot of certified radius, {comparison.deployed} against {comparison.baseline}",
    )


def radius_exceedance(comparison: Comparison) -> Picture:
    """Return the certified-radius distribution, share of images over radius, with the boundary set's share below it."""
    band = _boundary_radius(comparison)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        end = _largest_radius(comparison)
        radii = np.linspace(0.0, end, 600)
        _shade(axes, band)
        for contender in comparison.drawn:
            colour, dashes = style(comparison, contender.name)
            share = 100 * metrics.crd(contender.certificates, radii)
            axes.plot(radii, share, color=colour, linestyle=dashes, linewidth=1.9, label=contender.name)
            inside = radii <= band
            share = 100 * metrics.boundary_crd(contender.certificates, radii[inside])
            axes.plot(radii[inside], share, color=colour, linestyle=dashes, linewidth=0.9)
        axes.set(xlim=(0, end), ylim=(0, 100), xlabel=RADIUS, ylabel="radius larger (% of images)")
        legend(axes)

    return picture(
        draw,
        "Certified-radius distribution",
        "Share of all test images, right or wrong, whose certified radius is larger. Shaded: bounds from 0.5 to 0.75, "
        f"radii up to {band:.3f}; the thin lines count only the images that end in this band.",
        "Line chart of the share of images with a larger certified radius for " + _names(comparison),
        height=tall(len(comparison.drawn)),
    )


def radius_distribution(comparison: Comparison) -> Picture:
    """Return a histogram of certified radii for each certifier, on one scale."""
    band = _boundary_radius(comparison)

    def draw(figure: Any) -> None:
        end = _largest_radius(comparison)
        edges = np.linspace(0, end, 41)
        rows = figure.subplots(len(comparison.drawn), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, contender in zip(rows, comparison.drawn, strict=True):
            colour, _ = style(comparison, contender.name)
            _shade(axes, band)
            certified = contender.certificates.radius[~contender.certificates.abstained]
            axes.stairs(100 * np.histogram(certified, edges)[0] / comparison.images, edges, fill=True, color=colour)
            abstention = 100 * metrics.abstention_rate(contender.certificates)
            axes.set_title(f"{contender.name} (abstains on {abstention:.1f}%)", loc="left", fontsize=8.5, pad=3)
        rows[-1].set(xlim=(0, end), ylim=(0, None), xlabel=RADIUS)
        figure.supylabel("% of images", fontsize=9)

    return picture(
        draw,
        "Distribution of radii",
        "Share of test images by certified radius, all certifiers on the same scale. A pile at the right edge is "
        "the most a certifier can claim: neither its draws nor its curve support a larger radius. Shaded: bounds from "
        "0.5 to 0.75.",
        "Histograms of certified radii for " + _names(comparison),
        height=max(tall(0), 0.9 + 0.72 * len(comparison.drawn)),
    )


def _largest_radius(comparison: Comparison) -> float:
    largest = max(float(contender.certificates.radius.max()) for contender in comparison.drawn)
    return 1.04 * max(largest, max(comparison.radii), comparison.sigma)


def _boundary_radius(comparison: Comparison) -> float:
    """Return the largest radius of the boundary set, where the bound is 0.75."""
    return comparison.sigma * float(stretch(metrics.BOUNDARY[1]))


def _shade(axes: Any, band: float) -> None:
    axes.axvspan(0, band, color=GRID, alpha=0.6, linewidth=0)


def _names(comparison: Comparison) -> str:
    return ", ".join(contender.name for contender in comparison.drawn)
