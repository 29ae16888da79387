"""What a certifier costs before its first certificate and for every one, and when the first is paid back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rrise.evaluation.metrics import break_even


@dataclass(frozen=True)
class Sampled:
    """Images whose noisy copies were evaluated before the first certificate, and how many evaluations that took."""

    images: int = 0
    evaluations: int = 0

    @classmethod
    def of(cls, draws: ArrayLike) -> Sampled:
        """Return the sums of int[N], the draws of each image."""
        each = np.asarray(draws, dtype=np.int64)
        return cls(each.size, int(each.sum()))

    def words(self, what: str) -> str:
        """Return "900 WHAT × 1,000 draws": how many images, and how many draws of each on average."""
        return f"{self.images:,} {what} × {self.evaluations / self.images:,.0f} draws"


@dataclass(frozen=True)
class BreakEven:
    """After how many certificates the offline work is paid back against one Monte Carlo certifier.

    Attributes
    ----------
    name : str
        The Monte Carlo certifier.
    evaluations_each : float
        Its mean noisy evaluations a certificate.
    evaluations : float
        Certificates after which it has spent as many evaluations; infinite where it is not the dearer one.
    seconds_each : float or None
        Its median measured seconds a certificate, None if it was not timed.
    seconds : float or None
        Certificates after which it has taken as many seconds, None if it or the offline work was not timed.
    """

    name: str
    evaluations_each: float
    evaluations: float
    seconds_each: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Costs:
    """Noisy evaluations of the base classifier before the first certificate, and after how many they are paid back.

    Attributes
    ----------
    targets, calibration, profile : Sampled
        For training targets, for calibration, and for the curve's shape where images of its own give it.
    monte_carlo : float
        Evaluations of the baseline for one certificate.
    break_even : float
        Certificates after which the baseline has spent as much; infinite where it is not the dearer one.
    against : tuple of BreakEven
        The same against every Monte Carlo certifier of the comparison, the baseline among them.
    larger : float
        Evaluations of the larger Monte Carlo budget for one certificate, 0 without one.
    """

    targets: Sampled
    calibration: Sampled
    monte_carlo: float
    break_even: float
    against: tuple[BreakEven, ...] = ()
    profile: Sampled = Sampled()
    larger: float = 0.0

    @property
    def offline(self) -> int:
        """Evaluations before the first certificate."""
        return self.targets.evaluations + self.profile.evaluations + self.calibration.evaluations

    @property
    def words(self) -> str:
        """One line: what was paid once, and what Monte Carlo pays for each image."""
        named = ((self.targets, "targets"), (self.profile, "images of the curve's shape"))
        parts = [part.words(name) for part, name in (*named, (self.calibration, "calibration images")) if part.images]
        once = f"{', '.join(parts)}, {self.offline:,} noisy evaluations in all, and the fit" if parts else "nothing"
        more = f", with the larger budget {self.larger:,.0f}" if self.larger else ""
        return f"Paid once: {once}. Monte Carlo pays {self.monte_carlo:,.0f} evaluations for each image{more}."


def break_evens(
    evaluations_each: Mapping[str, float],
    *,
    offline: int,
    single_pass: float = 1.0,
    seconds_each: Mapping[str, float] | None = None,
    offline_seconds: float | None = None,
    single_pass_seconds: float | None = None,
) -> tuple[BreakEven, ...]:
    """Return the break-even against each Monte Carlo certifier, in evaluations and, where all was timed, in seconds.

    Parameters
    ----------
    evaluations_each : mapping of str to float
        Mean noisy evaluations a certificate, by the certifier's name.
    offline : int
        Evaluations spent before the first single-pass certificate.
    single_pass : float
        Evaluations that a single-pass certificate counts for.
    seconds_each : mapping of str to float, optional
        Measured seconds a certificate, of those certifiers that were timed.
    offline_seconds, single_pass_seconds : float, optional
        Measured seconds before the first single-pass certificate (targets, fit, calibration), and of each one.
    """
    found = []
    for name, each in evaluations_each.items():
        seconds = (seconds_each or {}).get(name)
        paid_back = None
        if seconds is not None and offline_seconds is not None and single_pass_seconds is not None:
            paid_back = break_even(offline_seconds, seconds, single_pass_seconds)
        found.append(
            BreakEven(
                name=name,
                evaluations_each=each,
                evaluations=break_even(offline, each, single_pass),
                seconds_each=seconds,
                seconds=paid_back,
            )
        )
    return tuple(found)
