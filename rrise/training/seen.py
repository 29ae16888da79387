"""Which images trained a classifier that has no record of them, an ONNX file: its user says so, nothing is assumed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rrise.images import load_images

if TYPE_CHECKING:
    from rrise.training.networks import Network

FACT = "classifier_images"
"""The fact that says, from the surrogate to the bundle, how the images that trained the classifier are known."""
NAMED = "named by the user"
UNSEEN = "unseen, on the user's word"


@dataclass(frozen=True)
class SeenConfig:
    """What its user says of the images that trained an ONNX classifier: one of the two, and neither of another."""

    trained_on: str = field(
        default="",
        metadata={
            "help": "ONNX classifier: the images that trained it, as a source of images as --data.source takes, or a "
            ".npy file of their ids (rrise.images.image_ids)"
        },
    )
    unseen_by_classifier: bool = field(
        default=False,
        metadata={
            "help": "ONNX classifier: you vouch that no calibration or test image had a part in it; bundles say so"
        },
    )

    def __post_init__(self) -> None:
        if self.trained_on and self.unseen_by_classifier:
            raise ValueError(
                f"trained_on: expected none with unseen_by_classifier, got {self.trained_on!r}. Give the images: that "
                "can be checked."
            )


def with_training_images(network: Network, config: SeenConfig) -> Network:
    """Return a classifier with the ids of the images that trained it, and the fact of where those are from.

    Parameters
    ----------
    network : Network
        As :func:`rrise.training.networks.open_classifier` gives it.
    config : SeenConfig

    Raises
    ------
    ValueError
        If the classifier is an ONNX file and the configuration says nothing, or it is not and it says something.
    FileNotFoundError, TypeError
        As :func:`rrise.images.load_images`, of ``trained_on``.
    """
    from rrise.training.networks import OnnxNetwork

    said = config != SeenConfig()
    if not isinstance(network.module, OnnxNetwork):
        if said:
            raise ValueError(
                "trained_on: expected none, nor unseen_by_classifier, for a classifier folder, which records its "
                "training images. Leave them out."
            )
        return network
    if not said:
        raise ValueError(
            "trained_on: expected the images that trained the classifier, of which an ONNX file has no record, got "
            "none. Give --trained-on, or vouch by --unseen-by-classifier that no calibration or test image was one."
        )
    if config.unseen_by_classifier:
        return replace(network, facts={**network.facts, FACT: UNSEEN})
    return replace(network, training_ids=np.unique(_ids(config.trained_on)), facts={**network.facts, FACT: NAMED})


def _ids(source: str) -> npt.NDArray[np.uint64]:
    path = Path(source)
    if path.suffix != ".npy":
        return load_images(source).ids
    try:
        found = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"trained_on: expected a plain .npy array in {path}, got {error}.") from error
    if found.dtype != np.uint64 or found.ndim != 1 or not len(found):
        raise ValueError(
            f"trained_on: expected ids uint64[M] in {path}, got {found.dtype}{list(found.shape)}. Save "
            "rrise.images.image_ids(images) of the uint8 images."
        )
    return np.asarray(found, dtype=np.uint64)
