"""A network of one's own: rrise needs a function that returns a torch module, on PYTHONPATH, nothing else."""

from torch import nn


def build(num_classes: int, in_chans: int, width: int = 32) -> nn.Module:
    """Return a small convolutional network; rrise fills in num_classes and in_chans, --options the rest."""
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, num_classes),
    )
