"""What a bundle says it was made from, and networks, images, counts and settings held against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rrise.images import ImageSet
    from rrise.runtime.bundle_schema import Bundle
    from rrise.targets.passes import Classifier
    from rrise.training.networks import Network


def require_of(bundle: Bundle, role: str, network: Network, place: str | Path, name: str = "the bundle") -> None:
    """Raise ValueError unless a network is the ``classifier`` or ``surrogate`` that a bundle was made from."""
    recorded = bundle.provenance.get(f"{role}_sha256")
    if network.sha256 != recorded:
        raise ValueError(
            f"{role}: expected the one that {name} was made from, sha256 {recorded}, got {network.sha256} in {place}. "
            f"Name that {role}: nothing is guaranteed of another."
        )


def require_calibrated_on(bundle: Bundle, images: ImageSet, name: str = "the bundle") -> None:
    """Raise ValueError unless these are the images that a bundle was calibrated on.

    Only then are the other images of the same splits known to be none of them.
    """
    recorded = bundle.provenance.get("calibration_images_sha256")
    if images.sha256 != recorded:
        raise ValueError(
            f"calibration: expected the images that {name} was calibrated on, sha256 {recorded}, got {len(images)} of "
            f"sha256 {images.sha256}. Give the data settings of its calibration: by others, test images may be among "
            "those that calibrated it."
        )


def require_counts_behind(bundle: Bundle, sha256: str, place: str, name: str = "the bundle") -> None:
    """Raise ValueError unless counts are those that a bundle was calibrated on.

    Their manifest then says how the smoothed classifier was drawn that the bundle speaks of.
    """
    recorded = bundle.provenance.get("calibration_counts_sha256")
    if sha256 != recorded:
        raise ValueError(
            f"counts: expected those that {name} was calibrated on, sha256 {recorded}, got {sha256} in {place}. "
            "Name the folder that holds them."
        )


def as_calibrated(bundle: Bundle, network: Network, device: str | torch.device) -> Classifier:
    """Return a bundle's base classifier, run in the precision in which it was sampled for calibration."""
    from rrise.targets.passes import prepare_classifier

    facts = bundle.provenance
    precision, compiled = str(facts.get("precision", "float32")), bool(facts.get("compiled", False))
    return prepare_classifier(network.module, device, precision, compiled)
