"""What the deployed engine and the smoothed classifier answer at attacked points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.attack.attacker import Attacker
    from rrise.evaluation.attack_config import AttackConfig
    from rrise.evaluation.attacks import Attacked
    from rrise.images.image_set import ImageSet
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.certifier import Certifier
    from rrise.targets.passes import Classifier


def engine_labels(certifier: Certifier, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return int64[N], the labels of the largest logits, where the bundle abstains too; -1 where one is not finite.

    Each image is a pass of its own, as deployed and as calibrated.
    """
    from rrise import _C
    from rrise.runtime.certifier import engine_logits

    return _C.top(engine_logits(certifier.engine, images, 1))[0]


def certificates_of(certifier: Certifier, images: NDArray[np.uint8]) -> Certificates:
    """Return the bundle's certificates of images, each from a pass of its own."""
    from rrise.runtime.certificates import Certificates

    rows = [certifier.certify_one(image) for image in images]
    columns = [np.array([row[i] for row in rows], dtype=np.float64) for i in (1, 2, 3)]
    certified = np.array([row.label for row in rows], dtype=np.int64)
    q, p_lower, radius = columns
    return Certificates(certified, radius, p_lower, q, np.zeros(len(rows), np.int64))


def pictures(points: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return points uint8[M, C, H, W] in the layout of images uint8[N, H, W] or uint8[N, H, W, C]."""
    return np.ascontiguousarray(points.transpose(0, 2, 3, 1)).reshape(len(points), *like.shape[1:])


def attacked_points(
    config: AttackConfig,
    certifier: Certifier,
    attacker: Attacker,
    sampled: Classifier,
    images: ImageSet,
    radii: NDArray[np.float64],
    each: Callable[[int], object],
) -> list[Attacked]:
    """Return what is answered at the points of both attacks within every multiple of the certified radii.

    Parameters
    ----------
    config : AttackConfig
    certifier : Certifier
    attacker : Attacker
        Before the same images in the same order.
    sampled : callable
        The classifier as it was sampled at calibration.
    images : ImageSet
        The certified ones, N.
    radii : float64[N]
    each : callable
        Gets the number of images after each batch of attacks.
    """
    from rrise.attack.smallest import grid_distance
    from rrise.evaluation.attacks import Attacked
    from rrise.evaluation.baselines import cohen_predict
    from rrise.images import image_ids
    from rrise.targets.noise import REFERENCE
    from rrise.targets.sampling import sample_counts

    rows, found = np.arange(len(images)), []
    for reach in config.reach:
        for name, run in (("surrogate", attacker.on_surrogate), ("smoothed", attacker.on_smoothed)):
            points = pictures(run(rows, reach * radii, each), images.images)
            counts = sample_counts(
                sampled,
                points,
                image_ids(points),
                sigma=certifier.sigma,
                n=config.n,
                seed=config.seed,
                sampler=certifier.bundle.provenance.get("sampler", "grid"),
                stream=REFERENCE,
                device=config.device,
                threads=config.threads,
            )
            smoothed = cohen_predict(counts.astype(np.int64), alpha=config.level)
            distance = grid_distance(points, images.images)
            labels = engine_labels(certifier, points)
            found.append(Attacked(name, reach, distance, labels, certificates_of(certifier, points), smoothed))
    return found
