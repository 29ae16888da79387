"""timm's ResNets with a stem for small images: their own stem halves an image twice before the first block."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def cifar_resnet18(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Return ResNet-18 with the stem that CIFAR-sized images get: 3×3, stride 1, no pooling."""
    return cifar_resnet(num_classes, in_chans)


def cifar_resnet(
    num_classes: int = 10,
    in_chans: int = 3,
    layers: Sequence[int] = (2, 2, 2, 2),
    channels: Sequence[int] = (64, 128, 256, 512),
    stem_stride: int = 1,
) -> nn.Module:
    """Return a ResNet of basic blocks without a pooling stem.

    Parameters
    ----------
    num_classes, in_chans : int
    layers, channels : sequence of 4 ints
        Blocks, and channels, of the four stages; each stage but the first halves the image.
    stem_stride : int
        Step of the first convolution, 3×3 (or 5×5 from a step of 3 on, so that no pixel is skipped).
    """
    network: nn.Module = ResNet(
        BasicBlock, tuple(layers), num_classes=num_classes, in_chans=in_chans, channels=tuple(channels)
    )
    width = 64  # what timm's first stage takes
    size = 3 if stem_stride < 3 else 5
    network.conv1 = nn.Conv2d(in_chans, width, size, stride=stem_stride, padding=size // 2, bias=False)
    network.maxpool = nn.Identity()
    return network
