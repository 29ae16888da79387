"""A trained network as a folder: weights.safetensors, training_ids.npy, and network.json, which pins them by sha256.

Nothing in it is code or a pickle. The identity of a network, its ``sha256``, is that of what it computes: weights and
specification. The document has a digest of its own, so facts that later stages rely on (σ, whose counts) cannot change
unseen either. These digests find damage and mix-ups; they are no signature.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import nn

from rrise.training.architectures import NetworkSpec, PixelNormalised, build_network, head
from rrise.training.artifacts import publish
from rrise.training.one_image import probe_pixels
from rrise.training.onnx_network import OnnxNetwork

__all__ = [
    "Network",
    "NetworkSpec",
    "OnnxNetwork",
    "PixelNormalised",
    "build_network",
    "head",
    "load_network",
    "open_classifier",
    "save_network",
]

FORMAT = "rrise-network/1"
DOCUMENT, WEIGHTS, TRAINING_IDS = "network.json", "weights.safetensors", "training_ids.npy"


@dataclass(frozen=True, eq=False)
class Network:
    """A network with the names of the images that trained it.

    Parameters
    ----------
    spec : NetworkSpec
    module : torch.nn.Module
        float32[N, C, H, W] of pixels in [0, 1] to logits [N, K]; in evaluation mode, its weights frozen.
    sha256 : str
        Identity of the network: digest of its weights and its specification.
    training_ids : uint64[M]
        Sorted ids of every image that had a part in the weights.
    facts : dict
        What else is known of it: kind, classes, settings, losses; plain JSON.
    """

    spec: NetworkSpec
    module: nn.Module
    sha256: str
    training_ids: npt.NDArray[np.uint64]
    facts: dict[str, Any]

    @property
    def classes(self) -> list[str] | None:
        """Names of the K classes, in the order of the logits; None where nobody said them."""
        return self.facts.get("classes")

    @classmethod
    def of(
        cls, spec: NetworkSpec, module: nn.Module, training_ids: npt.NDArray[np.uint64], facts: Mapping[str, Any]
    ) -> Network:
        """Return a module, frozen in place and on the CPU, as a network."""
        module = module.cpu().eval().requires_grad_(False)
        ids = np.unique(np.asarray(training_ids, dtype=np.uint64))
        return cls(spec, module, network_sha256(spec, weights_bytes(module)), ids, dict(facts))


def weights_bytes(module: nn.Module) -> bytes:
    """Return the module's parameters and buffers as safetensors: equal weights give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    return bytes(safetensors.torch.save(tensors))


def network_sha256(spec: NetworkSpec, weights: bytes) -> str:
    """Return the identity of a network."""
    digest = hashlib.sha256(_canonical(asdict(spec)))
    digest.update(b"\0" + weights)
    return digest.hexdigest()


def save_network(
    folder: str | Path,
    spec: NetworkSpec,
    module: nn.Module,
    training_ids: npt.NDArray[np.uint64],
    *,
    overwrite: bool = False,
    **facts: Any,
) -> str:
    """Return the sha256 of a network now saved: a whole folder or, on any failure, none.

    Parameters
    ----------
    folder : path
    spec : NetworkSpec
    module : torch.nn.Module
        What :func:`build_network` gives for the specification, with the weights to save in it.
    training_ids : uint64[N]
        Ids of every image that had a part in the weights: calibration refuses these.
    overwrite : bool
        Replace a folder of this name.
    **facts
        What else to record; plain JSON. ``classes`` (the names of the K classes) and ``kind`` are read by others.

    Raises
    ------
    FileExistsError
        If the folder exists and ``overwrite`` is false.
    TypeError
        If the module is a bare network, without its normalisation.
    ValueError
        If the facts are not plain JSON, or name another number of classes than the specification; or if the network,
        built anew from what would be saved, answers otherwise: then part of it is in no ``state_dict``.
    """
    if not isinstance(module, PixelNormalised):
        raise TypeError(
            f"network: expected a module from build_network(spec), got {type(module).__name__}. Build it, and load "
            "your weights by module.network.load_state_dict(...)."
        )
    classes = facts.get("classes")
    if classes is not None and len(classes) != spec.num_classes:
        raise ValueError(
            f"network: expected {spec.num_classes} class names, one a logit, got {len(classes)}. "
            "Build the network with num_classes = number of classes."
        )
    weights = weights_bytes(module)
    _require_same_when_loaded(spec, module, weights)
    ids = _npy(np.unique(np.asarray(training_ids, dtype=np.uint64)))
    identity = network_sha256(spec, weights)
    document = {
        "format": FORMAT,
        "sha256": identity,
        "files": {WEIGHTS: _sha256(weights), TRAINING_IDS: _sha256(ids)},
        "spec": asdict(spec),
        "facts": facts,
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
    document["document_sha256"] = _sha256(_canonical(document))
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    publish(Path(folder), {WEIGHTS: weights, TRAINING_IDS: ids, DOCUMENT: text.encode()}, overwrite=overwrite)
    return identity


def load_network(folder: str | Path) -> Network:
    """Return the network of a folder, on the CPU; every byte of it was verified.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        Naming what is damaged, unknown, or does not fit.
    """
    folder = Path(folder)
    document = _document(folder)
    content = {name: _verified(folder, name, document["files"].get(name)) for name in (WEIGHTS, TRAINING_IDS)}
    spec = _spec(document["spec"])
    facts = document["facts"]
    classes = facts.get("classes")
    if classes is not None and len(classes) != spec.num_classes:
        raise ValueError(
            f"network: expected {spec.num_classes} class names, one a logit, got {len(classes)} in {folder}. "
            "Train it again."
        )
    identity = network_sha256(spec, content[WEIGHTS])
    if identity != document["sha256"]:
        raise ValueError(f"network: expected sha256 {document['sha256']}, got {identity} in {folder}. {_COPY}")
    module = build_network(spec, initial=False)
    _load_weights(module, content[WEIGHTS], folder)
    ids = np.load(io.BytesIO(content[TRAINING_IDS]), allow_pickle=False)
    return Network(spec, module.requires_grad_(False), identity, ids, facts)


def open_classifier(path: str | Path) -> Network:
    """Return a base classifier: the network of a folder, or of an ONNX file, by its suffix ``.onnx``.

    An ONNX file has no record of its training images: ``training_ids`` are empty, and whoever relies on them asks
    :func:`rrise.training.seen.with_training_images` first. Its sha256 is the file's.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_network` and :class:`OnnxNetwork`.
    """
    if Path(path).suffix.lower() != ".onnx":
        return load_network(path)
    module = OnnxNetwork(path)
    channels = module.input_shape[0]
    # No name builds it, and its normalisation is its own.
    spec = NetworkSpec("onnx", {}, module.num_classes, module.input_shape, (0.0,) * channels, (1.0,) * channels)
    return Network(spec, module, module.sha256, np.empty(0, np.uint64), {"kind": "classifier"})


def _require_same_when_loaded(spec: NetworkSpec, module: PixelNormalised, weights: bytes) -> None:
    again = build_network(spec, initial=False)
    again.load_state_dict(safetensors.torch.load(weights), strict=True)
    pixels = torch.from_numpy(probe_pixels(spec.input_shape))
    training, device = module.training, next(module.parameters(), module.mean).device
    with torch.inference_mode():
        found = again(pixels)
        own = module.eval()(pixels.to(device)).cpu()
    module.train(training)
    if not torch.allclose(found, own, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise ValueError(
            f"network: expected {spec.network} to answer alike after saving and loading, got logits "
            f"{float((found - own).abs().max()):.2g} apart. What decides them is in no state_dict: register tensors as "
            "(persistent) buffers, and switch random operations off in evaluation mode."
        )


_COPY = "Restore the folder, or make it again."


def _document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    if not path.is_file():
        raise FileNotFoundError(f"network: expected a folder with {DOCUMENT}, got {folder}. Run rrise train first.")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = document.get("format")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"network: expected a JSON object in {path}, got {error}. {_COPY}") from error
    if found != FORMAT:
        raise ValueError(f"network: expected format {FORMAT!r} in {path}, got {found!r}. Use the rrise that wrote it.")
    recorded = document.pop("document_sha256", None)
    if recorded != _sha256(_canonical(document)):
        raise ValueError(f"network: expected {path} as it was written, got one that was changed since. {_COPY}")
    return document


def _spec(fields: dict[str, Any]) -> NetworkSpec:
    channels, height, width = fields["input_shape"]
    return NetworkSpec(
        network=fields["network"],
        options=fields["options"],
        num_classes=fields["num_classes"],
        input_shape=(channels, height, width),
        mean=tuple(fields["mean"]),
        std=tuple(fields["std"]),
    )


def _verified(folder: Path, name: str, recorded: str | None) -> bytes:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"network: expected {name} in {folder}, got no such file. {_COPY}")
    content = path.read_bytes()
    found = _sha256(content)
    if found != recorded:
        raise ValueError(f"network: expected {path} with sha256 {str(recorded)[:12]}, got {found[:12]}. {_COPY}")
    return content


def _load_weights(module: PixelNormalised, weights: bytes, folder: Path) -> None:
    try:
        module.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"network: expected weights that fit {module.network.__class__.__name__} in {folder}, got {reason[:300]}. "
            "Its code changed since; use the version that trained it."
        ) from error


def _npy(array: npt.NDArray[np.uint64]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array.astype("<u8"), allow_pickle=False)
    return stream.getvalue()


def _canonical(content: object) -> bytes:
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"network: expected facts and options that JSON can hold, got {error}.") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
