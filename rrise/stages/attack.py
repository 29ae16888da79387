"""From a bundle and its networks to what an attacker can and cannot do within the certified radius."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.stages.attacked_points import attacked_points, certificates_of, engine_labels, pictures
from rrise.stages.calibrate import require_unseen
from rrise.stages.provenance import as_calibrated, require_calibrated_on, require_of
from rrise.stages.whole import whole_folder
from rrise.stages.workers import deterministic

if TYPE_CHECKING:
    from rrise.evaluation.attack_config import AttackConfig
    from rrise.evaluation.attack_tables import AttackReport
    from rrise.images import Splits
    from rrise.runtime.certifier import Certifier
    from rrise.training.networks import Network


def attack(
    splits: Splits,
    config: AttackConfig,
    bundle: Path,
    surrogate: Path,
    classifier: Path,
    out: Path,
    *,
    progress: bool = True,
) -> str:
    """Attack every certified test image, on the surrogate and on the smoothed classifier; write attack.md and .json.

    Raises
    ------
    ValueError
        If the networks or the calibration images are not those that the bundle was made from, the classifier has no
        gradient (an ONNX file), a test image had a part in any of them, or nothing is certified.
    """
    import torch

    from rrise.evaluation.attack_tables import as_json, as_markdown, said
    from rrise.training.artifacts import refuse_existing

    refuse_existing(out)
    networks = _networks(bundle, surrogate, classifier)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        report = _report(splits, config, networks, progress)
    finally:
        torch.set_num_threads(before)
    with whole_folder(out) as folder:
        (folder / "attack.md").write_text(as_markdown(report), encoding="utf-8")
        (folder / "attack.json").write_text(as_json(report), encoding="utf-8")
    own = report.row("surrogate")
    return (
        f"surrogate's label changed within R at {said(own.surrogate_flips)} of {own.surrogate_flips.total} certified "
        f"images, the smoothed classifier's at {report.refuted.found.count}; {out}/attack.md"
    )


@dataclass(frozen=True, eq=False)
class _Networks:
    certifier: Certifier
    surrogate: Network
    classifier: Network


def _networks(bundle: Path, surrogate: Path, classifier: Path) -> _Networks:
    """Open a bundle and the two networks of its provenance, and no others."""
    from rrise.runtime.certifier import Certifier
    from rrise.training.networks import OnnxNetwork, load_network, open_classifier

    certifier = Certifier.load(bundle)
    found = _Networks(certifier, load_network(surrogate), open_classifier(classifier))
    require_of(certifier.bundle, "surrogate", found.surrogate, surrogate)
    require_of(certifier.bundle, "classifier", found.classifier, classifier)
    if isinstance(found.classifier.module, OnnxNetwork):
        raise ValueError(
            f"classifier: expected a network that torch can differentiate, got the ONNX file {classifier}, "
            "which has no gradient. Attack a bundle whose classifier is a folder of `rrise train`, or of save_network."
        )
    return found


def _report(splits: Splits, config: AttackConfig, networks: _Networks, progress: bool) -> AttackReport:
    from tqdm import tqdm

    from rrise.attack.ascent import Ascent
    from rrise.attack.attacker import Attacker
    from rrise.attack.smallest import smallest_flips
    from rrise.devices import usable_device
    from rrise.evaluation.attack_tables import AttackReport
    from rrise.evaluation.attacks import attack_row, refutations, smallest_of
    from rrise.training.pixels import image_tensor

    certifier, device = networks.certifier, usable_device(config.device)
    splits = splits.named_as(certifier.classes)
    shown = splits.test.take(np.arange(min(config.images or len(splits.test), len(splits.test))))
    require_calibrated_on(certifier.bundle, splits.calibration)
    used = [networks.surrogate.training_ids, networks.classifier.training_ids, splits.calibration.ids]
    require_unseen("test", shown, np.concatenate(used))
    certificates = certificates_of(certifier, shown.images)
    certified = np.flatnonzero(~certificates.abstained)
    if not len(certified):
        raise ValueError(
            f"images: expected one that the bundle certifies, got {len(shown)} abstentions. Show more images."
        )
    images, labels, radii = shown.take(certified), certificates.label[certified], certificates.radius[certified]
    deterministic()
    surrogate, base = networks.surrogate.module.to(device), networks.classifier.module.to(device)
    attacker = Attacker(
        surrogate=surrogate,
        classifier=base,
        images=image_tensor(images.images, images.input_shape).numpy(),
        labels=labels,
        sigma=certifier.sigma,
        ascent=Ascent(config.steps, config.step, config.restarts),
        targets=config.targets,
        draws=config.draws,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
    )
    provenance = certifier.bundle.provenance
    sampled = as_calibrated(certifier.bundle, networks.classifier, device)
    total = len(images) * (2 * len(config.reach) + config.halvings)
    with tqdm(total=total, unit="attack", disable=None if progress else True, leave=False) as bar:
        found = attacked_points(config, certifier, attacker, sampled, images, radii, bar.update)
        known = np.full(len(images), np.inf)
        for each in found:
            known = np.where(each.surrogate != labels, np.minimum(known, each.distance), known)
        nearest = smallest_flips(
            attacker.images,
            known,
            attacker.on_surrogate,
            lambda rows, points: engine_labels(certifier, pictures(points, images.images)) != labels[rows],
            config.halvings,
            bar.update,
        )
    return AttackReport(
        config=config,
        statement=certifier.statement,
        rows=tuple(attack_row(each, labels, radii) for each in found),
        refuted=refutations(
            found, labels, shown=len(shown), promised=certifier.bundle.calibration.error, doubt=config.alpha
        ),
        smallest=smallest_of(nearest, radii),
        provenance={
            "bundle": certifier.bundle.sha256,
            "surrogate": networks.surrogate.sha256,
            "classifier": networks.classifier.sha256,
            "test images": shown.sha256,
            "sigma": certifier.sigma,
            "sampler": provenance.get("sampler", "grid"),
        },
    )
