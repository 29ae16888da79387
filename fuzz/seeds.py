"""Write the corpus: a small bundle.json and a small ONNX file for each way to be hostile, and valid ones to begin from.

    python fuzz/seeds.py

rewrites tests/corpus/bundle. What each file must be refused for is in tests/test_hostile_bundle.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402
from reference_engines import FLOAT, bundle_content, canonical, levels_content, linear_engine, model  # noqa: E402

WEIGHTS = np.eye(4, 3, dtype=np.float32)
W = numpy_helper.from_array(WEIGHTS, "W")
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
MATMUL = helper.make_node("MatMul", ["f", "W"], ["y"])
ENGINE = linear_engine(WEIGHTS, np.zeros(3))


def documents() -> dict[str, bytes]:
    """Return the name and bytes of every bundle.json; all but the valid ones must be refused."""
    text = canonical(bundle_content(ENGINE)).decode()

    def sealed(**changes: Any) -> bytes:
        return canonical(bundle_content(ENGINE, **changes))

    def spelled(old: str, new: str) -> bytes:
        assert old in text
        return text.replace(old, new).encode(errors="surrogatepass")

    def of_levels(**changes: Any) -> bytes:
        return canonical(levels_content(ENGINE, **changes))

    curve = bundle_content(ENGINE)["curve"]
    bins = [{"start": 0.0, "images": 500, "rank": 400, "t": 0.1}]
    files = {
        "engine-above": "../engine.onnx",
        "engine-absolute": "/etc/passwd",
        "engine-is-the-document": "Bundle.JSON",
        "engine-is-the-signature": "bundle.sig",
        "engine-on-a-device": "NUL.onnx",
        "engine-on-a-port": "com1",
        "engine-on-a-share": "\\\\host\\share\\engine.onnx",
        "engine-in-a-stream": "engine.onnx:stream",
        "engine-with-a-dot-at-the-end": "engine.onnx.",
        "engine-with-a-full-width-dot": "engine．onnx",
        "engine-with-a-decomposed-accent": "e\u0301ngine.onnx",
        "engine-with-a-turn-of-direction": "engine\u202exnno.json",
        "engine-with-a-line-break": "engine\n.onnx",
        "engine-with-a-nul": "engine.onnx\0.json",
        "engine-name-of-300-bytes": "é" * 150,
    }
    return {
        "valid": sealed(),
        "valid-marginal": sealed(calibration__guarantee="marginal", calibration__eta=0.0),
        "valid-many-knots": sealed(
            curve__knots_q=(np.arange(33) / 32).tolist(), curve__knots_p=(np.arange(33) / 64).tolist()
        ),
        "valid-subnormal-knot": sealed(curve__knots_q=[0.0, 5e-324, 1.0], curve__knots_p=[0.0, 0.5, 0.75]),
        **{name: sealed(engine__file=file) for name, file in files.items()},
        "nan-sigma": spelled('"sigma": 0.5', '"sigma": NaN'),
        "nan-knot": spelled("0.55", "NaN"),
        "infinite-number": spelled("0.55", "1e999"),
        "huge-integer": spelled('"n": 1000', f'"n": {"9" * 400}'),
        "huge-n": sealed(calibration__n=1 << 63),
        "huge-classes": sealed(engine__num_classes=(1 << 24) - 1),
        "huge-shape": sealed(engine__input_shape=[1 << 24, 1 << 24, 1 << 24]),
        "falling-knots": sealed(curve__knots_q=[0.0, 0.6, 0.25, 1.0]),
        "duplicate-key": spelled('"sigma": 0.5', '"sigma": 0.5,\n  "sigma": 0.5'),
        "duplicate-key-deep": spelled('"seed": 7', '"seed": {"a": [{"b": 1, "b": 1}]}'),
        "deep-lists": spelled('"seed": 7', f'"seed": {"[" * 300}{"]" * 300}'),
        "deep-and-open": b"[" * 300,
        "lone-surrogate": spelled("één", r"\udc80"),
        "raw-surrogate": spelled("één", "\udc80"),
        "escape-sequence": sealed(statement="\x1b[2J\x1b[1;1Hcertified"),
        "escape-in-a-class": sealed(engine__classes=["zero", "one\x1b[31m", "two"]),
        "escape-in-a-key": sealed(**{"\x1b[2J\n": 1}),
        "long-key": sealed(**{"k" * 900: 1}),
        "another-spelling": json.dumps(json.loads(text)).encode(),
        "wrong-seal": spelled('"sigma": 0.5', '"sigma": 5.5'),
        "levels": of_levels(),
        "levels-in-a-bundle": sealed(engine__sigmas=[0.25, 0.5]),
        "levels-falling": of_levels(engine__sigmas=[0.5, 0.25]),
        "levels-of-one": of_levels(engine__sigmas=[0.5], curves=[curve]),
        "levels-seventeen": of_levels(engine__sigmas=[i / 4 for i in range(1, 18)], curves=[curve] * 17),
        "levels-without-a-curve": of_levels(curves=[curve]),
        "levels-above-the-cap": of_levels(curves=[curve, curve | {"knots_p": [0.0, 0.1, 0.55, 0.9932]}]),
        "levels-with-a-sigma": of_levels(sigma=0.5),
        "levels-with-bins": of_levels(calibration__bins=bins),
        "levels-among-certified": of_levels(calibration__guarantee="certified"),
        "unknown-format": sealed(format="rrise-bundle/999"),
        "foreign-kind": sealed(engine__kind="os:system"),
        "python-object": b"cos\nsystem\n(S'true'\ntR.",
        "utf-16": text.encode("utf-16"),
        "byte-order-mark": b"\xef\xbb\xbf" + text.encode(),
        "cut-short": text.encode()[:-40],
        "empty": b"",
    }


def external(name: str = "W", location: str = "w.bin") -> TensorProto:
    """Return a tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def engines() -> dict[str, bytes]:
    """Return the name and bytes of every engine; all but the valid one must be refused."""
    constant = [helper.make_node("Constant", [], ["W"], value=external()), MATMUL]
    result = helper.make_tensor_value_info("z", FLOAT, ["N", 3])
    branch = helper.make_graph([helper.make_node("MatMul", ["f", "W"], ["z"])], "b", [], [result], [external()])
    choice = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    call = helper.make_node("Lin", ["f"], ["y"], domain="local")
    recursive = helper.make_function("local", "Lin", ["f"], ["y"], [call], opsets)
    doubled = [
        helper.make_function(
            "local",
            "Lin" if i == 0 else f"Lin{i}",
            ["f"],
            ["y"],
            [helper.make_node(f"Lin{i + 1}", [a], [b], domain="local") for a, b in ("fz", "zy")],
            opsets,
        )
        for i in range(30)
    ]
    doubled.append(
        helper.make_function("local", "Lin30", ["f"], ["y"], [helper.make_node("Relu", ["f"], ["y"])], opsets)
    )
    sparse, training = model([FLATTEN, MATMUL]), model([FLATTEN, MATMUL], [W])
    sparse.graph.sparse_initializer.add(values=external(), dims=[4, 3])
    training.training_info.add().initialization.initializer.append(external("q"))
    whole = model([FLATTEN, MATMUL], [W])
    models: dict[str, ModelProto] = {
        "valid": whole,
        "external-initializer": model([FLATTEN, MATMUL], [external()]),
        "external-above": model([FLATTEN, MATMUL], [external(location="../../w.bin")]),
        "external-absolute": model([FLATTEN, MATMUL], [external(location="/etc/passwd")]),
        "external-in-memory": model([FLATTEN, MATMUL], [external(location="*/_ORT_MEM_ADDR_/*")]),
        "external-constant": model([FLATTEN, *constant]),
        "external-subgraph": model([FLATTEN, *choice]),
        "external-function": model(
            [FLATTEN, call], functions=[helper.make_function("local", "Lin", ["f"], ["y"], constant, opsets)]
        ),
        "external-sparse": sparse,
        "external-training": training,
        "custom-operator": model([FLATTEN, helper.make_node("Run", ["f"], ["y"], domain="ai.onnx.contrib")]),
        "python-operator": model([FLATTEN, helper.make_node("PythonOp", ["f"], ["y"], domain="com.microsoft")]),
        "context-of-another-device": model(
            [helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd")]
        ),
        "recursive-function": model([FLATTEN, call], functions=[recursive]),
        "multiplied-functions": model([FLATTEN, call], functions=doubled),
        "huge-tensor": model([FLATTEN, MATMUL], [TensorProto(name="W", data_type=FLOAT, dims=[4, 1 << 40])]),
        "negative-tensor": model([FLATTEN, MATMUL], [TensorProto(name="W", data_type=FLOAT, dims=[4, -3])]),
    }
    files = {name: made.SerializeToString() for name, made in models.items()}
    tensor = external().SerializeToString()
    disguised = tensor.replace(b"\x6a", _varint(13 << 3 | 2 | 1 << 32)).replace(
        b"\x70\x01", _varint(14 << 3 | 1 << 32) + b"\1"
    )
    graph = model([FLATTEN, MATMUL]).graph.SerializeToString() + b"\x2a" + _varint(len(disguised)) + disguised
    head = model([FLATTEN, MATMUL])
    head.ClearField("graph")
    return files | {
        "external-disguised": head.SerializeToString() + b"\x3a" + _varint(len(graph)) + graph,
        "name-not-in-utf-8": files["valid"].replace(b"x", b"\xff"),
        "length-of-2-to-63": b"\x3a" + _varint(1 << 63) + files["valid"],
        "endless-number": b"\x3a" + b"\xff" * 40,
        "group": b"\x3b\x0a\x00\x3c",
        "field-0": b"\x00\x00" + files["valid"],
        "flatbuffer": b"\x20\x00\x00\x00ORTM" + bytes(120),
        "pickle": b"cos\nsystem\n(S'true'\ntR.",
        "cut-short": files["valid"][:-20],
        "empty": b"",
    }


def _varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def main() -> None:
    """Write every file anew."""
    for kind, ending, files in (("document", ".json", documents()), ("engine", ".onnx", engines())):
        folder = ROOT / "tests" / "corpus" / "bundle" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / f"{name}{ending}").write_bytes(data)
        print(f"{folder.relative_to(ROOT)}: {len(files)} files, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    main()
