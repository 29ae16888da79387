"""The options of the stage that calibrates, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from rrise.calibration.curves import FAMILIES, USUAL
from rrise.calibration.guarantees import (
    CERTIFIED,
    GUARANTEES,
    MARGINAL,
    TRAINING_CONDITIONAL,
    check_levels,
    exact,
)
from rrise.calibration.shift import exact_priors
from rrise.promise import rounded_down

PAID_ONCE = 10
"""Draws of a calibration image for each one of a Monte Carlo certificate, unless told otherwise: they are paid once."""


@dataclass(frozen=True)
class CalibrateConfig:
    """How to calibrate; one bundle is made for each curve."""

    curves: tuple[str, ...] = field(
        default=USUAL, metadata={"help": f"curve families, one bundle each: {', '.join(FAMILIES)}"}
    )
    alpha: float = field(
        default=0.0,
        metadata={
            "help": "what may be wrong, gamma / (1 - beta), for which the beta and gamma are taken that give the "
            "largest radii on training images; 0: beta and gamma as given"
        },
    )
    beta: float = field(
        default=0.001, metadata={"help": "error probability of the bound from each calibration image's noisy draws"}
    )
    gamma: float = field(
        default=0.049,
        metadata={"help": "share of future inputs whose bound may lie below the curve; promised is gamma / (1 - beta)"},
    )
    eta: float = field(
        default=0.01,
        metadata={"help": "probability that an unlucky calibration set breaks a guarantee, unless it is marginal"},
    )
    guarantee: str = field(
        default=TRAINING_CONDITIONAL,
        metadata={
            "help": "training-conditional (of the deployed curve), certified (the same among issued certificates) or "
            "marginal (on average over calibrations)"
        },
    )
    priors: tuple[float, ...] = field(
        default=(),
        metadata={"help": "class frequencies in service, in the order of the classes, where they are known to differ"},
    )
    passes: tuple[int, ...] = field(
        default_factory=tuple,
        metadata={
            "help": "numbers m of noisy passes that a certificate may add to the surrogate's; a further bundle for each"
        },
    )
    n: int = field(
        default=0,
        metadata={
            "help": f"noisy draws of a calibration image; 0: in a recipe {PAID_ONCE} × sample.n, by hand as many as "
            "the counts have"
        },
    )
    profile_n: int = field(
        default=0,
        metadata={
            "help": "noisy draws of an image of data.profile, which shapes the curve as if they were n; 0: in a recipe "
            "sample.n, by hand as many as the counts have"
        },
    )
    of: int = field(
        default=1,
        metadata={
            "help": "bundles from the same calibration images of which one will be picked by its results: each takes "
            "eta / of, so that all hold together"
        },
    )
    distinct: bool = field(
        default=False,
        metadata={
            "help": "promise for distinct pictures although the source repeats many: a picture counts once, however "
            "often it occurs in service"
        },
    )
    cascade: float = field(
        default=0.0,
        metadata={
            "help": "share of alpha (or of gamma) for the first stage of a cascade, a further bundle; Monte Carlo gets "
            "the rest, such as 0.3 beside 0.7; 0: none"
        },
    )

    def __post_init__(self) -> None:
        if not self.curves or len(set(self.curves)) < len(self.curves):
            raise ValueError(f"curves: expected different curve families, got {self.curves}. Name each once.")
        for name in self.curves:
            check_choice("curves", name, FAMILIES)
            check_combination(name, self.guarantee, bool(self.priors))
        check_levels(self.beta, self.gamma, self.eta)
        if self.alpha:
            exact("alpha", self.alpha)
        if self.priors:
            exact_priors(self.priors)
        if self.of < 1:
            raise ValueError(f"of: expected at least 1 bundle, got {self.of}. 1 is a bundle chosen beforehand.")
        if self.of > 1 and self.guarantee == MARGINAL:
            raise ValueError(
                f"of: expected 1 with a marginal guarantee, got {self.of}: averages over calibrations say nothing of "
                f"the best of several. Use {TRAINING_CONDITIONAL}."
            )
        if list(self.passes) != sorted(set(self.passes)) or any(m < 1 for m in self.passes):
            raise ValueError(f"passes: expected rising numbers from 1 on, got {self.passes}. Try 8 32 128.")
        if self.cascade:
            exact("cascade", self.cascade)
            if self.guarantee == CERTIFIED:
                raise ValueError(
                    "cascade: expected a guarantee of all inputs, marginal or training-conditional, got certified, one "
                    "of issued certificates, which Monte Carlo does not give. Use another guarantee, or no cascade."
                )
        for name in ("n", "profile_n"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or a number of draws, got {getattr(self, name)}. Try 10000.")
        if self.passes:
            check_combination("scaled" if "scaled" in self.curves else self.curves[0], self.guarantee, False, True)

    @property
    def eta_each(self) -> float:
        """What is left of eta for each of the bundles that hold together."""
        return rounded_down(exact("eta", self.eta) / self.of)

    def draws(self, n: int) -> int:
        """Return the noisy draws of a calibration image, where a Monte Carlo certificate takes n."""
        return self.n or PAID_ONCE * n

    def profile_draws(self, n: int) -> int:
        """Return the noisy draws of an image that only shapes the curve, where a Monte Carlo certificate takes n."""
        return self.profile_n or n


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices, naming them."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}. Pick one of them.")


def check_combination(curve: str, guarantee: str, shifted: bool, shared_draws: bool = False) -> None:
    """Refuse a guarantee that is none, or that no theorem gives for this curve, shifted classes or shared draws."""
    check_choice("guarantee", guarantee, GUARANTEES)
    if curve == "binned" and guarantee == CERTIFIED:
        raise ValueError(
            "guarantee: expected marginal or training-conditional for the binned curve, got certified. "
            "Its bins are guarantees of their own; or use the scaled curve."
        )
    if shifted and (guarantee != MARGINAL or curve == "binned"):
        raise ValueError(
            f"priors: expected a marginal guarantee of the offset or scaled curve, got {guarantee} of {curve}. "
            "Weighted calibration guarantees nothing more."
        )
    if shared_draws and (curve == "binned" or guarantee == CERTIFIED):
        # Which inputs are certified, or in a bin, then depends on draws, and given that beta says nothing of them.
        raise ValueError(
            f"passes: expected a marginal or training-conditional guarantee of the offset or scaled curve, got "
            f"{guarantee} of {curve}. With noisy passes nothing more is guaranteed."
        )
