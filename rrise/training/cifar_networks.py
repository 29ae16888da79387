"""timm's ResNets with the stem that images of 32×32 get: a 3×3 convolution of stride 1, and no pooling."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def resnet(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    layers: Sequence[int] = (2, 2, 2, 2),
    channels: Sequence[int] = (64, 128, 256, 512),
) -> nn.Module:
    """Return a ResNet of basic blocks; ResNet-18 by default.

    Parameters
    ----------
    num_classes, in_chans : int
        Logits, and channels of the images.
    layers, channels : sequence of 4 int
        Blocks of each stage, and their channels; the stem has 64.
    """
    network: nn.Module = ResNet(
        BasicBlock, tuple(layers), num_classes=num_classes, in_chans=in_chans, channels=tuple(channels)
    )
    network.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
