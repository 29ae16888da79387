"""What an artifact is, in words: what it guarantees, what it does not, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrise.calibration.guarantees import CERTIFIED
from rrise.calibration.statements import among_certified
from rrise.promise import percent
from rrise.runtime.bundle import read_files
from rrise.runtime.calibration_record import CalibrationRecord
from rrise.runtime.documents import MAX_JSON_BYTES, parse_json, read_file

DOCUMENTS = {
    "bundle.json": "bundle",
    "engine.json": "engine",
    "network.json": "network",
    "manifest.json": "counts",
}


def describe(artifact: Path, *, as_json: bool = False, public_key: Path | None = None) -> str:
    """Return a description of a bundle, engine, classifier, surrogate or counts folder.

    A bundle, of one sigma or several, is verified as :func:`rrise.runtime.load_bundle` does; of the others the document
    is shown.
    With a public key it must be a bundle, signed by that key.

    Raises
    ------
    FileNotFoundError
        If the folder holds no artifact of rrise.
    BundleError
        If it is a bundle that must not be used.
    ValueError
        If there is a key, and no bundle that it could have signed.
    """
    document = next((name for name in DOCUMENTS if (artifact / name).is_file()), None)
    if document is None:
        inner = sorted({path.parent.name for name in DOCUMENTS for path in artifact.glob(f"*/{name}")})
        hint = f" It holds {', '.join(inner)}: name one of them." if inner else ""
        raise FileNotFoundError(f"inspect: expected a folder with one of {', '.join(DOCUMENTS)}, got {artifact}.{hint}")
    if DOCUMENTS[document] == "bundle":
        verified, bundle, _ = read_files(artifact, public_key)
        content = parse_json(verified, "inspect")
        if not as_json:
            head = [bundle.statement, "", f"What it does not say: {bundle.limits}", ""]
            if among := _among_certified(bundle.calibration):
                head.insert(1, among)
            signed = "not checked" if public_key is None else f"by the key {public_key}"
            head += [f"signature: {signed}", "verified: every byte of bundle.json and of the engine"]
            return "\n".join([*head, *_lines(content)])
    else:
        if public_key is not None:
            raise ValueError(f"inspect: expected a bundle to verify, got {DOCUMENTS[document]}. Drop --public-key.")
        content = parse_json(read_file(artifact / document, MAX_JSON_BYTES, "inspect"), "inspect")
    return json.dumps(content, indent=1) if as_json else "\n".join([DOCUMENTS[document], *_lines(content)])


def _among_certified(calibration: CalibrationRecord) -> str:
    """Return what a promise over all inputs leaves among issued certificates alone; empty if it is about those."""
    if calibration.guarantee == CERTIFIED:
        return ""
    if calibration.certified is not None and not calibration.priors and not calibration.bins:
        return among_certified(calibration.error, calibration.certified, calibration.images)
    return f"Among certified inputs alone: at most {percent(calibration.error)} / P(certified) can be wrong."


def _lines(content: Mapping[str, Any], indent: str = "  ") -> list[str]:
    lines = []
    for key, value in content.items():
        if key in ("statement", "limits"):
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{_shown(key)}", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and len(value) > 12:
            lines.append(f"{indent}{_shown(key)}: {len(value)} values from {_shown(value[0])} to {_shown(value[-1])}")
        else:
            lines.append(f"{indent}{_shown(key)}: {_shown(value)}")
    return lines


def _shown(value: object) -> str:
    """Return the value as text; what a terminal would obey, such as an escape sequence, is spelled out."""
    text = str(value)
    return text if text.isprintable() else repr(text)
