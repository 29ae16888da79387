"""From images to an engine: train the classifier, sample it, fit its surrogate, export that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrise.data import ImageSet
    from rrise.targets.sampling import SampleConfig
    from rrise.targets.store import CountStore
    from rrise.training.classifier import TrainConfig
    from rrise.training.export import ExportConfig
    from rrise.training.networks import Network
    from rrise.training.surrogate import FitConfig

CHECKED_IMAGES = 256
"""Training images on which an exported engine is compared with torch."""


def train(images: ImageSet, config: TrainConfig, out: Path, *, progress: bool = True) -> str:
    """Train a base classifier under noise and save it."""
    from rrise.training.artifacts import refuse_existing
    from rrise.training.classifier import train_classifier
    from rrise.training.networks import save_network

    refuse_existing(out)
    spec, module, facts = train_classifier(images, config, len(images.classes), progress=progress)
    facts |= {"kind": "classifier", "classes": list(images.classes), "images_sha256": images.sha256}
    save_network(out, spec, module, images.ids, **facts)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return f"{spec.network}, {parameters:,} parameters, final loss {facts['training_loss']:.3f}, in {out}"


def sample(
    images: ImageSet, config: SampleConfig, classifier: Path, out: str | Path, *, stream: int, progress: bool = True
) -> str:
    """Sample class counts into a store, going on where an earlier run stopped."""
    from rrise.training.networks import load_network

    store, sampled = fill_counts(images, config, load_network(classifier), out, stream=stream, progress=progress)
    return f"{len(images)} images × {config.n} draws in {out} ({sampled} of {store.shards} shards sampled now)"


def fill_counts(
    images: ImageSet, config: SampleConfig, network: Network, out: str | Path, *, stream: int, progress: bool
) -> tuple[CountStore, int]:
    """Return the complete store of these images and settings, and how many of its shards were missing."""
    from rrise.targets.store import CountStore, Manifest, fill_store

    if network.spec.num_classes != len(images.classes):
        raise ValueError(
            f"classifier: expected {len(images.classes)} classes as in the images, got {network.spec.num_classes}. "
            "Sample the images it was trained for, or name all its classes in the images' source."
        )
    manifest = Manifest.of(
        config, images, stream=stream, num_classes=network.spec.num_classes, classifier_sha256=network.sha256
    )
    store = CountStore.open(out, manifest)
    deterministic()
    classifier = network.module.to(config.device)
    sampled = fill_store(store, classifier, images, device=config.device, threads=config.threads, progress=progress)
    return store, len(sampled)


def deterministic() -> None:
    """Make a GPU give the same counts each time: no search for algorithms, no shortened arithmetic."""
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def fit(
    images: ImageSet, config: FitConfig, classifier: Path, counts: str | Path, out: Path, *, progress: bool = True
) -> str:
    """Fit the surrogate to the counts of the training images and save it."""
    from rrise.targets.store import CountStore
    from rrise.training.artifacts import refuse_existing
    from rrise.training.networks import load_network
    from rrise.training.surrogate import fit_surrogate

    refuse_existing(out)
    network = load_network(classifier)
    store = CountStore.open(counts)
    require_counts_of(network.sha256, store)
    table = store.table().rows(images.ids)
    surrogate = fit_surrogate(network, images.images, table.counts, config, training_ids=images.ids, progress=progress)
    surrogate.save(
        out,
        classes=list(images.classes),
        classifier_sha256=network.sha256,
        counts_sha256=store.sha256,
        sigma=store.manifest.sigma,
    )
    return f"strategy {config.strategy}, loss {config.loss}, {surrogate.summary()}, in {out}"


def export(images: ImageSet, config: ExportConfig, surrogate: Path, out: Path) -> str:
    """Export the surrogate to an engine and check it against torch on training images."""
    from rrise.training.export import export_onnx
    from rrise.training.networks import load_network

    network = load_network(surrogate)
    if network.facts.get("kind") != "surrogate":
        raise ValueError(
            f"surrogate: expected a folder written by `rrise fit`, got a {network.facts.get('kind')} in {surrogate}. "
            "Fit a surrogate to its counts first."
        )
    spec = export_onnx(network, out, config, images.images[:CHECKED_IMAGES])
    return f"{spec['precision']} ONNX, probabilities within {spec['max_probability_error']:.1e} of torch's, in {out}"


def require_counts_of(classifier_sha256: str, store: CountStore) -> None:
    """Raise ValueError unless a store holds counts of this classifier."""
    found = store.manifest.classifier_sha256
    if found != classifier_sha256:
        raise ValueError(
            f"counts: expected counts of the classifier with sha256 {classifier_sha256[:12]}, got those of "
            f"{found[:12]} in {store.uri}. Sample again with this classifier."
        )
