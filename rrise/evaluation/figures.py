"""The report's figures; each function returns one, in both themes and with its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rrise.calibration.bounds import clopper_pearson_interval
from rrise.evaluation import metrics
from rrise.evaluation.calibration_figures import calibration_curve, reliability
from rrise.evaluation.comparison import CalibrationView, Comparison
from rrise.evaluation.drawing import ALARM, INK, MUTED, Picture, legend, picture, sampled, shown, style

RADIUS = "radius (ℓ₂, pixel values in [0, 1])"


def all_figures(comparison: Comparison, calibrations: Sequence[CalibrationView]) -> list[Picture]:
    """Return the figures of the report, in order."""
    return [
        certified_accuracy(comparison),
        promises(comparison),
        radius_against_monte_carlo(comparison),
        radius_distribution(comparison),
        *(calibration_curve(comparison, view) for view in calibrations),
        reliability(comparison),
        break_even(comparison),
    ]


def certified_accuracy(comparison: Comparison) -> Picture:
    """Return certified accuracy over radius, one line a certifier."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        end = _largest_radius(comparison)
        radii = np.linspace(0.0, end, 600)
        for contender in comparison.contenders:
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
    )


def promises(comparison: Comparison) -> Picture:
    """Return the measured share of bounds that hold, beside the promised one."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        groups = ("overall", "boundary", "certified")
        count = len(comparison.rows)
        for index, row in enumerate(comparison.rows):
            colour, _ = style(comparison, row.name)
            for level, group in enumerate(groups):
                share: metrics.Share = getattr(row.coverage, group)
                height = level + (index - (count - 1) / 2) * 0.2
                if not share.total:
                    axes.annotate("none", (100, height), ha="right", va="center", color=MUTED, fontsize=8)
                    continue
                low, high = clopper_pearson_interval(share.count, share.total, 0.05)
                axes.plot([100 * float(low), 100 * float(high)], [height] * 2, color=colour, linewidth=1.4)
                marker = "osD^v"[index % 5]
                axes.plot(100 * share.value, height, marker, color=colour, markersize=5, label=_once(level, row.name))
        for error in sorted({row.error for row in comparison.rows}):
            axes.axvline(100 * (1 - error), color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                f"promised {100 * (1 - error):g}%",
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
        "Dot chart of measured coverage against the promised coverage for " + _names(comparison),
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


def radius_distribution(comparison: Comparison) -> Picture:
    """Return a histogram of certified radii for each certifier, on one scale."""

    def draw(figure: Any) -> None:
        end = _largest_radius(comparison)
        edges = np.linspace(0, end, 41)
        rows = figure.subplots(len(comparison.contenders), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, contender in zip(rows, comparison.contenders, strict=True):
            colour, _ = style(comparison, contender.name)
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
        "the most a certifier can claim: neither its draws nor its curve support a larger radius.",
        "Histograms of certified radii for " + _names(comparison),
    )


def break_even(comparison: Comparison) -> Picture:
    """Return total noisy evaluations over the number of certificates made, single pass and Monte Carlo."""
    costs = comparison.costs
    offline = costs.targets + costs.calibration

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        end = 2.5 * costs.break_even if np.isfinite(costs.break_even) and costs.break_even > 0 else 1000.0
        made = np.array([0.0, end])
        ours, dashes = style(comparison, comparison.deployed)
        theirs, other = style(comparison, comparison.baseline)
        passes = comparison.row(comparison.deployed).forward_passes
        scale, unit = (1e6, "million ") if costs.monte_carlo * end >= 2e6 else (1.0, "")
        axes.plot(made, (offline + passes * made) / scale, color=ours, linestyle=dashes, label=comparison.deployed)
        axes.plot(made, costs.monte_carlo * made / scale, color=theirs, linestyle=other, label=comparison.baseline)
        if np.isfinite(costs.break_even):
            meeting = (costs.break_even, costs.monte_carlo * costs.break_even / scale)
            axes.plot(*meeting, "o", color=INK, markersize=5)
            axes.annotate(
                f"{costs.break_even:,.0f} certificates",
                meeting,
                xytext=(8, -12),
                textcoords="offset points",
                color=INK,
            )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlim=(0, end), ylim=(0, None), xlabel="certificates made", ylabel=f"{unit}evaluations in total")
        legend(axes)

    return picture(
        draw,
        "When the offline work is paid back",
        f"Targets and calibration take {offline:,} noisy evaluations before the first certificate; "
        f"{comparison.baseline} takes {costs.monte_carlo:,.0f} for every one. Training and fitting are not counted.",
        "Line chart of total evaluations against certificates made",
    )


def _largest_radius(comparison: Comparison) -> float:
    largest = max(float(contender.certificates.radius.max()) for contender in comparison.contenders)
    return 1.04 * max(largest, max(comparison.radii), comparison.sigma)


def _names(comparison: Comparison) -> str:
    return ", ".join(contender.name for contender in comparison.contenders)


def _once(level: int, name: str) -> str:
    return name if level == 0 else "_" + name
