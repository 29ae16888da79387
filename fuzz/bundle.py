"""Fuzz targets of the bundle loader: bytes in, a named refusal or a sound object out; nothing is read or written.

    python fuzz/bundle.py document tests/corpus/bundle/document -max_total_time=60

runs one of `TARGETS` under atheris (libFuzzer). Without atheris they are plain functions; the tests replay the corpus
through them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
from mutations import mutate_json

Check = Callable[[bytes], object]


def document(data: bytes) -> str | None:
    """Refuse or accept the bytes as a bundle.json, and the same with its sha256 and spelling put right.

    A fuzzer cannot guess a sha256; with the seal put right as an attacker would, every other check is reached.
    """
    refusal = _bundle(data)
    resealed = _resealed(data)
    if resealed is not None and resealed != data:
        refusal = _bundle(resealed)
    return refusal


def engine(data: bytes) -> str | None:
    """Say whether the bytes, as an ONNX file, borrow from other files; never less than the onnx package sees."""
    from onnx import ModelProto

    from rrise.runtime.engines.external_data import references_external_data

    try:
        borrows = references_external_data(data)
    except ValueError as error:
        return _named(error, "engine: expected an ONNX file")
    try:
        model = ModelProto.FromString(data)
    except Exception:  # the protobuf runtime's DecodeError; what onnx cannot parse, it cannot judge
        return None
    assert borrows or not any(_external(tensor) for tensor in _tensors(model)), "external data was overlooked"
    return None


def json_text(data: bytes) -> str | None:
    """Refuse the bytes, or read them as JSON whose canonical spelling reads back to the same."""
    from rrise.runtime.documents import canonical_json, parse_json

    try:
        content = parse_json(data, "json")
    except ValueError as error:
        return _named(error, "json: expected ")
    try:
        spelled = canonical_json(content, "json")
    except ValueError as error:
        return _named(error, "json: expected plain JSON")
    assert parse_json(spelled, "json") == content, "another content than was written"
    assert canonical_json(parse_json(spelled, "json"), "json") == spelled, "two canonical spellings"
    return None


TARGETS: dict[str, Check] = {"document": document, "engine": engine, "json_text": json_text}


def _bundle(data: bytes) -> str | None:
    from rrise import _C
    from rrise.runtime.bundle import BundleError, parse_bundle
    from rrise.runtime.levels_schema import LevelsBundle

    try:
        bundle = parse_bundle(data)
    except BundleError as error:
        return _named(error, "bundle: expected ")
    assert not set(bundle.engine.file) & set("/\\\0"), bundle.engine.file
    assert bundle.engine.file not in (".", "..", "bundle.json", "bundle.sig"), bundle.engine.file
    assert all(text.isprintable() for text in (bundle.statement, bundle.limits, *bundle.engine.classes))
    several = isinstance(bundle, LevelsBundle)
    curves, sigmas = (bundle.curves, bundle.sigmas) if several else ((bundle.curve,), (bundle.sigma,))
    logits = np.array([[0.0, 0.0], [1.0, -1.0], [50.0, -50.0], [np.nan, 0.0]])
    for curve, sigma in zip(curves, sigmas, strict=True):
        q, p = curve.knots_q, curve.knots_p
        assert q[0] == 0.0, q
        assert q[-1] == 1.0, q
        assert (np.diff(q) > 0).all(), q
        assert len(p) == len(q)
        assert ((p >= 0) & (p <= 1)).all(), p
        assert 0 < sigma < math.inf, sigma
        label, _, p_lower, radius = _C.certify(logits, q, p, sigma)
        assert label[3] == -1, label
        assert (p_lower <= p.max()).all(), p_lower
        assert np.isfinite(radius).all(), radius
        assert (radius >= 0).all(), radius
    return None


def _resealed(data: bytes) -> bytes | None:
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            return None
        content.pop("sha256", None)
        content["sha256"] = hashlib.sha256(_spelled(content)).hexdigest()
        return _spelled(content)
    except (ValueError, RecursionError):  # neither JSON nor writable as such
        return None


def _spelled(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"


def _named(error: ValueError, start: str) -> str:
    text = str(error)
    assert text.startswith(start), text
    assert ", got " in text, text
    assert text.isprintable(), text  # one line, and nothing that a terminal obeys
    assert len(text) < 800, text
    return text


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every TensorProto within a message of the onnx package, whatever holds it."""
    waiting = [message]
    while waiting:
        found = waiting.pop()
        if found.DESCRIPTOR.name == "TensorProto":
            yield found
        for field, value in found.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "DESCRIPTOR") else list(value)


def _external(tensor: Any) -> bool:
    return bool(tensor.external_data) or tensor.data_location == 1


def main() -> None:
    """Fuzz the target that is named first, with libFuzzer's own arguments after it."""
    import atheris

    with atheris.instrument_imports(include=["rrise"]):
        import rrise.runtime
        import rrise.runtime.engines.external_data  # noqa: F401
    name = sys.argv.pop(1)
    target = TARGETS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if name == "engine" or random.random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return mutate_json(data, random)[:max_size]

    atheris.Setup(sys.argv, lambda data: target(data) and None, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
