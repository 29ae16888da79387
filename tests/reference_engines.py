"""Tiny engines with answers known in closed form, bundles written without rrise, and certificates in 50 digits."""

import hashlib
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model(
    nodes: list,
    tensors: list = (),
    inputs: list = (("x", FLOAT, ["N", 1, 2, 2]),),
    outputs: list = (("y", FLOAT, ["N", 3]),),
    functions: list = (),
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def linear_engine(
    weights: np.ndarray,
    bias: np.ndarray,
    input_shape: tuple[int, int, int] = (1, 2, 2),
    batch: int | str = "N",
    last: tuple[str, ...] = (),
) -> bytes:
    """An ONNX file of logits = flatten(x) @ weights + bias, and then the operators `last` (such as Log)."""
    names = [*(f"z{i}" for i in range(len(last))), "y"]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "W", "b"], [names[0]])]
    nodes += [helper.make_node(op, [a], [b]) for op, (a, b) in zip(last, pairwise(names), strict=True)]
    tensors = [numpy_helper.from_array(np.asarray(a, np.float32), name) for a, name in ((weights, "W"), (bias, "b"))]
    return model(
        nodes,
        tensors,
        [("x", FLOAT, [batch, *input_shape])],
        [("y", FLOAT, [batch, np.shape(weights)[1]])],
    ).SerializeToString()


def canonical(content: dict[str, Any]) -> bytes:
    """docs/bundle.md's canonical form, written down a second time."""
    return (json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its own sha256 put right, as whoever tampers with a number would."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    return body | {"sha256": hashlib.sha256(canonical(body)).hexdigest()}


def bundle_content(engine: bytes, /, **changes: Any) -> dict[str, Any]:
    """A valid bundle.json for an engine of 3 classes and (1,2,2) images, written without rrise."""
    content = {
        "format": "rrise-bundle/2",
        "engine": {
            "file": "engine.onnx",
            "kind": "onnxruntime",
            "sha256": hashlib.sha256(engine).hexdigest(),
            "precision": "float32",
            "input_shape": [1, 2, 2],
            "num_classes": 3,
            "classes": ["zero", "één", "two"],
            "onnx_sha256": hashlib.sha256(engine).hexdigest(),
            "gpu": "",
        },
        "sigma": 0.5,
        "curve": {"family": "scaled", "knots_q": [0.0, 0.25, 0.6, 1.0], "knots_p": [0.0, 0.1, 0.55, 0.99]},
        "calibration": {
            "guarantee": "training-conditional",
            "beta": 0.001,
            "gamma": 0.049,
            "eta": 0.01,
            "n": 1000,
            "images": 1000,
            "rank": 966,
            "t": 0.03125,
        },
        "statement": "With probability 0.99 over the calibration draw, 95% of the bounds hold.",
        "limits": "It says nothing of shifted inputs.",
        "provenance": {"classifier": "0" * 64, "versions": {"rrise": "0.1.0"}, "seed": 7},
        "reference": {"runtime": "", "device": "", "logits": [], "tolerance": 0.001},
    }
    return _changed(content, changes)


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *sections, key = path.split("__")
        target = content
        for section in sections:
            target = target[section]
        target[key] = value
    return sealed(content)


def levels_content(engine: bytes, /, **changes: Any) -> dict[str, Any]:
    """A valid bundle.json of two noise levels for an engine of 2 × 3 logits, written without rrise."""
    content = bundle_content(engine)
    curve = content.pop("curve")
    del content["sigma"]
    content["format"] = "rrise-levels/1"
    content["engine"]["sigmas"] = [0.25, 0.5]
    content["curves"] = [curve, curve | {"knots_p": [0.0, 0.3, 0.7, 0.98]}]
    return _changed(content, changes)


def write_levels(folder: Path, engine: bytes, /, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_bytes(canonical(levels_content(engine, **changes)))
    (folder / "engine.onnx").write_bytes(engine)
    return folder


def write_bundle(folder: Path, engine: bytes, /, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_bytes(canonical(bundle_content(engine, **changes)))
    (folder / "engine.onnx").write_bytes(engine)
    return folder


def engine_spec(engine: bytes, **changes: Any) -> dict[str, Any]:
    spec = {
        "format": "rrise-engine/1",
        "kind": "onnxruntime",
        "file": "engine.onnx",
        "sha256": hashlib.sha256(engine).hexdigest(),
        "precision": "float32",
        "input_shape": [1, 2, 2],
        "num_classes": 3,
        "classes": ["zero", "één", "two"],
        "max_probability_error": 1e-7,
        "opset": 17,
        "versions": {"onnx": "1"},
    }
    return spec | changes


def write_engine(folder: Path, engine: bytes, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "engine.onnx").write_bytes(engine)
    (folder / "engine.json").write_text(json.dumps(engine_spec(engine, **changes)))
    return folder


def exact_certificate(logits: np.ndarray, knots_q: list[float], knots_p: list[float], sigma: float) -> tuple:
    """(label, q, p_lower, radius) of one row of float32 logits, in 50 digits."""
    with mpmath.workdps(50):
        z = [mpmath.mpf(float(value)) for value in logits]
        label = max(range(len(z)), key=lambda k: z[k])
        q = 1 / mpmath.fsum(mpmath.exp(value - z[label]) for value in z)
        j = max(i for i in range(len(knots_q) - 1) if mpmath.mpf(knots_q[i]) <= q)
        q0, q1, p0, p1 = (mpmath.mpf(v) for v in (*knots_q[j : j + 2], *knots_p[j : j + 2]))
        p = p0 + (p1 - p0) * (q - q0) / (q1 - q0)
        if not p > mpmath.mpf(1) / 2:
            return -1, q, p, mpmath.mpf(0)
        return label, q, p, mpmath.mpf(sigma) * mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


def divided_by_255(pixel: int) -> np.float32:
    """The float32 nearest to pixel/255, found by rational arithmetic."""
    exact = Fraction(pixel, 255)
    guess = np.float32(pixel / 255)
    near = [guess, np.nextafter(guess, np.float32(-1)), np.nextafter(guess, np.float32(2))]
    return min(near, key=lambda value: abs(Fraction(float(value)) - exact))
