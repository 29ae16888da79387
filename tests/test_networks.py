"""A network is built by name, takes pixels in [0, 1], and comes back from its folder to the bit or not at all."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rrise.training import artifacts
from rrise.training.networks import Network, NetworkSpec, OnnxNetwork, build_network, head, load_network, save_network

MIXER = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_blocks": 1}
IDS = np.array([7, 3, 2**56 - 1, 3], dtype=np.uint64)


def spec(**changes: Any) -> NetworkSpec:
    fields = {
        "network": "timm.models.mlp_mixer:MlpMixer",
        "options": MIXER,
        "num_classes": 10,
        "input_shape": (1, 8, 8),
        "mean": (0.25,),
        "std": (0.5,),
    }
    return NetworkSpec(**{**fields, **changes})


def linear(num_classes: int, in_chans: int = 1, width: int = 0) -> nn.Module:
    """Stands for a user's own function."""
    layers = [nn.Flatten(), nn.Linear(64 * in_chans, width or num_classes)]
    return nn.Sequential(*layers, nn.Linear(width, num_classes)) if width else nn.Sequential(*layers)


def not_a_network(num_classes: int) -> str:
    return "a string"


def two_outputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    return Two()


def built(seed: int) -> nn.Module:
    """Return a mixer with a random head: timm starts it at zero, whose logits say nothing."""
    module = build_network(spec(), seed)
    nn.init.normal_(head(module).weight, generator=torch.Generator().manual_seed(seed))
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    module = built(5)
    save_network(tmp_path / "net", spec(), module, IDS, kind="classifier", classes=[str(k) for k in range(10)])
    return tmp_path / "net"


# Building


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="module:Class"),
        pytest.param({"network": f"{__name__}:linear", "options": {"width": 5}}, id="module:function"),
        pytest.param(
            {
                "network": "test_convnext",
                "options": {},
                "input_shape": (3, 32, 32),
                "mean": (0.5,) * 3,
                "std": (1,) * 3,
            },
            id="timm name",
        ),
    ],
)
def test_network_gives_k_logits(changes: dict[str, Any]) -> None:
    wanted = spec(**changes)
    module = build_network(wanted)
    assert not module.training
    assert module(torch.rand(3, *wanted.input_shape)).shape == (3, 10)


def test_weights_depend_on_the_seed_alone_and_leave_torch_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two, other = (build_network(spec(), seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_normalisation_is_inside() -> None:
    module = built(0)
    pixels = torch.rand(4, 1, 8, 8)
    assert torch.equal(module(pixels), module.network((pixels - 0.25) / 0.5))
    assert not torch.allclose(module(pixels), module.network(pixels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"network": "resnet_18"}, "'resnet_18'. Did you mean .*resnet18", id="timm typo"),
        pytest.param(
            {"network": "no_such_module:f"}, "importable module:callable, got 'no_such_module:f'", id="module"
        ),
        pytest.param({"network": "torch.nn:NoSuchLayer"}, "has no attribute", id="attribute"),
        pytest.param({"network": "torch:float32"}, "to be a class or function, got dtype", id="not callable"),
        pytest.param(
            {"network": f"{__name__}:not_a_network", "options": {}}, "a torch module, got str", id="no module"
        ),
        pytest.param({"network": "torch.nn:Identity", "options": {}}, r"\(1, 10\) .*, got \(1, 1, 8, 8\)", id="shape"),
        pytest.param({"network": f"{__name__}:two_outputs", "options": {}}, "got tuple", id="two outputs"),
        pytest.param({"options": {**MIXER, "depth": 3}}, "take the options .*'depth'", id="unknown option"),
        pytest.param({"options": {**MIXER, "num_classes": 4}}, r"shape \(1, 10\) .* got \(1, 4\)", id="classes"),
        pytest.param({"input_shape": (1, 16, 16)}, r"images of shape \(1, 1, 16, 16\), got", id="image size"),
        pytest.param({"options": {**MIXER, "in_chans": 3}}, "to take images of shape", id="channels"),
    ],
)
def test_misfits_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_network(spec(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", ""),
        ("num_classes", 1),
        ("input_shape", (8, 8)),
        ("input_shape", (0, 8, 8)),
        ("mean", (0.5, 0.5)),
        ("std", (0.0,)),
        ("std", (float("nan"),)),
    ],
)
def test_spec_names_the_field_it_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        spec(**{field: value})


def test_head_is_timms_classifier_or_the_last_linear_layer() -> None:
    mixer = build_network(spec())
    assert head(mixer) is mixer.network.head
    own = build_network(spec(network=f"{__name__}:linear", options={"width": 5}))
    assert head(own) is own.network[2]
    with pytest.raises(ValueError, match="found none in Flatten"):
        head(nn.Flatten())


# Folder


def test_folder_gives_the_network_back_to_the_bit(folder: Path) -> None:
    # Frozen, since with a gradient to keep torch takes another path through the same arithmetic.
    written, read = built(5).requires_grad_(False), load_network(folder)
    pixels = torch.rand(3, 1, 8, 8)
    assert torch.equal(written(pixels), read.module(pixels))
    assert read.spec == spec()
    assert read.training_ids.tolist() == [3, 7, 2**56 - 1]
    assert read.training_ids.dtype == np.uint64
    assert read.facts == {"kind": "classifier", "classes": [str(k) for k in range(10)]}
    assert not read.module.training
    assert not any(parameter.requires_grad for parameter in read.module.parameters())


def test_sha256_is_that_of_weights_and_spec(folder: Path, tmp_path: Path) -> None:
    read = load_network(folder)
    assert read.sha256 == Network.of(spec(), built(5), IDS, {"other": "facts"}).sha256
    assert read.sha256 != save_network(tmp_path / "b", spec(), built(6), IDS)
    assert read.sha256 != save_network(tmp_path / "c", spec(std=(0.75,)), built(5), IDS)


def test_equal_networks_have_equal_folders(folder: Path, tmp_path: Path) -> None:
    again = load_network(folder)
    save_network(tmp_path / "again", again.spec, again.module, again.training_ids, **again.facts)
    assert sorted(os.listdir(folder)) == ["network.json", "training_ids.npy", "weights.safetensors"]
    for name in os.listdir(folder):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_shared_weights_survive(tmp_path: Path) -> None:
    module = build_network(spec(network=f"{__name__}:linear", options={"width": 10}))
    module.network[2].bias = module.network[1].bias
    save_network(tmp_path / "tied", spec(network=f"{__name__}:linear", options={"width": 10}), module, IDS)
    pixels = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_network(tmp_path / "tied").module(pixels), module(pixels))


@pytest.mark.parametrize("name", ["network.json", "training_ids.npy", "weights.safetensors"])
def test_any_flipped_byte_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for position in np.random.default_rng(0).choice(len(content), 40, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1
        if name == "network.json" and same_json(content, bytes(damaged)):
            continue  # the flip turned white space into white space
        (folder / name).write_bytes(damaged)
        with pytest.raises((ValueError, FileNotFoundError), match=r"^network: expected"):
            load_network(folder)
    (folder / name).write_bytes(content)
    load_network(folder)


def same_json(one: bytes, two: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(two))
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["network.json", "training_ids.npy", "weights.safetensors"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_network(folder)


def reseal(folder: Path, change: Any) -> None:
    """Rewrite network.json as someone would who knows its digest."""
    document = json.loads((folder / "network.json").read_text())
    change(document)
    del document["document_sha256"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    document["document_sha256"] = hashlib.sha256(canonical).hexdigest()
    (folder / "network.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d.update(format="rrise-network/9"), "format 'rrise-network/1'", id="format"),
        pytest.param(lambda d: d["facts"].update(classes=["a", "b"]), "10 class names, one a logit, got 2", id="K"),
        pytest.param(lambda d: d["spec"].update(std=[2.0]), "expected sha256", id="another spec"),
        pytest.param(lambda d: d["spec"]["options"].update(embed_dim=32), "expected sha256", id="another network"),
        pytest.param(lambda d: d["files"].clear(), "with sha256 None", id="unpinned file"),
    ],
)
def test_resealed_document_is_refused(folder: Path, change: Any, message: str) -> None:
    reseal(folder, lambda document: None)
    load_network(folder)
    reseal(folder, change)
    with pytest.raises(ValueError, match=message):
        load_network(folder)


def test_weights_of_changed_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = spec(network=f"{__name__}:linear", options={})
    save_network(tmp_path / "net", own, build_network(own), IDS)
    monkeypatch.setitem(globals(), "linear", lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, False)))
    with pytest.raises(ValueError, match=r"weights that fit Sequential .* Unexpected key.*network\.1\.bias"):
        load_network(tmp_path / "net")


def test_existing_folder_is_kept_unless_told(folder: Path) -> None:
    before = load_network(folder).sha256
    other = built(6)
    with pytest.raises(FileExistsError, match=r"which exists\. Delete it or name another"):
        save_network(folder, spec(), other, IDS)
    assert load_network(folder).sha256 == before
    after = save_network(folder, spec(), other, IDS, overwrite=True)
    assert load_network(folder).sha256 == after != before
    assert os.listdir(folder.parent) == ["net"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    if not overwrite:
        shutil.rmtree(folder)
    before = os.listdir(folder.parent)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_network(folder, spec(), build_network(spec()), IDS, overwrite=overwrite)
    monkeypatch.undo()
    assert os.listdir(folder.parent) == before
    assert not overwrite or load_network(folder)


def test_old_folder_comes_back_when_the_new_one_cannot_take_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = load_network(folder).sha256, os.rename

    def refuse_partial(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(artifacts.os, "rename", refuse_partial)
    with pytest.raises(OSError, match="Input/output error"):
        save_network(folder, spec(), built(6), IDS, overwrite=True)
    assert load_network(folder).sha256 == before
    assert os.listdir(folder.parent) == ["net"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"classes": ["a"]}, "10 class names"),
        ({"loss": float("nan")}, "that JSON can hold"),
        ({"images": np.zeros(2)}, "that JSON can hold"),
    ],
)
def test_facts_must_fit(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_network(tmp_path / "net", spec(), build_network(spec()), IDS, **facts)
    assert os.listdir(tmp_path) == []


def test_a_bare_network_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected a module from build_network\(spec\), got Linear"):
        save_network(tmp_path / "net", spec(), torch.nn.Linear(64, 10), IDS)
    assert os.listdir(tmp_path) == []


# ONNX


def onnx_linear(path: Path, batch: int | str = "N") -> np.ndarray:
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return weight


def test_onnx_file_is_a_classifier(tmp_path: Path) -> None:
    weight = onnx_linear(tmp_path / "f.onnx")
    network = OnnxNetwork(tmp_path / "f.onnx")
    pixels = torch.rand(5, 1, 8, 8)
    assert (network.input_shape, network.num_classes, network.training) == ((1, 8, 8), 10, False)
    assert network.sha256 == hashlib.sha256((tmp_path / "f.onnx").read_bytes()).hexdigest()
    np.testing.assert_allclose(network(pixels).numpy(), pixels.flatten(1).numpy() @ weight, rtol=1e-4, atol=1e-5)


def test_what_is_no_onnx_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="an ONNX file"):
        OnnxNetwork(tmp_path / "f.onnx")
    (tmp_path / "f.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="an ONNX model in"):
        OnnxNetwork(tmp_path / "f.onnx")
    onnx_linear(tmp_path / "f.onnx", batch=4)
    with pytest.raises(ValueError, match="with a free batch axis"):
        OnnxNetwork(tmp_path / "f.onnx")
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        OnnxNetwork(tmp_path / "f.onnx", threads=0)
