"""From bundles to a verdict: certify the test images, certify them by Monte Carlo, and check both with more draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.scored import Scored
from rrise.evaluation.costs import Sampled
from rrise.stages.build import fill_counts
from rrise.stages.calibrate import require_unseen, score
from rrise.stages.cascade_contenders import cascade_contenders
from rrise.stages.contenders import FIXED, Certifiers, contenders, few_of, larger_name, open_certifiers
from rrise.stages.pass_contenders import open_passes, pass_contenders
from rrise.stages.provenance import require_calibrated_on, require_counts_behind, require_of
from rrise.stages.timing import latency
from rrise.stages.whole import whole_folder

if TYPE_CHECKING:
    from rrise.evaluation.comparison import Comparison
    from rrise.evaluation.contender import CalibrationView
    from rrise.evaluation.latency import Latency
    from rrise.evaluation.settings import EvaluateConfig
    from rrise.images import ImageSet, Splits
    from rrise.stages.more_passes import MultiPass
    from rrise.targets.settings import ExecutionConfig, SampleConfig
    from rrise.targets.store import CountStore
    from rrise.training.networks import Network
    from rrise.training.seen import SeenConfig

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
    rivals: Mapping[str, Path] | None = None,
    fit_seconds: float | None = None,
    seen: SeenConfig | None = None,
    scale: str = "",
    progress: bool = True,
) -> str:
    """Compare all bundles of a folder with Monte Carlo smoothing, by several budgets, on the test images.

    Monte Carlo takes ``sampling.n`` draws, and once as many as ``config.n_larger`` says, whatever the bundles' own
    numbers of calibration draws.

    ``rivals`` are further bundles by the names they are to have, such as that of another surrogate; they are compared,
    and never the one whose result is stated. ``fit_seconds``, what fit, export and calibration took, lets the report
    say after how many certificates the offline work is paid back in time.

    Writes table.md and metrics.json (equal in equal runs), timing.json, report.html and examples/. Test counts are
    sampled into ``counts``/selection, estimation and reference, or used if they are there; ``seen`` is for an ONNX
    classifier; ``scale`` says how the run was scaled down, and all that is written repeats it.

    Raises
    ------
    ValueError
        If bundles differ in σ or in what they promise, were calibrated on other images or counts than these, test
        images were trained or calibrated on, or counts would be of another smoothed classifier than the bundles'.
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
    certifiers = open_certifiers(bundles, rivals or {})
    network = with_training_images(open_classifier(classifier), seen or SeenConfig())
    if config.wanted and certifiers.first_stage is None:
        raise ValueError(
            f"wanted: expected a bundle for a cascade in {bundles}, got none. Calibrate with --cascade 0.7, or leave "
            "--wanted out."
        )
    first = certifiers.stated.bundle
    splits = splits.named_as(first.engine.classes)
    base = replace(sampling, sigma=first.sigma)
    calibration = CountStore.open(within(str(counts), "calibration"))
    behind, facts = calibration.sha256, calibration.manifest
    for name, bundle in certifiers.bundles.items():
        require_of(bundle, "classifier", network, classifier, name)
        require_calibrated_on(bundle, splits.calibration, name)
        require_counts_behind(bundle, behind, calibration.uri, name)
    for name in ("sampler", "precision", "compile", "device"):
        run, asked = getattr(facts, name), getattr(base, name)
        if run != (asked.partition(":")[0] if name == "device" else asked):
            raise ValueError(
                f"sample.{name}: expected {run!r} as in the calibration counts, got {asked!r}. Another one adds other "
                "noise or rounds otherwise, and is another smoothed classifier."
            )
    images = splits.test
    used = np.concatenate([network.training_ids, splits.train.ids, splits.calibration.ids])
    require_unseen("test", images, used)
    shaping = bool(splits.config and splits.config.shaping)
    sampled = {"targets": "train"} | ({"profile": "profile"} if shaping else {}) | {"calibration": "calibration"}
    manifests = {part: CountStore.open(within(str(counts), store)).manifest for part, store in sampled.items()}
    offline = {part: Sampled(manifest.images, manifest.evaluations) for part, manifest in manifests.items()}
    passes = open_passes(certifiers.passes, classifier, base.seed, base.device)
    timed = latency(
        certifiers,
        network,
        images,
        base,
        config,
        fit_seconds=fit_seconds,
        offline=sum(part.evaluations for part in offline.values()),
        passes=passes,
    )
    draws = config.draws(base.n, [certifier.extra.m for certifier in passes.values()])
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
    comparison, views = _compare(
        splits, config, base, certifiers, passes, network, str(counts), stores, offline, timed, scale
    )
    with whole_folder(out) as folder:
        (folder / "table.md").write_text(as_markdown(comparison), encoding="utf-8")
        (folder / "metrics.json").write_text(as_json(comparison), encoding="utf-8")
        (folder / "timing.json").write_text(timing_as_json(timed, comparison.costs.against), encoding="utf-8")
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
    broken = "; ".join(filter(None, (each.broken for each in comparison.rows)))
    if broken and config.strict:
        raise RuntimeError(f"evaluate: {broken}. {_WHY} The report is kept: {out}/report.html")
    return (f"{broken[0].upper()}{broken[1:]}. {_WHY}\n" if broken else "") + (
        f"{row.name}: mean certified radius {row.average_certified_radius:.3f}, {row.relative_radius:.2f} of "
        f"{comparison.baseline}'s, in one pass instead of {comparison.costs.monte_carlo:,.0f} "
        f"({timed.ratio:,.0f} times faster); {out}/report.html"
    )


_WHY = (
    "Either the test images are drawn otherwise than the calibration images (other source, copies of one scene on both "
    "sides), or classifier or engine are not those of the calibration."
)


def _compare(
    splits: Splits,
    config: EvaluateConfig,
    base: SampleConfig,
    certifiers: Certifiers,
    passes: Mapping[str, MultiPass],
    network: Network,
    counts: str,
    stores: dict[str, CountStore],
    offline: Mapping[str, Sampled],
    timed: Latency,
    scale: str,
) -> tuple[Comparison, list[CalibrationView]]:
    from rrise.calibration.bounds import clopper_pearson
    from rrise.evaluation.baselines import check_streams
    from rrise.evaluation.comparison import compare
    from rrise.evaluation.contender import CalibrationView
    from rrise.targets.store import CountStore
    from rrise.targets.uris import within

    images = splits.test
    check_streams(*(store.manifest for store in stores.values()))
    tables = {name: store.table().rows(images.ids).counts.astype(np.int64) for name, store in stores.items()}
    calibration, points = CountStore.open(within(counts, "calibration")), dict[str, Scored]()
    for certifier in certifiers.by_name.values():  # once for each engine, which several bundles may share
        engine = certifier.bundle.engine.sha256
        points[engine] = points.get(engine) or score(certifier.engine, splits.calibration, calibration)
    views = [
        CalibrationView(
            name,
            certifier.bundle.curve.knots_q,
            certifier.bundle.curve.knots_p,
            (found := points[certifier.bundle.engine.sha256]).q,
            clopper_pearson(found.k, found.n, certifier.bundle.calibration.beta),
        )
        for name, certifier in certifiers.by_name.items()
    ]
    larger = tables["estimation"] if config.larger(base.n) else None
    tables["estimation"] = few_of(tables["estimation"], base.n, base.seed)
    compared = contenders(certifiers, images, tables["selection"], tables["estimation"], larger, config, base)
    if passes:
        alpha = config.alpha or next(iter(passes.values())).bundle.calibration.error
        compared += pass_contenders(passes, images, tables, alpha=alpha, n_selection=config.n_selection, seed=base.seed)
    if first := certifiers.first_stage:
        compared += cascade_contenders(first, images, tables["selection"], tables["estimation"], config, base)
    comparison = compare(
        compared,
        images.labels,
        tables["reference"],
        deployed=certifiers.deployed,
        baseline=FIXED,
        radii=config.radii,
        sigma=base.sigma,
        larger=larger_name(config.larger(base.n)) if larger is not None else "",
        targets=offline["targets"],
        profile=offline.get("profile", Sampled()),
        calibration=offline["calibration"],
        latency=timed,
        provenance={
            **({"scale": scale} if scale else {}),
            "bundles": {name: certifier.bundle.sha256 for name, certifier in certifiers.by_name.items()}
            | {name: more.bundle.sha256 for name, more in passes.items()}
            | ({"first stage of the cascade": first.bundle.sha256} if first else {}),
            "classifier": network.sha256,
            "test images": images.sha256,
            "seed of the noise": base.seed,
            "versions": stores["reference"].manifest.versions,
        },
    )
    return comparison, views


def _save_examples(images: ImageSet, folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for index in range(min(EXAMPLES, len(images))):
        pixels = images.images[index]
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
        picture.save(folder / f"{index}-{images.classes[images.labels[index]].replace('/', '-')}.png")
