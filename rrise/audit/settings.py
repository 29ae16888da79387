"""How certificates are audited, checked, and the rate that a bundle's guarantee promises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rrise.promise import decimal, rounded_up

if TYPE_CHECKING:
    from rrise.runtime.bundle_schema import Bundle

ABOUT_ALL_INPUTS = ("marginal", "training-conditional", "certified")
"""Guarantees that bound the share of all inputs with a wrong certificate; ``certified`` bounds that of fewer inputs."""


def promised(bundle: Bundle) -> float:
    """Return the share of all inputs, abstentions among them, whose bound may be too high: what the bundle promises.

    Raises
    ------
    ValueError
        If the guarantee is about other inputs than all: abstentions would not count as they do here.
    """
    calibration = bundle.calibration
    if calibration.guarantee not in ABOUT_ALL_INPUTS:
        raise ValueError(
            f"audit: expected a guarantee about all inputs ({', '.join(ABOUT_ALL_INPUTS)}), got "
            f"{calibration.guarantee!r}. Audit a bundle with such a guarantee."
        )
    return calibration.error


@dataclass(frozen=True)
class AuditSettings:
    """Settings of :class:`rrise.audit.auditor.Auditor`, which explains them; ``m`` is the rate that is bet against."""

    m: float
    rate: float
    n: int
    b: float
    alpha: float
    waiting: int
    save_every: int

    @classmethod
    def of(
        cls, error: float, rate: float, n: int, b: float | None, alpha: float, waiting: int, save_every: int
    ) -> AuditSettings:
        """Return the settings for a promised share of ``error``, or raise ValueError naming what is out of range."""
        level = error / 10 if b is None else b
        if not 0 < rate <= 1:
            raise ValueError(f"rate: expected a share of inputs in (0,1], got {rate}. Try 0.01.")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: expected a probability of a false alarm in (0,1), got {alpha}. Try 0.01.")
        if not (1e-20 <= level < 0.5 and error + level < 1):
            raise ValueError(
                f"b: expected a probability of at least 1e-20, below 1/2 and below 1 - {error:g}, got {level}. Try "
                f"{error / 10:g}."
            )
        # No draw for the label refutes a claim of more than 1/2 if 1 - b^(1/n) < 1/2.
        least = math.floor(-math.log2(level)) + 1
        if n < least:
            raise ValueError(
                f"n: expected at least {least} evaluations, or no certificate could be refuted at b={level:g}, got "
                f"{n}. Try 1000."
            )
        for name, value in (("waiting", waiting), ("save_every", save_every)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}. Leave it out.")
        return cls(rounded_up(decimal(error) + decimal(level)), rate, n, level, alpha, waiting, save_every)
