"""What a bundle's statement adds to the guarantee: how its counts were drawn, what an input is, who picks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrise.calibration.conformal import CalibrateConfig
    from rrise.images import Splits
    from rrise.targets.manifest import Manifest

CAVEATS = {
    "grid": "",
    "gaussian": " The noise was added in floating point, whose rounding carries traces of the input: the statement is "
    "one of exact arithmetic, not of the computation.",
}
"""What a bundle's statement adds for each sampler."""
ON_TRUST = " That the base classifier saw no calibration image is its user's word; rrise could not check it."
"""What a bundle's statement adds where nobody named the images that trained the classifier."""
_RARE = 10
"""Repeats are rare if their share of the source is at most one in so many of what may be wrong."""


def caveats(spec: Mapping[str, Any], facts: Manifest) -> str:
    """Return what a statement adds of how the calibration counts were drawn and the classifier's images are known."""
    from rrise.training.seen import FACT, UNSEEN

    return CAVEATS[facts.sampler] + (ON_TRUST if spec.get(FACT) == UNSEEN else "")


def repeated(splits: Splits, config: CalibrateConfig) -> str:
    """Return what a statement adds where the source held equal pictures, of which the first alone was taken.

    Raises
    ------
    ValueError
        If they are so many that the promise, which is of distinct pictures, says little of the source's own stream.
    """
    from rrise.promise import percent, promise

    if not splits.repeats:
        return ""
    share, promised = splits.repeats / splits.pictures, config.alpha or float(promise(config.beta, config.gamma))
    many = f"{splits.repeats:,} of the {splits.pictures:,} pictures of the source"
    if share > promised / _RARE and not config.distinct:
        raise ValueError(
            f"calibration: expected a source that repeats few pictures, got {many} that are repeats ({share:.1%}). A "
            f"picture counts once here, and in service as often as it comes: {percent(promised)} may not hold there. "
            "Use distinct pictures, or say that the promise is of those: --distinct (calibrate.distinct=true)."
        )
    return f" Inputs are distinct pictures: {many} were repeats and left out."


def together(config: CalibrateConfig) -> str:
    """Return what a statement adds where one of several bundles will be picked by its results."""
    if config.of == 1:
        return ""
    return (
        f" It is one of {config.of} bundles from the same calibration inputs; with confidence {1 - config.eta:.6g} all "
        "of them hold, whichever is picked."
    )
