"""The claims of the paper's abstract, held against what was measured; negative results are results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

WITHIN = 0.84
"""Percentage points of certified accuracy at radius 0 that the paper loses to Monte Carlo at most."""
BETTER = 1.23
"""Times the Jensen-Shannon surrogate's certified accuracy that the paper reaches at least, of 100 classes and more."""
QUERIES = 1e5
"""Order of the certificates after which the paper's offline work is paid back."""


def claims(
    levels: Mapping[str, Any], costs: Mapping[str, Any], n: int, classes: int, names: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, figure) for each claim.

    Parameters
    ----------
    levels : mapping
        Results by "alpha=..."; the first is the paper's.
    costs : mapping
        Break-even results by certifier.
    n : int
        Draws of a Monte Carlo certificate here; the paper's is 10,000.
    classes : int
        Classes of the images.
    names : mapping
        What the certifiers are called here: ours, fixed, js.
    """
    paper = next(iter(levels.values()))
    level = next(iter(levels))
    ours, fixed, js = (paper[names[key]] for key in ("ours", "fixed", "js"))

    def mean(entries: Any, key: str, at: int | None = None) -> float:
        return float(np.mean([entry[key] if at is None else entry[key][at] for entry in entries]))

    gap = mean(fixed, "certified accuracy", 0) - mean(ours, "certified accuracy", 0)
    smaller = mean(ours, "average certified radius") / mean(fixed, "average certified radius")
    needed = 100 * (1 - float(level.removeprefix("alpha=")))
    coverage, edge = mean(ours, "coverage"), mean(ours, "coverage in the boundary")
    against = mean(ours, "certified accuracy", 0) / max(mean(js, "certified accuracy", 0), 1e-9)
    pays = mean(costs[names["fixed"]], "queries by evaluations")
    draws, slow = (mean(costs[names["fixed"]], key) for key in ("evaluations", "milliseconds"))
    fast, wrong = mean(costs[names["ours"]], "milliseconds"), mean(ours, "wrong labels among certified")
    return [
        (
            f"certified accuracy within {WITHIN} points of fixed-budget Monte Carlo (radius 0, {level})",
            "confirmed" if gap <= WITHIN else "not confirmed",
            f"{gap:+.2f} points behind; of its average certified radius {100 * smaller:.0f}% is kept",
        ),
        (
            "one surrogate pass instead of up to 10,000 noisy evaluations",
            "so by construction",
            f"{draws:,.0f} evaluations, {slow:,.1f} ms, by Monte Carlo at n = {n:,}; "
            f"none, {fast:.3f} ms, by the single pass",
        ),
        (
            "offline work paid back after about 100,000 certificates",
            "not testable at this scale" if n < 10_000 else ("confirmed" if pays <= 2 * QUERIES else "not confirmed"),
            f"{pays:,.0f} by evaluations here: it is the number of target and calibration images, whatever n is",
        ),
        (
            "the bound holds for at least 1 - beta - gamma of inputs",
            "confirmed" if coverage >= needed else "not confirmed",
            f"{coverage:.1f}% of bounds agree with the reference draws, {needed:g}% were promised; "
            f"inside the boundary set {edge:.1f}%, of which nothing is promised",
        ),
        (
            "a positive radius means that the label is the smoothed classifier's",
            "confirmed" if wrong <= 100 - needed else "not confirmed",
            f"{wrong:.2f}% of certified labels are not the reference's first class",
        ),
        (
            "1.23 to 1.91 times the certified accuracy of the Jensen-Shannon surrogate from random weights "
            "(CIFAR-100 and Tiny ImageNet)",
            ("confirmed" if against >= BETTER else "not confirmed")
            if classes >= 100
            else "not testable on these images",
            f"{against:.2f} times at radius 0 on these images",
        ),
    ]
