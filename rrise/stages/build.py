"""From images to a surrogate: train the classifier, sample it, fit the surrogate to its counts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrise.images import ImageSet, Splits
    from rrise.targets.manifest import Manifest
    from rrise.targets.settings import ExecutionConfig, SampleConfig, TargetsConfig
    from rrise.targets.store import CountStore
    from rrise.training.classifier import TrainConfig
    from rrise.training.networks import Network
    from rrise.training.seen import SeenConfig
    from rrise.training.surrogate import FitConfig

WORTH_IMAGES = 10_000
"""Images whose counts are looked at to say what the smoothed classifier is worth."""


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
    splits: Splits,
    split: str,
    config: SampleConfig,
    execution: ExecutionConfig,
    classifier: str | Path,
    out: str | Path,
    *,
    stream: int,
    targets: TargetsConfig | None = None,
    progress: bool = True,
) -> str:
    """Sample class counts into a store, going on where an earlier run stopped; ``targets`` for training targets only.

    Raises
    ------
    ValueError
        If there are settings of targets for other counts, or the classifier does not fit the images.
    """
    from rrise.targets.accuracy import SmoothedAccuracy

    require_targets(targets, split, stream)
    store, sampled, classes = fill_counts(
        splits, split, config, execution, classifier, out, stream=stream, targets=targets, progress=progress
    )
    table, facts = store.table(images=WORTH_IMAGES), store.manifest
    worth = SmoothedAccuracy.of(table.counts, table.labels, classes).words()
    drawn = f"{facts.images} images × {f'{facts.views} views × ' if facts.views > 1 else ''}{facts.n} draws"
    return f"{drawn} in {store.uri} ({sampled} of {store.shards} shards sampled now); {worth}"


def require_targets(targets: TargetsConfig | None, split: str, stream: int) -> None:
    """Raise ValueError where counts that bounds are made from would be sampled as training targets are."""
    from rrise.targets.noise import TARGETS
    from rrise.targets.settings import TargetsConfig

    if targets not in (None, TargetsConfig()) and (split not in ("train", "targets") or stream != TARGETS):
        raise ValueError(
            f"targets: expected no settings of targets for counts of the {split} split, got {targets}. Only training "
            "targets have views: a bound is of an image itself, in passes of its own."
        )


def fill_counts(
    splits: Splits,
    split: str,
    config: SampleConfig,
    execution: ExecutionConfig,
    classifier: str | Path,
    out: str | Path,
    *,
    stream: int,
    targets: TargetsConfig | None = None,
    progress: bool,
) -> tuple[CountStore, int, tuple[str, ...]]:
    """Return the complete store of these images and settings, how many of its shards were missing, and the classes.

    Raises
    ------
    ValueError
        If the classifier does not fit the images, or is no function of one image.
    """
    from rrise.stages.workers import WorkerSpec, local_network
    from rrise.targets.store import CountStore
    from rrise.training.one_image import require_one_image

    network = local_network(classifier)
    images: ImageSet = getattr(splits.named_as(network.classes), split)
    manifest = manifest_of(images, config, network, stream=stream, targets=targets)
    require_one_image(network.module, images.input_shape)  # of made-up images: a bad one is a worker's to survive
    store = CountStore.open(out, manifest)
    log = log_file(execution, out)
    spec = WorkerSpec.of(splits, split, config, execution, classifier, manifest)
    try:
        if execution.executor == "ray":
            from rrise.targets.ray_session import quieten

            quieten(execution.address)
            from rrise.targets.distributed import fill_store_over_ray

            sampled = fill_store_over_ray(
                store, images, spec, execution, device=config.device, progress=progress, log=log
            )
        else:
            from rrise.targets.filling import fill_store

            sampled = fill_store(store, spec.evaluator(network, images), progress=progress, log=log)
    except BaseException:
        with suppress(OSError):  # the error that ended it is the one to tell
            store.forget_if_empty()
        raise
    return store, len(sampled), images.classes


def manifest_of(
    images: ImageSet, config: SampleConfig, network: Network, *, stream: int, targets: TargetsConfig | None = None
) -> Manifest:
    """Return the facts of sampling these images by that classifier; ValueError if it is not made for that."""
    from rrise.targets.manifest import Manifest
    from rrise.training.networks import OnnxNetwork

    if network.spec.num_classes != len(images.classes):
        raise ValueError(
            f"classifier: expected {len(images.classes)} classes as in the images, got {network.spec.num_classes}. "
            "Sample the images it was trained for, or name all its classes in the images' source."
        )
    if network.spec.input_shape != images.input_shape:
        raise ValueError(
            f"classifier: expected one of images of shape {images.input_shape} (channels first), got one of "
            f"{network.spec.input_shape}. Resize or convert the images as those that trained it."
        )
    if isinstance(network.module, OnnxNetwork):
        network.module.require_runs(config.device, config.precision, config.compile)
    return Manifest.of(
        config,
        images,
        stream=stream,
        num_classes=network.spec.num_classes,
        classifier_sha256=network.sha256,
        targets=targets,
    )


def log_file(execution: ExecutionConfig, out: str | Path) -> Path | None:
    """Return where the progress of counts goes as JSON lines: as asked for, or beside counts that are local."""
    if execution.log:
        return Path(execution.log)
    return None if "://" in str(out) else Path(f"{str(out).rstrip('/')}.jsonl")


def fit(
    images: ImageSet,
    config: FitConfig,
    classifier: Path,
    counts: str | Path,
    out: Path,
    *,
    seen: SeenConfig | None = None,
    progress: bool = True,
) -> str:
    """Fit the surrogate to the counts of the training images and save it; ``seen`` is for an ONNX classifier.

    An interrupted fit goes on at the pass where it was, from a hidden folder beside ``out``, to the same weights.
    """
    from rrise._C import __version__
    from rrise.targets.store import CountStore
    from rrise.training.artifacts import refuse_existing
    from rrise.training.checkpoint import Checkpoint
    from rrise.training.networks import open_classifier
    from rrise.training.seen import FACT, SeenConfig, with_training_images
    from rrise.training.surrogate import fit_surrogate

    refuse_existing(out)
    network = with_training_images(open_classifier(classifier), seen or SeenConfig())
    images = images.named_as(network.classes)
    store = CountStore.open(counts)
    require_counts_of(network.sha256, store)
    digest = store.sha256
    checkpoint = Checkpoint(
        out,
        {
            "fit": asdict(config),
            "classifier": network.sha256,
            "counts": digest,
            "images": images.sha256,
            "versions": {"rrise": __version__, "torch": version("torch"), "timm": version("timm")},
        },
    )
    surrogate = fit_surrogate(
        network,
        images.images,
        lambda view: store.table(view).rows(images.ids).counts,
        config,
        training_ids=images.ids,
        views=store.manifest.made,
        checkpoint=checkpoint,
        progress=progress,
    )
    surrogate.save(
        out,
        classes=list(images.classes),
        classifier_sha256=network.sha256,
        counts_sha256=digest,
        sigma=store.manifest.sigma,
        **({FACT: network.facts[FACT]} if FACT in network.facts else {}),
    )
    checkpoint.clear()
    return f"strategy {config.strategy}, loss {config.loss}, {surrogate.summary()}, in {out}"


def require_counts_of(classifier_sha256: str, store: CountStore) -> None:
    """Raise ValueError unless a store holds counts of this classifier."""
    found = store.manifest.classifier_sha256
    if found != classifier_sha256:
        raise ValueError(
            f"counts: expected counts of the classifier with sha256 {classifier_sha256[:12]}, got those of "
            f"{found[:12]} in {store.uri}. Sample again with this classifier."
        )
