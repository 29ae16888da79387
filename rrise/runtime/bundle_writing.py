"""Writing bundles: a whole folder or none, and nothing that reading would refuse."""

from __future__ import annotations

import operator
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rrise.runtime.bundle import BundleError, check_sha256, parse_content
from rrise.runtime.bundle_schema import DOCUMENT, FORMAT, Bundle, ExtraPasses, digest
from rrise.runtime.documents import canonical_json, parse_json, read_file
from rrise.runtime.engines.protocol import MAX_ENGINE_BYTES
from rrise.runtime.levels_schema import FORMAT as LEVELS
from rrise.runtime.levels_schema import LevelsBundle
from rrise.runtime.reference import TOLERANCE, Reference

LIMITS = (
    "A certificate is a statement about the smoothed classifier at inputs exchangeable with the calibration images. "
    "An attacker who moves an input can also move the surrogate's output: the clean input is certified, a shifted "
    "stream of inputs is not. Inputs are distinct pictures, and pictures of one scene, patient or film are not "
    "independent. A bundle that was picked by its radii from several with the same calibration images holds only if "
    "all of them do. What may be wrong is a share of inputs, which a Monte Carlo certifier's alpha bounds for "
    "each input by itself."
)


LEVELS_LIMITS = (
    "Each certificate is one of the smoothed classifier at its own sigma, which is returned with it: at a nearby input "
    "the largest radius may be that of another sigma, and its label another one."
)
"""What a bundle of several noise levels adds to that."""


def save_bundle(
    folder: str | Path,
    *,
    engine_file: str | Path,
    engine_spec: Mapping[str, Any],
    calibration: Mapping[str, Any],
    sigma: float,
    statement: str,
    provenance: Mapping[str, Any],
    reference: Reference | None = None,
    extra_passes: ExtraPasses | None = None,
) -> Bundle:
    """Return the bundle that was written: a whole folder or, on any failure, none.

    Parameters
    ----------
    folder : path
        Where to write; must not exist.
    engine_file : path
        The engine that gave the calibration scores.
    engine_spec : mapping
        engine.json of that engine.
    calibration : mapping
        curve (name of the family), knots_q, knots_p, guarantee, beta, gamma, eta, n, images, rank, t; where they apply
        bins, certified, effective, priors.
    sigma : float
        Standard deviation of the smoothing noise, in [0,1] pixel units.
    statement : str
        What is guaranteed, in one sentence.
    provenance : mapping
        Hashes, seeds and versions, fit for JSON.
    reference : Reference, optional
        What the engine answered when it was calibrated, to be asked again at loading; without it nothing is.
    extra_passes : ExtraPasses, optional
        That the curve is one of q combined with noisy passes; without it, one of q.

    Raises
    ------
    FileExistsError
        If `folder` exists.
    FileNotFoundError
        If there is no such engine file.
    BundleError
        If a number is out of range, a field is missing, or the engine is not the one of `engine_spec`.
    """

    def content(file: str) -> dict[str, Any]:
        extra = {} if extra_passes is None else {"extra_passes": asdict(extra_passes)}
        own = {"format": FORMAT, "limits": LIMITS, "sigma": float(sigma), "curve": _curve(calibration)}
        return own | extra | _shared(file, engine_spec, calibration, statement, provenance, reference)

    bundle = _save(Path(folder), Path(engine_file), content)
    assert isinstance(bundle, Bundle)
    return bundle


def save_levels(
    folder: str | Path,
    *,
    engine_file: str | Path,
    engine_spec: Mapping[str, Any],
    calibration: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    statement: str,
    provenance: Mapping[str, Any],
    reference: Reference | None = None,
) -> LevelsBundle:
    """Return the bundle of several noise levels that was written: a whole folder or, on any failure, none.

    Parameters
    ----------
    folder, engine_file, statement, provenance, reference
        As for `save_bundle`.
    engine_spec : mapping
        engine.json of that engine, with its sigmas.
    calibration : mapping
        What the curves share: guarantee, beta, gamma, eta, n, images, rank, t; where they apply certified, effective,
        priors.
    curves : sequence of S mappings
        curve (name of the family), knots_q and knots_p at each sigma.

    Raises
    ------
    FileExistsError, FileNotFoundError, BundleError
        As `save_bundle`.
    """

    def content(file: str) -> dict[str, Any]:
        own = {"format": LEVELS, "limits": f"{LIMITS} {LEVELS_LIMITS}", "curves": [_curve(each) for each in curves]}
        shared = _shared(file, engine_spec, calibration, statement, provenance, reference)
        shared["engine"]["sigmas"] = [float(sigma) for sigma in engine_spec["sigmas"]]
        return own | shared

    bundle = _save(Path(folder), Path(engine_file), content)
    assert isinstance(bundle, LevelsBundle)
    return bundle


def _save(folder: Path, engine_file: Path, content_of: Callable[[str], dict[str, Any]]) -> Bundle | LevelsBundle:
    if folder.exists():
        raise FileExistsError(f"bundle: expected a new folder, got {folder}, which exists. Delete it or name another.")
    engine = read_file(engine_file.resolve(), MAX_ENGINE_BYTES, "bundle")
    try:
        # Once through JSON, so that the digest is of what a reader will see (tuples are lists, keys are strings).
        content = parse_json(canonical_json(content_of(engine_file.name), "bundle"), "bundle")
        content["sha256"] = digest(content)
        bundle = parse_content(content)
        check_sha256(engine, bundle.engine.file, bundle.engine.sha256)
    except KeyError as error:
        raise BundleError(f"bundle: expected a field {error}, got none. Pass it to save_bundle.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(_one_line(error)) from None
    _publish(folder, {bundle.engine.file: engine, DOCUMENT: canonical_json(content, "bundle")})
    return bundle


def _curve(calibration: Mapping[str, Any]) -> dict[str, Any]:
    knots = {key: [float(knot) for knot in calibration[key]] for key in ("knots_q", "knots_p")}
    return {"family": calibration["curve"], **knots}


def _shared(
    file: str,
    spec: Mapping[str, Any],
    calibration: Mapping[str, Any],
    statement: str,
    provenance: Mapping[str, Any],
    reference: Reference | None,
) -> dict[str, Any]:
    """Return the members that both formats have."""
    numbers = {key: float(calibration[key]) for key in ("beta", "gamma", "eta", "t")}
    counts = {key: operator.index(calibration[key]) for key in ("n", "images", "rank")}
    extra = {key: calibration[key] for key in ("bins", "certified", "effective", "priors") if key in calibration}
    engine = {key: spec[key] for key in ("kind", "sha256", "precision", "input_shape", "num_classes", "classes")}
    engine |= {"onnx_sha256": spec.get("onnx_sha256", spec["sha256"]), "gpu": spec.get("gpu", "")}
    reference = reference or Reference("", "", np.empty((0, 1)), TOLERANCE)
    return {
        "engine": {"file": file, **engine},
        "calibration": {"guarantee": calibration["guarantee"], **numbers, **counts, **extra},
        "statement": statement,
        "provenance": dict(provenance),
        "reference": reference.as_dict(),
    }


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files to a temporary folder beside, flush them to disk, then give the folder its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        for name, data in files.items():
            with open(temporary / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _flush_folder(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if folder.exists():  # made by another process meanwhile
                raise FileExistsError(
                    f"bundle: expected a new folder, got {folder}, which exists. Name another."
                ) from None
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; NTFS keeps its own journal of names
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if text.startswith("bundle: ")
        else f"bundle: expected plain numbers and JSON, got {text!r}. Convert the field."
    )
