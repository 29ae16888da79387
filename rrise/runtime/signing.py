"""Signing a bundle, and making the keys for it: done where bundles are made, never on the device."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from rrise.runtime.bundle import read_files
from rrise.runtime.bundle_schema import SIGNATURE
from rrise.runtime.signature import KeySource, load_private_key, require_cryptography, sign


def sign_bundle(folder: str | Path, private_key: KeySource, *, overwrite: bool = False) -> Path:
    """Return the bundle.sig that was written into a bundle: whole or, on any failure, not at all.

    Only a bundle that loads is signed.

    Parameters
    ----------
    folder : path
        The bundle.
    private_key : path or bytes
        Unencrypted Ed25519 private key in PEM.
    overwrite : bool
        Replace a signature that is there.

    Raises
    ------
    BundleError
        If the bundle does not load.
    FileExistsError
        If there is a signature and `overwrite` is false.
    FileNotFoundError, ValueError
        If the key is no unencrypted Ed25519 private key.
    ImportError
        If the package cryptography is missing.
    """
    key = load_private_key(private_key)
    folder = Path(os.path.realpath(folder))
    document, _, _ = read_files(folder)
    target = folder / SIGNATURE
    partial = folder / f".{SIGNATURE}.{secrets.token_hex(8)}"
    try:
        _write_new(partial, sign(document, key), 0o666)
        if overwrite:
            os.replace(partial, target)
        else:
            os.link(partial, target)  # which, unlike a rename, fails if the name is taken
    except FileExistsError:
        raise FileExistsError(
            f"bundle: expected no signature yet, got {target}. Overwrite it with --force (overwrite=True)."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def generate_keys(out: str | Path) -> tuple[Path, Path]:
    """Return the new files `out`.pem, an Ed25519 private key, and `out`.pub.pem, its public key.

    The private key is unencrypted, and readable by its owner only (on Windows: by whoever may read the folder).

    Raises
    ------
    FileExistsError
        If one of them exists; nothing is overwritten.
    ImportError
        If the package cryptography is missing.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    out = Path(out)
    private, public = (out.with_name(out.name + ending) for ending in (".pem", ".pub.pem"))
    for path in (private, public):
        if os.path.lexists(path):
            raise FileExistsError(f"keygen: expected a new file, got {path}, which exists. Name another.")
    key = Ed25519PrivateKey.generate()
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    try:
        _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except BaseException:
        private.unlink(missing_ok=True)
        raise
    return private, public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist to disk, or leave none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
