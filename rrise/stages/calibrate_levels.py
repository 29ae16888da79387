"""From an engine of several noise levels, and counts at each, to bundles whose certificates hold at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.scored import Scored
from rrise.stages.build import require_counts_of
from rrise.stages.calibrate import (
    as_of,
    images_behind,
    origins,
    require_draws,
    require_fixed_draws,
    require_profile,
    require_unseen,
    split_of_alpha,
    worth_of,
)
from rrise.stages.caveats import caveats, repeated, together
from rrise.stages.whole import whole_folder

if TYPE_CHECKING:
    from rrise.calibration.conformal import CalibrateConfig
    from rrise.images import ImageSet, Splits
    from rrise.runtime.engines import Engine, EngineOptions
    from rrise.targets.store import CountStore


def calibrate_levels(
    splits: Splits,
    config: CalibrateConfig,
    engine: Path,
    counts: Sequence[str | Path],
    profiles: Sequence[str | Path],
    out: Path,
    *,
    options: EngineOptions | None = None,
) -> str:
    """Calibrate an engine of several sigma on the calibration images; one bundle for each curve under ``out``.

    Parameters
    ----------
    counts, profiles : sequence of S paths
        Counts of the calibration images, and of those that shape the curves, at each sigma of the engine, in any order.

    Raises
    ------
    ValueError
        As :func:`rrise.stages.calibrate`; also for guarantees, curves and noisy passes that are not for several sigma.
    """
    from rrise.calibration.joint import calibrate_jointly
    from rrise.runtime.bundle_writing import save_levels
    from rrise.runtime.certifier import ROWS
    from rrise.runtime.documents import MAX_JSON_BYTES, parse_json, read_file
    from rrise.runtime.engines import open_engine
    from rrise.runtime.reference import Reference
    from rrise.training.artifacts import refuse_existing

    refuse_existing(out)
    if config.passes:
        raise ValueError(
            f"passes: expected none with several sigma, got {config.passes}. Calibrate an engine of one for them."
        )
    if config.cascade:
        raise ValueError(
            f"cascade: expected none with several sigma, got {config.cascade:g}. Calibrate an engine of one for it."
        )
    opened = open_engine(engine, options=options)
    spec = parse_json(read_file(engine / "engine.json", MAX_JSON_BYTES, "engine"), "engine")
    splits = splits.named_as(spec["classes"])
    if "sigmas" not in spec:
        raise ValueError(
            f"engine: expected one of several sigma for several counts, got one of sigma = {spec.get('sigma')} in "
            f"{engine}. Export the surrogates of all sigma together: rrise export --surrogate A B."
        )
    sigmas = [float(sigma) for sigma in spec["sigmas"]]
    require_unseen("calibration", splits.calibration, images_behind(engine, splits))
    repeated(splits, config)
    stores = _by_sigma("counts", counts, sigmas, spec["classifier_sha256"])
    shapes = _by_sigma("profile", profiles, sigmas, spec["classifier_sha256"]) if profiles else []
    for store in stores:
        require_fixed_draws(store)
    require_draws({"counts": stores, "profile": shapes}, config)
    points = score_levels(opened, splits.calibration, stores)
    drawn = stores[0].manifest.n
    for store in shapes:
        require_profile(splits, store)
    profile = [as_of(drawn, each) for each in score_levels(opened, splits.profile, shapes, rows=ROWS)] if shapes else []
    facts, reference = stores[0].manifest, Reference.of(opened)
    for name in ("sampler", "precision", "compile", "device"):
        if len(used := {getattr(store.manifest, name) for store in stores}) > 1:
            raise ValueError(f"counts: expected one {name} at every sigma, got {sorted(used)}. Sample them alike.")
    found = []
    for curve in config.curves:
        beta, gamma = _split(config, curve, profile, splits, drawn)
        found.append(
            calibrate_jointly(
                sigmas,
                points,
                profile,
                beta=beta,
                gamma=gamma,
                curve=curve,
                guarantee=config.guarantee,
                eta=config.eta_each,
                labels=splits.calibration.labels,
                priors=config.priors,
            )
        )
    worth = [worth_of(store, splits.calibration) for store in stores]
    with whole_folder(out) as folder:
        for joint in found:
            save_levels(
                folder / joint.curve,
                engine_file=engine / spec["file"],
                engine_spec=spec,
                calibration=joint.facts(),
                curves=[{"curve": joint.curve, "knots_q": q, "knots_p": p} for q, p in joint.curves],
                statement=joint.statement() + caveats(spec, facts) + repeated(splits, config) + together(config),
                provenance=origins(spec, facts, splits.calibration)
                | {
                    "calibration_counts_sha256": [store.sha256 for store in stores],
                    "seeds": [store.manifest.seed for store in stores],
                    "surrogates": spec["surrogates"],
                    "smoothed_accuracy": [round(each.accuracy, 4) for each in worth],
                },
                reference=reference,
            )
    lines = [f"{j.curve}: rank {j.rank} of {j.images}, t = {j.t:.4g}" for j in found]
    said = "; ".join(f"at {sigma:g} {each.words()}" for sigma, each in zip(sigmas, worth, strict=True))
    return f"sigma = {', '.join(f'{sigma:g}' for sigma in sigmas)}: {'; '.join(lines)}; {said}; in {out}"


def score_levels(engine: Engine, images: ImageSet, stores: Sequence[CountStore], rows: int = 1) -> list[Scored]:
    """Return the engine's answers at each sigma beside the counts there, one pass an image for all of them."""
    from rrise import _C
    from rrise.runtime.certifier import engine_logits

    found = []
    for logits, store in zip(np.split(engine_logits(engine, images.images, rows), len(stores), 1), stores, strict=True):
        label, q = _C.top(np.ascontiguousarray(logits))
        counts = store.table().rows(images.ids).counts
        agreeing = counts[np.arange(len(images)), np.maximum(label, 0)].astype(np.int64)
        found.append(Scored(q, np.where(label >= 0, agreeing, 0), counts.sum(axis=1).astype(np.int64)))
    return found


def _by_sigma(name: str, places: Sequence[str | Path], sigmas: Sequence[float], classifier: str) -> list[CountStore]:
    """Return the stores in the order of the noise levels."""
    from rrise.targets.store import CountStore

    stores = [CountStore.open(place) for place in places]
    for store in stores:
        require_counts_of(classifier, store)
    found = [store.manifest.sigma for store in stores]
    if sorted(found) != list(sigmas):
        expected, got = (", ".join(f"{sigma:g}" for sigma in levels) for levels in (sigmas, sorted(found)))
        raise ValueError(
            f"{name}: expected counts at each sigma of the engine, {expected}, got those at {got}. Give each once."
        )
    return sorted(stores, key=lambda store: store.manifest.sigma)


def _split(
    config: CalibrateConfig, curve: str, profile: Sequence[Scored], splits: Splits, draws: int
) -> tuple[float, float]:
    """Return beta and gamma: as configured, or of the pairs for alpha that the noise levels want the middle one.

    Any pair is valid that calibration images had no part in.
    """
    profiles: Sequence[Scored | None] = profile or [None]
    wanted = [split_of_alpha(config, curve, own, splits, draws) for own in profiles]
    return sorted(wanted)[len(wanted) // 2]
