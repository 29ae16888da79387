"""The bundle: one folder that holds all a device needs to certify, and refuses to be anything but what was calibrated.

`docs/bundle.md` specifies the format. The sha256s find damage and mix-ups (a flipped byte, a swapped engine); they are
no signature: whoever may write the folder may write another bundle. `signature` is for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrise.runtime.bundle_schema import DOCUMENT, Bundle
from rrise.runtime.documents import MAX_JSON_BYTES, canonical_json, parse_json, read_file, sha256_of
from rrise.runtime.engines.protocol import MAX_ENGINE_BYTES
from rrise.runtime.levels_schema import FORMAT as LEVELS
from rrise.runtime.levels_schema import LevelsBundle
from rrise.runtime.signature import KeySource, load_public_key, read_signature, verify


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
    _, bundle, engine = read_files(folder, public_key)
    if isinstance(bundle, LevelsBundle):
        sigmas = ", ".join(f"{sigma:g}" for sigma in bundle.sigmas)
        raise BundleError(
            f"bundle: expected one of a single sigma, got one of sigma = {sigmas} in {folder}. Use rrise.MultiSigma."
        )
    return bundle, engine


def read_levels(folder: str | Path, public_key: KeySource | None = None) -> tuple[LevelsBundle, bytes]:
    """Return the bundle of several noise levels in a folder, and the engine as the very bytes that were verified.

    Raises
    ------
    BundleError, FileNotFoundError, ValueError, ImportError
        As `load_bundle`; also if the bundle is one of a single sigma.
    """
    _, bundle, engine = read_files(folder, public_key)
    if isinstance(bundle, Bundle):
        raise BundleError(
            f"bundle: expected one of several sigma, got one of sigma = {bundle.sigma:g} in {folder}. Use "
            "rrise.Certifier."
        )
    return bundle, engine


def read_files(folder: str | Path, public_key: KeySource | None = None) -> tuple[bytes, Bundle | LevelsBundle, bytes]:
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
        check_sha256(engine, bundle.engine.file, bundle.engine.sha256)
    except (OSError, ValueError) as error:
        raise BundleError(str(error)) from None
    return document, bundle, engine


def parse_bundle(document: bytes) -> Bundle | LevelsBundle:
    """Return the bundle that the bytes of a bundle.json say, of one sigma or of several; no file is touched.

    Raises
    ------
    BundleError
        Naming what is damaged or out of range.
    """
    try:
        content = parse_json(document, "bundle")
        bundle = parse_content(content)
        if document != canonical_json(content, "bundle"):
            raise ValueError(f"bundle: expected {DOCUMENT} in canonical form, got another spelling. Restore the file.")
    except ValueError as error:
        raise BundleError(str(error)) from None
    return bundle


def parse_content(content: Mapping[str, Any]) -> Bundle | LevelsBundle:
    """Return the bundle that the members of a bundle.json make, or raise ValueError naming the one at fault."""
    return LevelsBundle.parse(content) if content.get("format") == LEVELS else Bundle.parse(content)


def check_sha256(data: bytes, name: str, recorded: str) -> None:
    """Refuse an engine file that is not the recorded one."""
    found = sha256_of(data)
    if found != recorded:
        raise BundleError(
            f"bundle: expected {name} with sha256 {recorded}, got {found}. "
            "The guarantee holds only for the calibrated engine; re-run rrise calibrate."
        )
