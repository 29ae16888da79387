"""The options of the stage that compares certifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rrise.runtime.cascade import check_wanted

_LARGER = 10
"""Draws of Monte Carlo's larger budget for each one of the smaller, unless told otherwise."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How the certifiers of one test set are compared."""

    radii: tuple[float, ...] = field(
        default=(0.0, 0.1, 0.2, 0.3, 0.5, 0.7),
        metadata={"help": "radii at which certified accuracy is tabulated, ℓ2 of [0, 1] pixels"},
    )
    alpha: float = field(
        default=0.0, metadata={"help": "failure probability of a Monte Carlo certificate; 0: what the bundles promise"}
    )
    n_selection: int = field(default=100, metadata={"help": "noisy draws an image that pick Monte Carlo's class"})
    decline: float = field(
        default=0.01, metadata={"help": "share of the radius that an input-specific budget may give up to save draws"}
    )
    tolerance: float = field(
        default=0.01, metadata={"help": "adaptive stopping ends when the radius is known to this, ℓ2 of [0, 1] pixels"}
    )
    wanted: float = field(
        default=0.0,
        metadata={
            "help": "radius below which a cascade asks Monte Carlo too, ℓ2 of [0, 1] pixels; 0: for abstentions alone"
        },
    )
    n_larger: int = field(
        default=-1,
        metadata={
            "help": "noisy draws an image of a second, larger fixed budget of Monte Carlo; -1: "
            f"{_LARGER} × sample.n, 0: none"
        },
    )
    n_reference: int = field(default=10_000, metadata={"help": "noisy draws an image that check the bounds"})
    strict: bool = field(
        default=False, metadata={"help": "fail, after the report is written, if a promise is plainly broken"}
    )
    latency_images: int = field(default=20, metadata={"help": "test images whose certificates are timed"})
    latency_repeats: int = field(default=3, metadata={"help": "times each of them is timed"})

    def __post_init__(self) -> None:
        if not self.radii or any(not (math.isfinite(r) and r >= 0) for r in self.radii):
            raise ValueError(f"radii: expected one or more finite radii >= 0, got {self.radii}. Try 0.0 0.1 0.2.")
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii: expected increasing radii, got {self.radii}. Sort them and drop repeats.")
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha: expected 0 (for what the bundles promise) or a value below 1, got {self.alpha}. Try 0.05."
            )
        if not 0 <= self.decline < 1:
            raise ValueError(f"decline: expected a share of the radius in [0, 1), got {self.decline}. Try 0.01.")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance: expected a length of at least 0, got {self.tolerance}. Try 0.01.")
        check_wanted(self.wanted)
        if self.n_larger < -1:
            raise ValueError(f"n_larger: expected -1 (choose), 0 (none) or more draws, got {self.n_larger}. Try 10000.")
        for name in ("n_selection", "n_reference", "latency_images", "latency_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}. Try the default.")

    def draws(self, n: int, passes: Sequence[int] = ()) -> dict[str, int]:
        """Return the draws of each test image by stream, for Monte Carlo of ``n`` draws and multi-pass certificates.

        Those of the smaller budget are among those of the larger.
        """
        extra = {"extra": max(passes)} if passes else {}
        most = self.larger(n) or n
        return {"selection": self.n_selection, "estimation": most, "reference": self.n_reference} | extra

    def larger(self, n: int) -> int:
        """Return the draws of Monte Carlo's larger budget beside ``n``, 0 for none; ValueError if it is no larger."""
        wanted = _LARGER * n if self.n_larger < 0 else self.n_larger
        if 0 < wanted <= n:
            raise ValueError(
                f"n_larger: expected more draws than sample.n = {n}, or 0 for no second budget, got {wanted}. Raise it."
            )
        return wanted
