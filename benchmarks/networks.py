"""The paper's four networks at their image sizes, untrained: what they cost does not depend on their weights."""

from __future__ import annotations

from rrise.training.networks import NetworkSpec


def _spec(network: str, options: dict[str, object], classes: int, shape: tuple[int, int, int]) -> NetworkSpec:
    return NetworkSpec(network, options, classes, shape, (0.5,) * shape[0], (0.25,) * shape[0])


NETWORKS = {
    "MLP-Mixer, 1x28x28": _spec(
        "timm.models.mlp_mixer:MlpMixer",
        {"img_size": 28, "patch_size": 4, "embed_dim": 256, "num_blocks": 8},
        10,
        (1, 28, 28),
    ),
    "ResNet-18, 3x32x32": _spec("rrise.training.cifar_resnet:cifar_resnet18", {}, 10, (3, 32, 32)),
    "EfficientNet-B0, 3x32x32": _spec("efficientnet_b0", {}, 100, (3, 32, 32)),
    "ViT-Tiny, 3x64x64": _spec("vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8}, 200, (3, 64, 64)),
}
