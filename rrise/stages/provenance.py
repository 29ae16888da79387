"""Networks held against what a bundle says it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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


def as_calibrated(bundle: Bundle, network: Network, device: str | torch.device) -> Classifier:
    """Return a bundle's base classifier, run in the precision in which it was sampled for calibration."""
    from rrise.targets.passes import prepare_classifier

    facts = bundle.provenance
    precision, compiled = str(facts.get("precision", "float32")), bool(facts.get("compiled", False))
    return prepare_classifier(network.module, device, precision, compiled)
