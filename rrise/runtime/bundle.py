"""The bundle: one folder that holds all a device needs to certify, and refuses to be anything but what was calibrated.

`docs/bundle.md` specifies the format. The sha256s find damage and mix-ups (a flipped byte, a swapped engine); they are
no signature: whoever may write the folder may write another bundle. `signature` is for that.
"""

from __future__ import annotations

import operator
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rrise.runtime.bundle_schema import DOCUMENT, FORMAT, Bundle, ExtraPasses, digest
from rrise.runtime.documents import MAX_JSON_BYTES, canonical_json, parse_json, read_file, sha256_of
from rrise.runtime.engines.protocol import MAX_ENGINE_BYTES
from rrise.runtime.reference import TOLERANCE, Reference
from rrise.runtime.signature import KeySource, load_public_key, read_signature, verify

LIMITS = (
    "A certificate is a statement about the smoothed classifier at inputs exchangeable with the calibration images. "
    "An attacker who moves an input can also move the surrogate's output: the clean input is certified, a shifted "
    "stream of inputs is not."
)


class BundleError(ValueError):
    """A bundle that must not be used, and why."""


def load_bundle(folder: str | Path, public_key: KeySource | None = None) -> Bundle:
    """Return the bundle of a folder; every byte of bundle.json and of the engine was verified.

    Parameters
    ----------
    folder : path
        The bundle. The folder itself may be a link; its files may not.
    public_key : path or bytes, optional
        Ed25519 public key in PEM of whoever must have signed the bundle. The signature is verified before bundle.json
        is parsed; a bundle without one is refused. Without a key, signatures are not looked at.

    Raises
    ------
    BundleError
        Naming what is missing, damaged, out of range, or not signed by that key.
    FileNotFoundError, ValueError
        If the key is no Ed25519 public key.
    ImportError
        If a key is given and the package cryptography is missing.
    """
    return read_bundle(folder, public_key)[0]


def read_bundle(folder: str | Path, public_key: KeySource | None = None) -> tuple[Bundle, bytes]:
    """Return the bundle of a folder, and the engine as the very bytes that were verified.

    Raises
    ------
    BundleError, FileNotFoundError, ValueError, ImportError
        As `load_bundle`.
    """
    return read_files(folder, public_key)[1:]


def read_files(folder: str | Path, public_key: KeySource | None = None) -> tuple[bytes, Bundle, bytes]:
    """Return the verified bytes of bundle.json, the bundle that they say, and the verified bytes of the engine.

    Raises
    ------
    BundleError, FileNotFoundError, ValueError, ImportError
        As `load_bundle`.
    """
    key = None if public_key is None else load_public_key(public_key)
    try:
        # Resolved once: a link to the current bundle may be moved on meanwhile, and the files must be of one bundle.
        folder = Path(os.path.realpath(folder))
        document = read_file(folder / DOCUMENT, MAX_JSON_BYTES, "bundle")
        if key is not None:
            verify(document, read_signature(folder), key)
        bundle = parse_bundle(document)
        engine = read_file(folder / bundle.engine.file, MAX_ENGINE_BYTES, "bundle")
        _check_engine(engine, bundle.engine.file, bundle.engine.sha256)
    except (OSError, ValueError) as error:
        raise BundleError(str(error)) from None
    return document, bundle, engine


def parse_bundle(document: bytes) -> Bundle:
    """Return the bundle that the bytes of a bundle.json say; no file is touched.

    Raises
    ------
    BundleError
        Naming what is damaged or out of range.
    """
    try:
        content = parse_json(document, "bundle")
        bundle = Bundle.parse(content)
        if document != canonical_json(content, "bundle"):
            raise ValueError(f"bundle: expected {DOCUMENT} in canonical form, got another spelling. Restore the file.")
    except ValueError as error:
        raise BundleError(str(error)) from None
    return bundle


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
    folder, engine_file = Path(folder), Path(engine_file)
    if folder.exists():
        raise FileExistsError(f"bundle: expected a new folder, got {folder}, which exists. Delete it or name another.")
    engine = read_file(engine_file.resolve(), MAX_ENGINE_BYTES, "bundle")
    try:
        content = _content(engine_file.name, engine_spec, calibration, sigma, statement, provenance, reference)
        if extra_passes is not None:
            content["extra_passes"] = asdict(extra_passes)
        # Once through JSON, so that the digest is of what a reader will see (tuples are lists, keys are strings).
        content = parse_json(canonical_json(content, "bundle"), "bundle")
        content["sha256"] = digest(content)
        bundle = Bundle.parse(content)
        _check_engine(engine, bundle.engine.file, bundle.engine.sha256)
    except KeyError as error:
        raise BundleError(f"bundle: expected a field {error}, got none. Pass it to save_bundle.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(_one_line(error)) from None
    _publish(folder, {bundle.engine.file: engine, DOCUMENT: canonical_json(content, "bundle")})
    return bundle


def _content(
    file: str,
    spec: Mapping[str, Any],
    calibration: Mapping[str, Any],
    sigma: float,
    statement: str,
    provenance: Mapping[str, Any],
    reference: Reference | None,
) -> dict[str, Any]:
    numbers = {key: float(calibration[key]) for key in ("beta", "gamma", "eta", "t")}
    counts = {key: operator.index(calibration[key]) for key in ("n", "images", "rank")}
    extra = {key: calibration[key] for key in ("bins", "certified", "effective", "priors") if key in calibration}
    knots = {key: [float(knot) for knot in calibration[key]] for key in ("knots_q", "knots_p")}
    engine = {key: spec[key] for key in ("kind", "sha256", "precision", "input_shape", "num_classes", "classes")}
    engine |= {"onnx_sha256": spec.get("onnx_sha256", spec["sha256"]), "gpu": spec.get("gpu", "")}
    reference = reference or Reference("", "", np.empty((0, 1)), TOLERANCE)
    return {
        "format": FORMAT,
        "engine": {"file": file, **engine},
        "sigma": float(sigma),
        "curve": {"family": calibration["curve"], **knots},
        "calibration": {"guarantee": calibration["guarantee"], **numbers, **counts, **extra},
        "statement": statement,
        "limits": LIMITS,
        "provenance": dict(provenance),
        "reference": reference.as_dict(),
    }


def _check_engine(data: bytes, name: str, recorded: str) -> None:
    found = sha256_of(data)
    if found != recorded:
        raise BundleError(
            f"bundle: expected {name} with sha256 {recorded}, got {found}. "
            "The guarantee holds only for the calibrated engine; re-run rrise calibrate."
        )


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
