"""The bundle of a cascade: calibrated at a part of the promise, so that Monte Carlo may spend the rest.

It is a plain bundle with its own, smaller promise; its provenance says what the promise is in all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rrise.calibration.cascade import describe_first_stage, left_over, part

if TYPE_CHECKING:
    from rrise.calibration.conformal import CalibrateConfig, Calibration
    from rrise.runtime.bundle_schema import Bundle

FOLDER = "cascade"
"""A curve's bundle for a cascade lies in a folder such as scaled-cascade."""
_FACT = "cascade_alpha"


def first_stage(config: CalibrateConfig) -> CalibrateConfig:
    """Return the settings of the first stage: the share of alpha, or of gamma beside the same beta."""
    if config.alpha:
        return replace(config, alpha=part("alpha", config.alpha, config.cascade))
    return replace(config, gamma=part("gamma", config.gamma, config.cascade))


def described(calibration: Calibration, alpha: float) -> tuple[str, dict[str, Any]]:
    """Return what a first stage adds to its bundle's statement and provenance, where the promise in all is alpha."""
    return describe_first_stage(alpha, left_over(alpha, calibration.error)), {_FACT: alpha}


def cascade_alpha(bundle: Bundle) -> float | None:
    """Return what a bundle and Monte Carlo promise in all if it is a cascade's first stage, None if it is none.

    Raises
    ------
    ValueError
        If its provenance says nonsense of it, or its guarantee is one of issued certificates alone.
    """
    if _FACT not in bundle.provenance:
        return None
    alpha = bundle.provenance[_FACT]
    if not (isinstance(alpha, float) and bundle.calibration.error < alpha < 1):
        raise ValueError(
            f"bundle: expected provenance.{_FACT} between its own promise of {bundle.calibration.error:g} and 1, got "
            f"{alpha!r}. Re-run rrise calibrate --cascade."
        )
    if bundle.calibration.guarantee == "certified":
        raise ValueError(
            "bundle: expected a guarantee of all inputs in a cascade, got one of issued certificates, which Monte "
            "Carlo does not give. Re-run rrise calibrate --cascade with another."
        )
    return alpha


def monte_carlo_alpha(bundle: Bundle) -> float:
    """Return the failure probability that a first stage leaves to each Monte Carlo certificate.

    >>> bundle = load_bundle("runs/digits/bundles/scaled-cascade")                        # doctest: +SKIP
    >>> second = MonteCarloCertifier(noisy_source(bundle, "runs/digits/classifier"),      # doctest: +SKIP
    ...                              alpha=monte_carlo_alpha(bundle))

    Raises
    ------
    ValueError
        If the bundle is no first stage of a cascade.
    """
    alpha = cascade_alpha(bundle)
    if alpha is None:
        raise ValueError(
            "bundle: expected the first stage of a cascade, got one whose promise leaves nothing. Use the bundle of "
            "rrise calibrate --cascade."
        )
    return left_over(alpha, bundle.calibration.error)
