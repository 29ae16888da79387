"""From bundles to a verdict: certify the test images, certify them by Monte Carlo, and check both with more draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.stages.build import fill_counts
from rrise.stages.calibrate import require_unseen, score
from rrise.stages.whole import whole_folder
from rrise.stages.workers import deterministic

if TYPE_CHECKING:
    from rrise.data import ImageSet, Splits
    from rrise.evaluation.comparison import CalibrationView, Comparison, Contender, EvaluateConfig
    from rrise.evaluation.latency import Latency
    from rrise.runtime.certifier import Certifier
    from rrise.targets.settings import ExecutionConfig, SampleConfig
    from rrise.targets.store import CountStore
    from rrise.training.networks import Network
    from rrise.training.seen import SeenConfig

BASELINE = "Monte Carlo"
DEPLOYED = "scaled"
"""The bundle whose result is stated, if it is among those compared: chosen before any test image is seen."""
EXAMPLES = 6
"""Test images saved as PNG beside the report, to try ``rrise certify`` on."""


def evaluate(
    splits: Splits,
    config: EvaluateConfig,
    sampling: SampleConfig,
    execution: ExecutionConfig,
    bundles: Path,
    classifier: Path,
    counts: str | Path,
    out: Path,
    *,
    seen: SeenConfig | None = None,
    scale: str = "",
    progress: bool = True,
) -> str:
    """Compare all bundles of a folder with Monte Carlo smoothing on the test images.

    Writes table.md and metrics.json (equal in equal runs), timing.json, report.html and examples/. Test counts are
    sampled into ``counts``/selection, estimation and reference, or used if they are there; ``seen`` is for an ONNX
    classifier; ``scale`` says how the run was scaled down, and all that is written repeats it.

    Raises
    ------
    ValueError
        If bundles differ in σ or n, test images were trained or calibrated on, or counts are of something else.
    """
    from rrise.evaluation.latency import timing_as_json
    from rrise.evaluation.report import write_report
    from rrise.evaluation.tables import as_json, as_markdown
    from rrise.targets.noise import STREAMS
    from rrise.targets.store import CountStore
    from rrise.targets.uris import within
    from rrise.training.artifacts import refuse_existing
    from rrise.training.networks import open_classifier
    from rrise.training.seen import SeenConfig, with_training_images

    refuse_existing(out)
    certifiers = _certifiers(bundles)
    network = with_training_images(open_classifier(classifier), seen or SeenConfig())
    for name, certifier in certifiers.items():
        calibrated_on = certifier.bundle.provenance.get("classifier_sha256")
        if calibrated_on != network.sha256:
            raise ValueError(
                f"classifier: expected the one that bundle {name} was calibrated on, sha256 {calibrated_on}, got "
                f"{network.sha256} in {classifier}. Name that classifier."
            )
    images = splits.test
    used = np.concatenate([network.training_ids, splits.train.ids, splits.calibration.ids])
    require_unseen("test", images, used)
    first = next(iter(certifiers.values())).bundle
    base = replace(sampling, sigma=first.sigma, n=first.calibration.n, first_n=0)
    calibration = CountStore.open(within(str(counts), "calibration")).manifest
    for name in ("precision", "compile", "device"):
        run, asked = getattr(calibration, name), getattr(base, name)
        if run != (asked.partition(":")[0] if name == "device" else asked):
            raise ValueError(
                f"sample.{name}: expected {run!r} as in the calibration counts, got {asked!r}. Another one rounds "
                "otherwise, and is another classifier."
            )
    latency = _latency(certifiers, network, images, base, config)
    draws = config.draws(base.n)
    stores = {
        name: fill_counts(
            splits,
            "test",
            replace(base, n=n),
            execution,
            classifier,
            within(str(counts), name),
            stream=STREAMS[name],
            progress=progress,
        )[0]
        for name, n in draws.items()
    }
    comparison, views = _compare(splits, config, base, certifiers, network, str(counts), stores, latency, scale)
    with whole_folder(out) as folder:
        (folder / "table.md").write_text(as_markdown(comparison), encoding="utf-8")
        (folder / "metrics.json").write_text(as_json(comparison), encoding="utf-8")
        (folder / "timing.json").write_text(timing_as_json(latency, comparison.costs.against), encoding="utf-8")
        write_report(
            comparison,
            folder / "report.html",
            title=f"{out.parent.name or 'report'}, σ = {base.sigma:g}",
            images=images.images,
            classes=images.classes,
            calibrations=views,
        )
        _save_examples(images, folder / "examples")
    row = comparison.row(comparison.deployed)
    return (
        f"{row.name}: mean certified radius {row.average_certified_radius:.3f}, {row.relative_radius:.2f} of "
        f"{comparison.baseline}'s, in one pass instead of {comparison.costs.monte_carlo:,.0f} "
        f"({latency.ratio:,.0f} times faster); {out}/report.html"
    )


def _certifiers(bundles: Path) -> dict[str, Certifier]:
    from rrise.runtime.certifier import Certifier

    folders = sorted(path.parent for path in bundles.glob("*/bundle.json"))
    if not folders:
        raise FileNotFoundError(f"bundles: expected folders written by `rrise calibrate` in {bundles}, got none.")
    certifiers = {folder.name: Certifier.load(folder) for folder in folders}
    levels = {(c.sigma, c.bundle.calibration.n, c.bundle.calibration.beta) for c in certifiers.values()}
    if len(levels) > 1:
        raise ValueError(
            f"bundles: expected one sigma, n and beta in {bundles}, got {sorted(levels)}. Compare like with like."
        )
    return certifiers


def _compare(
    splits: Splits,
    config: EvaluateConfig,
    base: SampleConfig,
    certifiers: dict[str, Certifier],
    network: Network,
    counts: str,
    stores: dict[str, CountStore],
    latency: Latency,
    scale: str,
) -> tuple[Comparison, list[CalibrationView]]:
    from rrise.calibration.bounds import clopper_pearson
    from rrise.evaluation.baselines import check_streams
    from rrise.evaluation.comparison import CalibrationView, compare
    from rrise.targets.store import CountStore
    from rrise.targets.uris import within

    images = splits.test
    check_streams(*(store.manifest for store in stores.values()))
    tables = {name: store.table().rows(images.ids).counts for name, store in stores.items()}
    contenders = [_contender(name, certifier, images) for name, certifier in certifiers.items()]
    alpha = config.alpha or contenders[0].error
    contenders.append(_monte_carlo(tables["selection"], tables["estimation"], alpha, base.sigma))
    targets, calibration = (CountStore.open(within(counts, name)) for name in ("train", "calibration"))
    points = score(next(iter(certifiers.values())).engine, splits.calibration, calibration)
    views = [
        CalibrationView(
            f"rrise {name}",
            certifier.bundle.curve.knots_q,
            certifier.bundle.curve.knots_p,
            points.q,
            clopper_pearson(points.k, points.n, certifier.bundle.calibration.beta),
        )
        for name, certifier in certifiers.items()
    ]
    deployed = DEPLOYED if DEPLOYED in certifiers else next(iter(certifiers))
    comparison = compare(
        contenders,
        images.labels,
        tables["reference"],
        deployed=f"rrise {deployed}",
        baseline=BASELINE,
        radii=config.radii,
        sigma=base.sigma,
        target_evaluations=int(targets.table().n.sum()),
        calibration_evaluations=calibration.manifest.images * calibration.manifest.n,
        latency=latency,
        provenance={
            **({"scale": scale} if scale else {}),
            "bundles": {name: certifier.bundle.sha256 for name, certifier in certifiers.items()},
            "classifier": network.sha256,
            "test images": images.sha256,
            "seed of the noise": base.seed,
            "versions": stores["reference"].manifest.versions,
        },
    )
    return comparison, views


def _contender(name: str, certifier: Certifier, images: ImageSet) -> Contender:
    from rrise import _C
    from rrise.evaluation.comparison import Contender

    calibration = certifier.bundle.calibration
    return Contender(
        f"rrise {name}",
        certifier(images.images),
        _C.top(certifier.logits(images.images))[0],
        calibration.beta + calibration.gamma,
        certifier.statement,
        calibration.guarantee == "certified",
    )


def _monte_carlo(selection: np.ndarray, estimation: np.ndarray, alpha: float, sigma: float) -> Contender:
    from rrise.evaluation.baselines import cohen_certify, cohen_select
    from rrise.evaluation.comparison import Contender

    return Contender(
        BASELINE,
        cohen_certify(selection, estimation, alpha=alpha, sigma=sigma),
        cohen_select(selection),
        alpha,
        f"For any input, each certificate is wrong with probability at most {alpha:g} over its own noise (Cohen et al. "
        f"2019): {int(selection[0].sum()):,} draws pick the class, {int(estimation[0].sum()):,} others bound it.",
    )


def _latency(
    certifiers: dict[str, Certifier], network: Network, images: ImageSet, base: SampleConfig, config: EvaluateConfig
) -> Latency:
    """Time one certificate either way, both on one thread."""
    from rrise.evaluation.latency import measure_latency
    from rrise.stages.monte_carlo import NoisyImages, certify_fixed
    from rrise.targets.passes import prepare_classifier

    certifier = certifiers.get(DEPLOYED) or next(iter(certifiers.values()))
    calibration = certifier.bundle.calibration
    classifier = prepare_classifier(network.module, base.device, base.precision, base.compile)

    def monte_carlo(index: int) -> object:
        one = slice(index, index + 1)
        noisy = NoisyImages(
            classifier,
            images.images[one],
            images.ids[one],
            base.sigma,
            seed=base.seed,
            sampler=base.sampler,
            batch=base.batch_size,
            device=base.device,
            threads=1,
        )
        alpha = config.alpha or calibration.beta + calibration.gamma
        return certify_fixed(noisy, n=base.n, alpha=alpha, n_selection=config.n_selection)

    deterministic()
    return measure_latency(
        lambda index: certifier(images.images[index]),
        monte_carlo,
        images=min(config.latency_images, len(images)),
        repeats=config.latency_repeats,
    )


def _save_examples(images: ImageSet, folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for index in range(min(EXAMPLES, len(images))):
        pixels = images.images[index]
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
        picture.save(folder / f"{index}-{images.classes[images.labels[index]].replace('/', '-')}.png")
