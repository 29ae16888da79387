"""An attack's figures as Markdown, in plain words, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rrise.evaluation.attack_config import AttackConfig
from rrise.evaluation.attacks import CONFIDENCE, AttackRow, Rate, Refutations, SmallestFlips
from rrise.promise import percent

SCHEMA = "rrise-attack/1"
_COLUMNS = (
    *("attack on", "within", "surrogate's label changes", "… and the smoothed one does not", "smoothed label changes"),
    *("undecided", "another label certified", "… falsely", "its radius: mean, largest"),
)


@dataclass(frozen=True)
class AttackReport:
    """All that one run of attacks found.

    Attributes
    ----------
    config : AttackConfig
    statement : str
        The bundle's guarantee.
    rows : tuple of AttackRow
    refuted : Refutations
    smallest : SmallestFlips
    provenance : mapping
        Hashes of what was attacked, and its noise; plain JSON.
    """

    config: AttackConfig
    statement: str
    rows: tuple[AttackRow, ...]
    refuted: Refutations
    smallest: SmallestFlips
    provenance: Mapping[str, Any]

    def row(self, attack: str, reach: float = 1.0) -> AttackRow:
        """Return the row of one attack, within the certified radius unless another multiple is named."""
        return next(row for row in self.rows if (row.attack, row.reach) == (attack, reach))


def as_json(report: AttackReport) -> str:
    """Return the report as JSON text of schema ``rrise-attack/1``; equal in equal runs."""
    body = {"schema": SCHEMA, "confidence": CONFIDENCE, **asdict(report)}
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(report: AttackReport) -> str:
    """Return what was found in sentences, and the curve over the attack's radius as a table."""
    own = report.row("surrogate")
    lines = [
        f"# Attacks on {own.surrogate_flips.total} certified images of {report.refuted.found.total}",
        "",
        _not_covered(own),
        "",
        _promised(report.refuted),
        "",
        _nearest(report.smallest, report.config.reach[-1]),
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
    ]
    for row in report.rows:
        rates = (row.surrogate_flips, row.uncovered, row.smoothed_flips, row.smoothed_undecided)
        radius = "–" if row.other_radius is None else f"{row.other_radius[0]:.3f}, {row.other_radius[1]:.3f}"
        cells = [row.attack, f"{row.reach:g} R", *map(said, rates)]
        cells += [said(row.other_certificates), said(row.false_certificates), radius]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _method(report.config), "", report.statement]) + "\n"


def said(rate: Rate) -> str:
    """Return a rate in words: count, share and interval."""
    if not rate.total:
        return "0 of 0"
    return f"{rate.count} ({rate.count / rate.total:.1%}, {rate.lower:.1%} to {rate.upper:.1%})"


def _not_covered(own: AttackRow) -> str:
    return (
        "**What the certificate does not cover.** Within the certified radius R, gradient ascent on the surrogate "
        f"changed its label for {said(own.surrogate_flips)} of the certified images. For {said(own.uncovered)} the "
        "smoothed classifier keeps the certified label at that point: nothing contradicts the certificate, and yet the "
        f"deployed engine answers otherwise. It even certified another label for {said(own.other_certificates)}, "
        f"falsely, since the smoothed classifier keeps the first, for {said(own.false_certificates)}."
    )


def _promised(refuted: Refutations) -> str:
    verdict = "That promise stands."
    if refuted.exceeded:
        verdict = "**More than that was refuted: the certificates do not hold on these images.**"
    return (
        "**What it promises.** Within R the smoothed classifier was found with another label, by either attack, for "
        f"{said(refuted.found)} of the images shown, certified or not; the guarantee allows "
        f"{percent(refuted.promised)}. {verdict}"
    )


def _nearest(smallest: SmallestFlips, most: float) -> str:
    first, median, last = map(_share, smallest.quartiles)
    return (
        "**How far to the nearest flip.** Smallest perturbation found that changes the surrogate's label: median "
        f"{median}, quartiles {first} and {last}, least {_share(smallest.least)}; found for {said(smallest.found)} "
        f"within {most:g} R."
    )


def _method(config: AttackConfig) -> str:
    starts = f"{config.restarts} start{'s' * (config.restarts > 1)}"
    return (
        "Shares with exact 95% intervals. Attacked points are 8-bit images inside the ball: with grid noise the "
        f"certificate speaks of no others. The deployed engine answers there, and {config.n:,} fresh noisy draws test "
        "the smoothed classifier's label (any of an image's points is misjudged with probability at most "
        f"{config.alpha:g}). Attacks: {config.steps} projected gradient steps, {starts}; on the surrogate, towards "
        f"each of the {config.targets} likeliest other classes; on the smoothed classifier, {config.draws} noisy "
        "copies a gradient. An attack that finds nothing proves nothing: an attacker can do at least this."
    )


def _share(value: float | None) -> str:
    return "not found" if value is None else f"{value:.2f} R"
