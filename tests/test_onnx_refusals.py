"""An ONNX classifier that cannot be used is told why: what it takes or gives, and what to export instead."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from rrise.training.onnx_network import OnnxNetwork

GREY = ["n", 1, 8, 8]
FLAT = helper.make_node("Reshape", ["c", "s"], ["f"])
TAKE = [
    helper.make_node("Constant", [], ["i"], value=helper.make_tensor("i", T.INT64, [10], list(range(10)))),
    helper.make_node("Gather", ["f", "i"], ["y"], axis=1),
]
Y = ("y", T.FLOAT, ["n", 10])


def saved(
    path: Path, kind: int, shape: list[object], outputs: list[tuple[str, int, list[object]]], *more: object
) -> Path:
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=T.FLOAT), FLAT, *TAKE, *more]
    takes = [helper.make_tensor_value_info("x", kind, shape)]
    gives = [helper.make_tensor_value_info(*output) for output in outputs]
    graph = helper.make_graph(nodes, "g", takes, gives, [helper.make_tensor("s", T.INT64, [2], [-1, 64])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


SOFTMAX = helper.make_node("Softmax", ["y"], ["p"])
ARGMAX = helper.make_node("ArgMax", ["y"], ["l"], axis=1, keepdims=0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ((T.FLOAT16, GREY, [Y]), r"got input float16 \(n, 1, 8, 8\)\. Let the graph take float32 pixels"),
        ((T.UINT8, GREY, [Y]), r"got input uint8 .*Let the graph take float32 pixels"),
        ((T.DOUBLE, GREY, [Y]), r"got input float64 "),
        ((T.FLOAT, ["n", 8, 8, 1], [Y]), r"got input float32 \(n, 8, 8, 1\), channels last \(NHWC\)\. Transpose"),
        ((T.FLOAT, ["n", 1, "h", 8], [Y]), r"got input float32 \(n, 1, h, 8\)\. Export it for images of one size"),
        ((T.FLOAT, [1, 1, 8, 8], [("y", T.FLOAT, [1, 10])]), r", of 1 images only\. Export it with a free batch axis"),
        ((T.FLOAT, GREY, [Y, ("p", T.FLOAT, ["n", 10])], SOFTMAX), r"got 2 outputs: y float32 \(n, 10\), p float32"),
        (
            (T.FLOAT, GREY, [("l", T.INT64, ["n"])], ARGMAX),
            r"got output int64 \(n\)\. Export the logits, before argmax",
        ),
    ],
)
def test_the_true_cause_is_named(model: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxNetwork(saved(tmp_path / "base.onnx", *model))


def test_the_model_that_all_these_vary_is_taken(tmp_path: Path) -> None:
    found = OnnxNetwork(saved(tmp_path / "base.onnx", T.FLOAT, GREY, [Y]))
    assert (found.input_shape, found.num_classes) == ((1, 8, 8), 10)
