"""From an engine and counts to bundles: the engine's own outputs are scored against what the classifier did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.calibration.scored import Scored
from rrise.stages.build import require_counts_of
from rrise.stages.caveats import caveats, repeated, together
from rrise.stages.first_stage import FOLDER, described, first_stage
from rrise.stages.whole import whole_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.calibration.conformal import CalibrateConfig, Calibration
    from rrise.images import ImageSet, Splits
    from rrise.runtime.bundle_schema import ExtraPasses
    from rrise.runtime.engines import Engine, EngineOptions
    from rrise.targets.accuracy import SmoothedAccuracy
    from rrise.targets.manifest import Manifest
    from rrise.targets.store import CountStore


DEPLOYED = "scaled"
"""The curve whose result is stated, and that more passes and a cascade are calibrated for, if among those made."""
_THINNING = 3
"""Second part of the seed by which a point's m draws are picked out of its n; the first is that of the noise."""


def score(engine: Engine, images: ImageSet, store: CountStore, rows: int = 1) -> Scored:
    """Return the engine's answers on images beside their counts, computed as a device will.

    The kernel that certifies computes q, and each image is a pass of its own unless ``rows`` says otherwise: the last
    bits of an engine's outputs may depend on the batch, and a camera sends one image at a time.
    """
    return score_counts(engine, images, store.table().rows(images.ids).counts, rows)


def score_counts(engine: Engine, images: ImageSet, counts: NDArray[Any], rows: int = 1) -> Scored:
    """Return the same beside counts int[N, K] of the images, in their order."""
    from rrise import _C
    from rrise.runtime.certifier import engine_logits

    label, q = _C.top(engine_logits(engine, images.images, rows))
    agreeing = counts[np.arange(len(images)), np.maximum(label, 0)].astype(np.int64)
    return Scored(q, np.where(label >= 0, agreeing, 0), counts.sum(axis=1).astype(np.int64))


def require_profile(splits: Splits, store: CountStore) -> None:
    """Raise ValueError unless a store holds counts of all images that shape the curve."""
    missing = int((~np.isin(splits.profile.ids, store.table().ids)).sum())
    if missing:
        raise ValueError(
            f"profile: expected counts of the {len(splits.profile)} images that shape the curve, got none of {missing} "
            f"in {store.uri}. Sample --split profile, or take the targets' counts with --data.profile 0 in every stage."
        )


def as_of(draws: int, scored: Scored) -> Scored:
    """Return points as if each had this many draws, at its share of agreeing ones.

    A curve's shape should be that of the bounds that it will be calibrated to, which depend on their number of draws;
    targets and the images of ``data.profile`` usually have fewer. Validity costs it nothing: calibration
    points are scored against whatever shape was fixed without them. The shape keeps the scatter of its own few draws,
    wider than that of the bounds, which can cost tightness; more draws of it (``profile_n``) cost evaluations.
    """
    agreeing = np.rint(scored.k * (draws / scored.n)).astype(np.int64)
    return Scored(scored.q, agreeing, np.full_like(scored.n, draws))


@dataclass(frozen=True)
class _Made:
    """A bundle to write: its folder's name, and what it adds to the statement and the provenance that all have."""

    name: str
    calibration: Calibration
    said: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    extra: ExtraPasses | None = None


def calibrate(
    splits: Splits,
    config: CalibrateConfig,
    engine: Path,
    counts: str | Path,
    profile: str | Path | None,
    out: Path,
    *,
    options: EngineOptions | None = None,
) -> str:
    """Calibrate the engine's own outputs on the calibration images; one bundle for each curve under ``out``.

    For each number m of ``passes`` there is one more, such as scaled-m8, whose curve is one of q and m noisy passes;
    for a ``cascade`` one, such as scaled-cascade, which promises less, so that Monte Carlo may spend what is left.

    Raises
    ------
    ValueError
        If a calibration image trained the classifier or the surrogate or shapes the curve, counts are of another
        classifier or σ, or the images or draws are too few for the guarantee.
    """
    from rrise.calibration.combined import describe_passes
    from rrise.calibration.conformal import calibrate as calibrated
    from rrise.runtime.bundle_writing import save_bundle
    from rrise.runtime.certifier import ROWS
    from rrise.runtime.documents import MAX_JSON_BYTES, parse_json, read_file
    from rrise.runtime.engines import open_engine
    from rrise.runtime.reference import Reference
    from rrise.targets.store import CountStore
    from rrise.training.artifacts import refuse_existing

    refuse_existing(out)
    found: list[_Made] = []
    if config.priors and len(config.priors) != len(splits.calibration.classes):
        raise ValueError(
            f"priors: expected one number for each of {len(splits.calibration.classes)} classes, got "
            f"{len(config.priors)}. Give them in the order of the classes."
        )
    opened = open_engine(engine, options=options)
    spec = parse_json(read_file(engine / "engine.json", MAX_JSON_BYTES, "engine"), "engine")
    splits = splits.named_as(spec["classes"])
    require_unseen("calibration", splits.calibration, images_behind(engine, splits))
    about = repeated(splits, config) + together(config)
    stores = {"counts": CountStore.open(counts)} | ({"profile": CountStore.open(profile)} if profile else {})
    for name, store in stores.items():
        require_counts_of(spec["classifier_sha256"], store)
        if store.manifest.sigma != spec.get("sigma"):
            several = ", ".join(f"{sigma:g}" for sigma in spec.get("sigmas", ()))
            raise ValueError(
                f"{name}: expected counts at each sigma of the engine, {several}, got those at one. Give all of them."
                if several
                else f"{name}: expected sigma={spec['sigma']} as in the surrogate's targets, got "
                f"{store.manifest.sigma} in {store.uri}. Sample with the surrogate's sigma."
            )
    require_fixed_draws(stores["counts"])
    if profile:
        require_profile(splits, stores["profile"])
    require_draws({name: [store] for name, store in stores.items()}, config)
    scored = score(opened, splits.calibration, stores["counts"])
    # The profile only shapes the curve, so its last bits do not matter.
    drawn = stores["counts"].manifest.n
    raw = score(opened, splits.profile, stores["profile"], rows=ROWS) if profile else None
    shape = as_of(drawn, raw) if raw else None
    facts, reference = stores["counts"].manifest, Reference.of(opened)
    worth = worth_of(stores["counts"], splits.calibration)
    shared: dict[str, Any] = {
        "eta": config.eta_each,
        "guarantee": config.guarantee,
        "labels": splits.calibration.labels,
        "priors": config.priors,
    }
    points = None if shape is None else (shape.q, shape.k, shape.n)
    for curve in config.curves:
        beta, gamma = split_of_alpha(config, curve, shape, splits, drawn)
        levels: dict[str, Any] = {"beta": beta, "gamma": gamma, "curve": curve}
        found.append(_Made(curve, calibrated(scored.q, scored.k, scored.n, profile=points, **levels, **shared)))
    deployed = DEPLOYED if DEPLOYED in config.curves else config.curves[0]
    if config.passes:
        beta, gamma = split_of_alpha(config, deployed, shape, splits, drawn, shared_draws=True)
        levels = {"beta": beta, "gamma": gamma, "curve": deployed}
        for more, q_m, profile_m in _with_passes(config.passes, scored, raw, shape, drawn, facts.seed):
            joined = calibrated(q_m, scored.k, scored.n, profile=profile_m, shared_draws=True, **levels, **shared)
            found.append(_Made(f"{deployed}-m{more.m}", joined, describe_passes(more.m, more.kappa), extra=more))
    if config.cascade:
        beta, gamma = split_of_alpha(first_stage(config), deployed, shape, splits, drawn)
        levels = {"beta": beta, "gamma": gamma, "curve": deployed}
        first = calibrated(scored.q, scored.k, scored.n, profile=points, **levels, **shared)
        whole = next(made.calibration for made in found if made.name == deployed)
        found.append(_Made(f"{deployed}-{FOLDER}", first, *described(first, whole.error)))
    with whole_folder(out) as folder:
        for made in found:
            save_bundle(
                folder / made.name,
                engine_file=engine / spec["file"],
                engine_spec=spec,
                calibration=made.calibration.as_dict(),
                sigma=facts.sigma,
                statement=made.calibration.statement() + caveats(spec, facts) + made.said + about,
                provenance=origins(spec, facts, splits.calibration)
                | {
                    "calibration_counts_sha256": stores["counts"].sha256,
                    "smoothed_accuracy": round(worth.accuracy, 4),
                    **made.facts,
                },
                reference=reference,
                extra_passes=made.extra,
            )
    lines = [
        f"{made.name}: rank {made.calibration.rank} of {made.calibration.images}, t = {made.calibration.t:.4g}"
        + (f", beta = {made.calibration.beta:g}, gamma = {made.calibration.gamma:g}" if config.alpha else "")
        for made in found
    ]
    return f"{'; '.join(lines)}; {worth.words()}; in {out}"


def origins(spec: Mapping[str, Any], facts: Manifest, images: ImageSet) -> dict[str, Any]:
    """Return a bundle's provenance, but for the hash of its calibration counts: of engine.json, counts and images."""
    from rrise.training.seen import FACT

    return {
        "classifier_sha256": spec["classifier_sha256"],
        **({FACT: spec[FACT]} if FACT in spec else {}),
        "surrogate_sha256": spec["network_sha256"],
        "target_counts_sha256": spec["counts_sha256"],
        "calibration_images_sha256": images.sha256,
        "sampler": facts.sampler,
        "seed": facts.seed,
        "precision": facts.precision,
        "compiled": facts.compile,
        "versions": facts.versions | spec["versions"],
    }


def worth_of(store: CountStore, images: ImageSet) -> SmoothedAccuracy:
    """Return what the smoothed classifier is worth on calibration images."""
    from rrise.targets.accuracy import SmoothedAccuracy

    return SmoothedAccuracy.of(store.table().rows(images.ids).counts, images.labels, images.classes)


def require_fixed_draws(store: CountStore) -> None:
    """Raise ValueError unless all images have the manifest's n draws, of their own pixels in passes of their own.

    A bound is made for a number fixed beforehand.
    """
    facts = store.manifest
    if facts.views > 1 or facts.images_per_pass > 1:
        raise ValueError(
            f"counts: expected counts of the images themselves, in passes of their own, got {facts.views} views, "
            f"{facts.images_per_pass} images a pass, in {store.uri}. Sample the calibration split without --targets."
        )
    draws, n = store.table().n, facts.n
    if (other := draws[draws != n]).size:
        raise ValueError(
            f"counts: expected n={n} draws of every image, as the manifest says, got {other[0]} of {other.size} images "
            f"in {store.uri}. A bound needs a number fixed beforehand: sample again into another folder."
        )


def require_draws(stores: Mapping[str, Sequence[CountStore]], config: CalibrateConfig) -> None:
    """Raise ValueError if ``counts`` or ``profile`` have another number of draws than is asked for; 0 asks for none."""
    for name, wanted in (("counts", config.n), ("profile", config.profile_n)):
        for store in stores.get(name, ()):
            if wanted and store.manifest.n != wanted:
                flag = "n" if name == "counts" else "profile_n"
                raise ValueError(
                    f"{flag}: expected counts of {wanted} draws an image, got counts of {store.manifest.n} in "
                    f"{store.uri}. Sample with --n {wanted}, or ask for what there is."
                )


def split_of_alpha(
    config: CalibrateConfig,
    curve: str,
    shape: Scored | None,
    splits: Splits,
    draws: int,
    *,
    shared_draws: bool = False,
) -> tuple[float, float]:
    """Return beta and gamma: as configured, or the best for alpha on the profile, under the priors if any."""
    from rrise.calibration.levels import choose_levels

    if not config.alpha:
        return config.beta, config.gamma
    if shape is None:
        raise ValueError(
            "profile: expected the training images' counts to choose beta by, got none. Give --profile, or --beta and "
            "--gamma in place of --alpha."
        )
    return choose_levels(
        shape.q,
        shape.k,
        shape.n,
        alpha=config.alpha,
        images=len(splits.calibration),
        draws=draws,
        curve=curve,
        guarantee=config.guarantee,
        eta=config.eta_each,
        labels=splits.profile.labels,
        priors=config.priors,
        classes=np.bincount(splits.calibration.labels, minlength=len(splits.calibration.classes)).tolist(),
        shared_draws=shared_draws,
    )


def _with_passes(
    passes: Sequence[int], scored: Scored, raw: Scored | None, shape: Scored | None, drawn: int, seed: int
) -> Iterator[
    tuple[ExtraPasses, NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]]
]:
    """Yield, for each m, what the bundle says of it, q_m of the calibration points, and the profile with its own q_m.

    The m draws of a point are a random part of its n, a smaller m's a part of a larger one's. Both kinds of points take
    them in the same way, so that the profile has the shape of what will be calibrated to it; see
    :mod:`rrise.calibration.combined` on why they need no draws of their own.
    """
    from rrise.calibration.combined import combined_score, fit_kappa
    from rrise.evaluation.thinning import in_order
    from rrise.runtime.bundle_schema import ExtraPasses

    if raw is None or shape is None:
        raise ValueError("passes: expected --profile, to which kappa is fitted, got none. Name the training counts.")
    if passes[-1] > drawn:
        raise ValueError(
            f"passes: expected at most the {drawn} draws of a calibration image, got {passes[-1]}. "
            "Use fewer, or sample more."
        )
    rng, kappa = np.random.default_rng([seed, _THINNING]), fit_kappa(raw.q, raw.k, raw.n)
    parts = [in_order(points.k, drawn, passes, rng) for points in (scored, shape)]
    for column, m in enumerate(passes):
        own, profile = (
            combined_score(points.q, part[:, column], m, kappa)
            for points, part in zip((scored, shape), parts, strict=True)
        )
        yield ExtraPasses(m, kappa), own, (profile, shape.k, shape.n)


def images_behind(engine: Path, splits: Splits) -> NDArray[np.uint64]:
    """Return the ids of all images that a curve is made from before calibration.

    They trained the classifier or the surrogate of an engine folder, or shape the curve.
    """
    trained = np.load(engine / "training_ids.npy", allow_pickle=False)
    return np.union1d(trained, splits.profile.ids)


def require_unseen(split: str, images: ImageSet, used: NDArray[np.uint64]) -> None:
    """Raise ValueError if any image of a split, by its pixels, had a part in what is about to be judged by it."""
    seen = int(np.isin(images.ids, used).sum())
    if seen:
        raise ValueError(
            f"{split}: expected images that had no part in the classifier, the surrogate or the calibration, got "
            f"{seen} of {len(images)} that had. Use other images: on seen ones nothing is guaranteed."
        )
