"""Signatures: only the bundle that the holder of the private key signed loads with the public key, and that is checked
before a byte of it is parsed."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from reference_engines import linear_engine, write_bundle

from rrise.__main__ import main
from rrise.runtime import BundleError, Certifier, load_bundle, sign_bundle
from rrise.runtime.signature import SIGNED_PREFIX, load_private_key, load_public_key
from rrise.runtime.signing import generate_keys

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows guards links and has no file modes of this kind")
ENGINE = linear_engine(np.eye(4, 3), np.zeros(3))
OTHER = linear_engine(np.eye(4, 3) * 2, np.zeros(3))


def private_pem(key: Any, **changes: Any) -> bytes:
    how = {"encoding": Encoding.PEM, "format": PrivateFormat.PKCS8, "encryption_algorithm": NoEncryption()}
    return key.private_bytes(**how | changes)


def public_pem(key: Any, **changes: Any) -> bytes:
    how = {"encoding": Encoding.PEM, "format": PublicFormat.SubjectPublicKeyInfo}
    return key.public_key().public_bytes(**how | changes)


KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
MINE, THEIRS = public_pem(KEY), public_pem(STRANGER)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "signed", ENGINE)
    assert sign_bundle(folder, private_pem(KEY)) == folder / "bundle.sig"
    return folder


def refusal(folder: Path, key: bytes = MINE) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder, key)
    text = str(caught.value)
    assert text.startswith("bundle: expected ")
    assert ", got " in text
    assert "\n" not in text
    return text


def test_a_signed_bundle_loads_with_the_key_and_without(signed: Path, tmp_path: Path) -> None:
    assert sorted(os.listdir(signed)) == ["bundle.json", "bundle.sig", "engine.onnx"]  # no temporary file stays
    (tmp_path / "mine.pem").write_bytes(MINE)
    plain = load_bundle(signed)
    for key in (MINE, tmp_path / "mine.pem", str(tmp_path / "mine.pem")):
        assert load_bundle(signed, public_key=key).sha256 == plain.sha256
    assert Certifier.load(signed, public_key=MINE)(np.zeros((2, 2), np.uint8)).label.shape == (1,)


def test_the_signature_is_ed25519_over_the_prefix_and_the_bytes(signed: Path) -> None:
    signature, document = (signed / "bundle.sig").read_bytes(), (signed / "bundle.json").read_bytes()
    assert len(signature) == 64
    assert SIGNED_PREFIX == b"rrise bundle signature 1\0"
    KEY.public_key().verify(signature, b"rrise bundle signature 1\0" + document)
    (signed / "bundle.sig").write_bytes(KEY.sign(document))  # a signature for another purpose
    assert "by another key or over other bytes" in refusal(signed)


def test_a_missing_signature_is_refused_only_with_a_key(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    assert f"expected a signature {folder.resolve() / 'bundle.sig'}, got none" in refusal(folder)
    with pytest.raises(BundleError, match="expected a signature"):
        Certifier.load(folder, public_key=MINE)
    load_bundle(folder)


def test_another_key_is_refused(signed: Path) -> None:
    assert "bundle.sig by the given public key over bundle.json, got a signature by another key" in refusal(
        signed, THEIRS
    )


def test_the_signature_of_another_bundle_is_refused(signed: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", OTHER)
    sign_bundle(other, private_pem(KEY))
    assert (other / "bundle.sig").read_bytes() != (signed / "bundle.sig").read_bytes()
    (signed / "bundle.sig").write_bytes((other / "bundle.sig").read_bytes())
    assert "over other bytes" in refusal(signed)


def test_another_bundle_in_the_place_of_the_signed_one_is_refused(signed: Path, tmp_path: Path) -> None:
    """It loads without a key: its own hashes are right. That is what a signature is for."""
    other = write_bundle(tmp_path / "other", OTHER)
    for name in ("bundle.json", "engine.onnx"):
        (signed / name).write_bytes((other / name).read_bytes())
    load_bundle(signed)
    assert "over other bytes" in refusal(signed)


def test_another_engine_beside_a_signed_document_is_refused(signed: Path) -> None:
    (signed / "engine.onnx").write_bytes(OTHER)
    assert "expected engine.onnx with sha256" in refusal(signed)


@pytest.mark.parametrize("name", ["bundle.json", "bundle.sig"])
def test_every_flipped_byte_is_refused(name: str, signed: Path) -> None:
    whole = (signed / name).read_bytes()
    for position in range(0, len(whole), 1 if name == "bundle.sig" else 7):
        (signed / name).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert "over other bytes" in refusal(signed)
    (signed / name).write_bytes(whole)
    load_bundle(signed, MINE)


@pytest.mark.parametrize("length", [0, 63, 65, 1 << 20])
def test_a_signature_of_another_length_is_refused(length: int, signed: Path) -> None:
    whole = (signed / "bundle.sig").read_bytes()
    (signed / "bundle.sig").write_bytes((whole * (1 + length // 64))[:length])
    assert "bundle.sig of" in refusal(signed)


@POSIX
def test_a_key_may_be_mounted_as_a_link(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pem").write_bytes(MINE)
    (tmp_path / "mounted.pem").symlink_to(tmp_path / "mine.pem")
    load_bundle(signed, tmp_path / "mounted.pem")


@POSIX
def test_a_linked_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    (signed / "bundle.sig").rename(tmp_path / "elsewhere")
    (signed / "bundle.sig").symlink_to(tmp_path / "elsewhere")
    assert "bundle.sig to be a plain file, got a link" in refusal(signed)


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"a":1,"a":2}', b"\xff", b"", b"cos\nsystem\n."])
def test_nothing_is_parsed_before_the_signature_is_verified(
    document: bytes, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (signed / "bundle.json").write_bytes(document)
    with pytest.raises(BundleError, match=r"JSON|each key once"):
        load_bundle(signed)
    parsed = []
    for name in ("rrise.runtime.bundle.parse_json", "json.loads", "rrise.runtime.bundle.Bundle.parse"):
        monkeypatch.setattr(name, lambda *arguments, **_: parsed.append(arguments))
    assert "over other bytes" in refusal(signed)
    assert parsed == []
    with pytest.raises(BundleError, match="over other bytes"):
        Certifier.load(signed, public_key=MINE)
    assert main(["inspect", str(signed), "--public-key", str(_written(signed.parent / "k.pub.pem", MINE))]) == 1
    assert parsed == []


def test_the_order_of_that_test_can_fail(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda *arguments, **how: parsed.append(1) or loads(*arguments, **how))
    load_bundle(signed, MINE)
    assert parsed == [1]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


FOREIGN: dict[str, Callable[[], Any]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "X25519": x25519.X25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "EllipticCurve|EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "DSA": lambda: dsa.generate_private_key(1024),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_key_of_another_algorithm_is_refused_by_name(name: str, signed: Path) -> None:
    key = FOREIGN[name]()
    with pytest.raises(ValueError, match=f"public key: expected one of Ed25519, got ({name})\\."):
        load_bundle(signed, public_pem(key))
    (signed / "bundle.sig").unlink()
    with pytest.raises(ValueError, match=f"private key: expected one of Ed25519, got ({name})\\."):
        sign_bundle(signed, private_pem(key))
    assert not (signed / "bundle.sig").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(private_pem(KEY), "expected an Ed25519 public key, got a private key", id="private"),
        pytest.param(b"", "expected a PEM file, got", id="empty"),
        pytest.param(KEY.public_key().public_bytes_raw(), "expected a PEM file, got", id="raw"),
        pytest.param(MINE[:60] + MINE[70:], "expected a PEM file, got", id="damaged"),
        pytest.param(public_pem(KEY, encoding=Encoding.DER), "expected a PEM file, got", id="DER"),
        pytest.param(
            public_pem(KEY, encoding=Encoding.OpenSSH, format=PublicFormat.OpenSSH), "expected a PEM file", id="OpenSSH"
        ),
    ],
)
def test_what_is_no_public_key_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"public key: {message}") as caught:
        load_public_key(data)
    assert "rrise keygen" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(MINE, "expected a PEM file, got", id="public"),
        pytest.param(
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "expected a PEM file", id="bad"
        ),
        pytest.param(
            private_pem(KEY, encryption_algorithm=BestAvailableEncryption(b"secret")),
            "expected an unencrypted PEM file, got an encrypted one. Decrypt it",
            id="encrypted",
        ),
    ],
)
def test_what_is_no_private_key_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"private key: {message}"):
        load_private_key(data)


def test_missing_and_large_key_files_are_refused(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="public key: expected a file"):
        load_bundle(signed, tmp_path / "absent.pem")
    for empty in ("", tmp_path):
        with pytest.raises(ValueError, match=r"public key: expected .* to be a plain file"):
            load_bundle(signed, empty)
    with pytest.raises(ValueError, match="of at most 65536 bytes"):
        load_bundle(signed, _written(tmp_path / "large", bytes(1 << 17)))


def test_only_a_bundle_that_loads_is_signed(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "engine.onnx").write_bytes(OTHER)
    with pytest.raises(BundleError, match=r"expected engine\.onnx with sha256"):
        sign_bundle(folder, private_pem(KEY))
    assert sorted(os.listdir(folder)) == ["bundle.json", "engine.onnx"]


def test_a_signature_is_not_overwritten_unless_asked(signed: Path) -> None:
    before = (signed / "bundle.sig").read_bytes()
    with pytest.raises(FileExistsError, match=r"bundle: expected no signature yet, got .*bundle\.sig"):
        sign_bundle(signed, private_pem(STRANGER))
    assert (signed / "bundle.sig").read_bytes() == before
    sign_bundle(signed, private_pem(STRANGER), overwrite=True)
    load_bundle(signed, THEIRS)
    assert sorted(os.listdir(signed)) == ["bundle.json", "bundle.sig", "engine.onnx"]


def test_a_full_disk_leaves_the_old_signature(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sign_bundle(signed, private_pem(STRANGER), overwrite=True)
    assert sorted(os.listdir(signed)) == ["bundle.json", "bundle.sig", "engine.onnx"]
    load_bundle(signed, MINE)


@POSIX
def test_a_signature_that_is_a_link_is_replaced_not_followed(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"keep")
    (signed / "bundle.sig").unlink()
    (signed / "bundle.sig").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        sign_bundle(signed, private_pem(KEY))
    sign_bundle(signed, private_pem(KEY), overwrite=True)
    assert (tmp_path / "target").read_bytes() == b"keep"
    load_bundle(signed, MINE)


def test_generated_keys_sign_and_are_guarded(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "keys" / "release.v1")
    assert (private.name, public.name) == ("release.v1.pem", "release.v1.pub.pem")
    assert os.name == "nt" or stat.S_IMODE(private.stat().st_mode) == 0o600
    folder = write_bundle(tmp_path / "b", ENGINE)
    sign_bundle(folder, private)
    load_bundle(folder, public)
    assert generate_keys(tmp_path / "keys" / "other")[0].read_bytes() != private.read_bytes()


@pytest.mark.parametrize("present", [".pem", ".pub.pem"])
def test_no_key_is_overwritten(present: str, tmp_path: Path) -> None:
    _written(tmp_path / f"k{present}", b"mine")
    with pytest.raises(FileExistsError, match="keygen: expected a new file, got"):
        generate_keys(tmp_path / "k")
    assert os.listdir(tmp_path) == [f"k{present}"]
    assert (tmp_path / f"k{present}").read_bytes() == b"mine"


def test_a_full_disk_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        generate_keys(tmp_path / "k")
    assert os.listdir(tmp_path) == []


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, key = write_bundle(tmp_path / "b", ENGINE), str(tmp_path / "release")
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 2), np.uint8))
    assert main(["keygen", "--out", key]) == 0
    assert "release.pem: keep it secret" in capsys.readouterr().out
    assert main(["keygen", "--out", key]) == 1
    certify = ["certify", str(folder), str(tmp_path / "x.npy"), "--public-key", f"{key}.pub.pem"]
    assert main(certify) == 1
    assert "expected a signature" in capsys.readouterr().err
    assert main(["sign", str(folder), "--key", f"{key}.pem"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "bundle.sig")
    assert main(["sign", str(folder), "--key", f"{key}.pem"]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["sign", str(folder), "--key", f"{key}.pem", "--force"]) == 0
    assert main(certify) == 0
    capsys.readouterr()
    assert main(["inspect", str(folder), "--public-key", f"{key}.pub.pem"]) == 0
    assert f"signature: by the key {key}.pub.pem" in capsys.readouterr().out
    assert main(["inspect", str(folder)]) == 0
    assert "signature: not checked" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--public-key", f"{key}.pem"]) == 1
    assert "got a private key" in capsys.readouterr().err
    (tmp_path / "engine" / "engine.json").parent.mkdir()
    (tmp_path / "engine" / "engine.json").write_text("{}")
    assert main(["inspect", str(tmp_path / "engine"), "--public-key", f"{key}.pub.pem"]) == 1
    assert "expected a bundle to verify, got engine" in capsys.readouterr().err


def test_a_device_that_checks_no_signature_does_not_load_the_package() -> None:
    probe = "import sys, rrise.runtime; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_the_package_the_extra_is_named(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    load_bundle(signed)
    for act in (lambda: load_bundle(signed, MINE), lambda: sign_bundle(signed, b""), lambda: generate_keys("k")):
        with pytest.raises(
            ImportError, match=r"expected the package cryptography, got none. pip install 'rrise\[sign\]'"
        ):
            act()
    assert main(["keygen", "--out", str(tmp_path / "k")]) == 1
    assert "pip install 'rrise[sign]'" in capsys.readouterr().err
