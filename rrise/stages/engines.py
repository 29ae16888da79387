"""From bundles of several engines to one table: what each precision costs in radius and gains in latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.stages.calibrate import require_unseen
from rrise.stages.provenance import require_calibrated_on
from rrise.stages.whole import whole_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.evaluation.engines import EngineRow, EnginesConfig
    from rrise.images import Splits
    from rrise.runtime.certifier import Certifier
    from rrise.runtime.engines import EngineOptions


def engines(
    splits: Splits, config: EnginesConfig, bundles: Sequence[Path], out: Path, *, options: EngineOptions | None = None
) -> str:
    """Certify the test images with every bundle, one image at a time and by turns; write engines.md and engines.json.

    Parameters
    ----------
    splits : Splits
        The test split is used; the calibration split is there to know that no bundle was calibrated on it.
    config : EnginesConfig
    bundles : sequence of path
        Bundle folders, or folders that hold some, at any depth. The first bundle is what the others are compared with.
    out : path
        Folder of the result; must not exist.
    options : EngineOptions, optional
        Threads of all engines, and the device of those that were calibrated on a GPU.

    Raises
    ------
    ValueError
        If the bundles differ in σ, classes or classifier: their radii would not compare. If one was calibrated on other
        images than the calibration split, or on test images.
    """
    from rrise.evaluation.engines import as_json, as_markdown
    from rrise.runtime.engines import EngineOptions
    from rrise.training.artifacts import refuse_existing

    refuse_existing(out)
    options = options or EngineOptions()
    folders = _folders(bundles)
    certifiers = _certifiers(folders, options)
    splits = splits.named_as(next(iter(certifiers.values())).classes)
    for name, certifier in certifiers.items():
        require_calibrated_on(certifier.bundle, splits.calibration, name)
    require_unseen("test", splits.test, splits.calibration.ids)
    sizes = {name: (folders[name] / c.bundle.engine.file).stat().st_size for name, c in certifiers.items()}
    rows = _rows(splits, config, certifiers, sizes)
    facts = {"images": len(splits.test), "threads": options.threads}
    with whole_folder(out) as folder:
        (folder / "engines.md").write_text(as_markdown(rows, **facts), encoding="utf-8")
        (folder / "engines.json").write_text(as_json(rows, **facts), encoding="utf-8")
    return f"{len(rows)} bundles compared in {out}"


def _rows(
    splits: Splits, config: EnginesConfig, certifiers: dict[str, Certifier], sizes: dict[str, int]
) -> list[EngineRow]:
    from rrise import _C
    from rrise.evaluation import metrics
    from rrise.evaluation.engines import EngineRow
    from rrise.evaluation.latency import times_by_turns
    from rrise.runtime.certifier import engine_logits

    images, labels = splits.test.images, splits.test.labels
    answers = {name: _C.top(engine_logits(c.engine, images, 1))[0] for name, c in certifiers.items()}
    first = next(iter(answers.values()))
    timed = min(config.timed_images, len(images))
    runs = [_one_certificate(certifier, images) for certifier in certifiers.values()]
    rows = []
    for (name, certifier), times in zip(
        certifiers.items(), times_by_turns(runs, images=timed, repeats=config.repeats), strict=True
    ):
        certificates, engine = certifier(images), certifier.engine
        p50, p99 = (float(value) / 1e6 for value in np.quantile(times, (0.5, 0.99)))
        rows.append(
            EngineRow(
                bundle=name,
                engine=f"{engine.kind} {engine.version}",
                device=engine.device,
                precision=engine.precision,
                engine_bytes=sizes[name],
                certified_accuracy=float(metrics.certified_accuracy(certificates, labels, (0.0,))[0]),
                average_certified_radius=metrics.average_certified_radius(certificates, labels),
                abstention=metrics.abstention_rate(certificates),
                label_changes=float((answers[name] != first).mean()),
                p50_ms=p50,
                p99_ms=p99,
            )
        )
    return rows


def _one_certificate(certifier: Certifier, images: NDArray[np.uint8]) -> Callable[[int], object]:
    return lambda index: certifier(images[index])


def _folders(bundles: Sequence[Path]) -> dict[str, Path]:
    """Return the bundle folders by the last two parts of their paths."""
    folders = [path.parent for place in bundles for path in sorted(place.rglob("bundle.json"))]
    if not folders:
        named = ", ".join(map(str, bundles))
        raise FileNotFoundError(f"bundles: expected folders written by `rrise calibrate` in {named}, got none.")
    found = {"/".join(folder.parts[-2:]): folder for folder in folders}
    if len(found) < len(folders):
        raise ValueError(
            f"bundles: expected different names, got {len(folders)} bundles called {', '.join(found)}. Rename a folder."
        )
    return found


def _certifiers(folders: dict[str, Path], options: EngineOptions) -> dict[str, Certifier]:
    from rrise.runtime.bundle import load_bundle
    from rrise.runtime.certifier import Certifier
    from rrise.stages.first_stage import cascade_alpha

    found = {}
    loaded = {name: load_bundle(folder) for name, folder in folders.items()}
    # Bundles for more passes and for a cascade stand beside the plain ones: the same engine, but no single pass that
    # serves them, or a smaller promise.
    plain = {
        name: bundle for name, bundle in loaded.items() if bundle.extra_passes is None and cascade_alpha(bundle) is None
    } or loaded
    for name, bundle in plain.items():
        folder, reference = folders[name], bundle.reference
        device = options.device if reference is not None and reference.device not in ("", "cpu") else ""
        found[name] = Certifier.load(folder, **vars(replace(options, device=device)))
    same = {(c.sigma, c.classes, c.bundle.provenance.get("classifier_sha256")) for c in found.values()}
    if len(same) > 1:
        raise ValueError(
            "bundles: expected one sigma, one set of classes and one classifier, got "
            f"{len(same)} different ones in {', '.join(found)}. Compare engines of one surrogate."
        )
    return found
