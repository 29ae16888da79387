"""The signature of a bundle: who made it. Ed25519 by the package cryptography, verified before anything is parsed.

`bundle.sig` holds the 64 bytes of an Ed25519 signature (RFC 8032) over a prefix and the exact bytes of bundle.json.
bundle.json records the engine's sha256, so the signature covers the engine too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rrise.runtime.bundle_schema import DOCUMENT, SIGNATURE
from rrise.runtime.documents import brief, read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KeySource = str | Path | bytes
"""A PEM file, by its path or as its bytes."""

SIGNED_PREFIX = b"rrise bundle signature 1\0"
"""Signed before bundle.json, so that a signature made for another purpose is none of a bundle."""

_SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 1 << 16


def read_signature(folder: Path) -> bytes:
    """Return the bytes of the folder's bundle.sig.

    Raises
    ------
    ValueError
        If there is none, or it is not a plain file of 64 bytes.
    """
    try:
        signature = read_file(folder / SIGNATURE, _SIGNATURE_BYTES, "bundle")
    except FileNotFoundError:
        raise ValueError(
            f"bundle: expected a signature {folder / SIGNATURE}, got none. Sign it with rrise sign, or do not trust it."
        ) from None
    if len(signature) != _SIGNATURE_BYTES:
        raise ValueError(
            f"bundle: expected {SIGNATURE} of {_SIGNATURE_BYTES} bytes, got {len(signature)}. Restore the file."
        )
    return signature


def verify(document: bytes, signature: bytes, public_key: Ed25519PublicKey) -> None:
    """Refuse a signature that is not by this key over the bytes of this bundle.json.

    Raises
    ------
    ValueError
        If it is not.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        public_key.verify(signature, SIGNED_PREFIX + document)
    except InvalidSignature:
        raise ValueError(
            f"bundle: expected {SIGNATURE} by the given public key over {DOCUMENT}, got a signature by another key or "
            "over other bytes. Do not use the bundle."
        ) from None


def sign(document: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """Return the 64 bytes of bundle.sig for the bytes of a bundle.json."""
    return private_key.sign(SIGNED_PREFIX + document)


def load_public_key(source: KeySource) -> Ed25519PublicKey:
    """Return the Ed25519 public key of a PEM file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything else, such as a private key or a key of another algorithm.
    ImportError
        If the package cryptography is missing.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _key_bytes(source, "public key")
    advice = "Pass the NAME.pub.pem that rrise keygen wrote."
    if b"PRIVATE KEY" in data:
        raise ValueError(f"public key: expected an Ed25519 public key, got a private key. {advice}")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"public key: expected a PEM file, got {brief(str(error))}. {advice}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_kind(key, "public key", advice)
    return key


def load_private_key(source: KeySource) -> Ed25519PrivateKey:
    """Return the Ed25519 private key of an unencrypted PEM file (PKCS #8).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything else, such as an encrypted key or a key of another algorithm.
    ImportError
        If the package cryptography is missing.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _key_bytes(source, "private key")
    advice = "Make one with rrise keygen."
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:  # what cryptography raises if a password is needed
        raise ValueError(
            "private key: expected an unencrypted PEM file, got an encrypted one. "
            "Decrypt it with `openssl pkey`, and guard the file."
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"private key: expected a PEM file, got {brief(str(error))}. {advice}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong_kind(key, "private key", advice)
    return key


def require_cryptography() -> None:
    """Refuse to go on without the package cryptography.

    Raises
    ------
    ImportError
        Saying how to install it.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ImportError("signature: expected the package cryptography, got none. pip install 'rrise[sign]'") from None


def _key_bytes(source: KeySource, thing: str) -> bytes:
    if isinstance(source, bytes):
        return source
    return read_file(Path(os.path.realpath(source)), _MAX_KEY_BYTES, thing)  # a key may be mounted as a link


def _wrong_kind(key: object, thing: str, advice: str) -> ValueError:
    got = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
    return ValueError(f"{thing}: expected one of Ed25519, got {got}. {advice}")
