"""What a certificate costs on top of the bare ONNX Runtime call of the same engine: one image, one thread.

python benchmarks/certifier.py [BUNDLE]

Without a bundle it builds two small networks with the onnx package: a perceptron for 8x8 digits (the least work an
engine may have, so the largest share of overhead) and a convolutional network for 32x32 colour images. Calls of both
kinds alternate in rounds; figures are medians over the rounds.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from rrise.runtime import Certifier, prepare_images, save_bundle
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.runtime.reference import Reference

ROUNDS = 501


def round_seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def compare(name: str, folder: Path) -> None:
    certifier = Certifier.load(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = folder / certifier.bundle.engine.file
    session = onnxruntime.InferenceSession(engine.read_bytes(), options, providers=["CPUExecutionProvider"])
    input_name, output_name = session.get_inputs()[0].name, session.get_outputs()[0].name

    channels, height, width = certifier.input_shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    batch = prepare_images(image, certifier.input_shape)
    kinds: dict[str, Callable[[], object]] = {
        "session.run": lambda: session.run([output_name], {input_name: batch}),
        "Certifier, uint8": lambda: certifier(image),
        "Certifier, float32": lambda: certifier(batch),
    }
    calls = max(2, int(0.001 / round_seconds(kinds["session.run"], 20)))
    rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, call in kinds.items():
            rounds[kind].append(round_seconds(call, calls))
    bare = statistics.median(rounds["session.run"])
    print(f"{name}: one {channels}x{height}x{width} image, one thread")
    for kind, seconds in rounds.items():
        median = statistics.median(seconds)
        ratio = statistics.median(mine / its for mine, its in zip(seconds, rounds["session.run"], strict=True))
        print(f"  {kind:<20}{median * 1e6:>9.1f} µs{(median - bare) * 1e6:>+9.1f} µs   x {ratio:.3f}")


def build(folder: Path, kind: str) -> Path:
    """Write a bundle around an untrained network."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shape = {"perceptron": (1, 8, 8), "convolutional": (3, 32, 32)}[kind]
    nodes, tensors, last = [], [], "x"

    def add(op: str, weights: tuple[int, ...] = (), **attributes: object) -> None:
        nonlocal last
        inputs, output = [last], f"v{len(nodes)}"
        if weights:
            scale = np.sqrt(2 / np.prod(weights[1:] if op == "Conv" else weights[:1]))
            tensors.append(numpy_helper.from_array(rng.normal(0, scale, weights).astype(np.float32), f"w{len(nodes)}"))
            inputs.append(f"w{len(nodes)}")
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        last = output

    if kind == "perceptron":
        add("Flatten")
        for sizes in ((64, 256), (256, 256)):
            add("MatMul", sizes)
            add("Relu")
        add("MatMul", (256, 10))
    else:
        for weights, stride in (((32, 3, 3, 3), 1), ((64, 32, 3, 3), 2), ((128, 64, 3, 3), 2)):
            add("Conv", weights, pads=[1, 1, 1, 1], strides=[stride, stride])
            add("Relu")
        add("GlobalAveragePool")
        add("Flatten")
        add("MatMul", (128, 10))
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 10])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bundle_of(folder, model.SerializeToString(), shape, 10, name=kind)


def bundle_of(
    folder: Path, onnx: bytes, shape: tuple[int, int, int], classes: int, *, kind: str = "onnxruntime", name: str = "b"
) -> Path:
    """Write a bundle round an untrained network, whose curve means nothing."""
    engine = folder / "engine.onnx"
    engine.write_bytes(onnx)
    save_bundle(
        folder / name,
        engine_file=engine,
        engine_spec={
            "kind": kind,
            "sha256": hashlib.sha256(onnx).hexdigest(),
            "precision": "float32",
            "input_shape": shape,
            "num_classes": classes,
            "classes": [str(index) for index in range(classes)],
        },
        calibration={
            "curve": "scaled",
            "knots_q": np.linspace(0, 1, 65),
            "knots_p": np.linspace(0, 0.99, 65),
            "guarantee": "marginal",
            "beta": 0.001,
            "gamma": 0.049,
            "eta": 0.0,
            "n": 1000,
            "images": 1000,
            "rank": 952,
            "t": 0.0,
        },
        sigma=0.5,
        statement="None: the network is untrained.",
        provenance={},
        reference=Reference.of(open_engine_bytes(onnx, kind)),
    )
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle folder (default: two untrained networks)")
    bundle = parser.parse_args().bundle
    if bundle is not None:
        compare(bundle.name, bundle)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("perceptron", "convolutional"):
            compare(kind, build(Path(folder), kind))


if __name__ == "__main__":
    main()
