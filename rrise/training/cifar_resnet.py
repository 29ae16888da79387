"""ResNets for small images, of timm's blocks: timm's own stem halves an image twice before the first block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import timm
import torch
from timm.models.resnet import BasicBlock, downsample_conv
from torch import nn


def cifar_resnet18(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Return timm's ResNet-18 with the stem that CIFAR-sized images get: 3×3, stride 1, no pooling."""
    network: nn.Module = timm.create_model("resnet18", num_classes=num_classes, in_chans=in_chans)
    network.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class SmallResNet(nn.Module):
    """A ResNet of one basic block a stage, for networks far smaller than timm's, whose stem has 64 channels.

    Parameters
    ----------
    num_classes, in_chans : int
    channels : sequence of int
        One stage each; every stage but the first halves the image.
    stem_stride : int
        Step of the first convolution, whose side is one more than twice half of it (4: 5×5), so no pixel is skipped.
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, channels: Sequence[int] = (32, 64, 128), stem_stride: int = 4
    ) -> None:
        super().__init__()
        first = channels[0]
        side = max(3, stem_stride // 2 * 2 + 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, first, side, stride=stem_stride, padding=side // 2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(BasicBlock(first, first))
        for inputs, outputs in pairwise(channels):
            shortcut = downsample_conv(inputs, outputs, kernel_size=1, stride=2)
            self.stages.append(BasicBlock(inputs, outputs, stride=2, downsample=shortcut))
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [N, K] of images [N, C, H, W]."""
        logits: torch.Tensor = self.fc(self.stages(self.stem(images)).mean((2, 3)))
        return logits
