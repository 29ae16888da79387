"""Stands for whoever gave you the model: writes base.onnx, and what else an honest supplier hands over.

    python make_base.py FOLDER

writes base.onnx (pixels in [0, 1] to logits, the normalisation inside), trained_on.npy (ids of what trained it) and
new_images.npy, new_labels.npy (images that did not).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rrise.images import DataConfig, load_splits

SIGMA, EPOCHS = 0.5, 40


class Base(nn.Module):
    """Two convolutions on pixels in [0, 1]; nobody downstream will see this class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.logits = nn.Linear(32 * 9, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise, then classify."""
        return self.logits(self.layers((pixels - 0.5) / 0.5))


def main(folder: Path) -> None:
    """Train on noisy images and export; the weights are not kept."""
    splits = load_splits(DataConfig())
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network gains nothing from more
    pixels = torch.from_numpy(splits.train.images).unsqueeze(1) / 255
    labels = torch.from_numpy(splits.train.labels)
    model = Base()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pixels)).split(100):
            noisy = pixels[batch] + SIGMA * torch.randn_like(pixels[batch])
            loss = nn.functional.cross_entropy(model(noisy), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model.eval(),
        (pixels[:2],),
        folder / "base.onnx",
        dynamo=True,
        dynamic_shapes=({0: "batch"},),  # any number of images at a time
        external_data=False,  # weights inside the one file
        verbose=False,
    )
    np.save(folder / "trained_on.npy", splits.train.ids)
    np.save(folder / "new_images.npy", splits.test.images[:40])
    np.save(folder / "new_labels.npy", splits.test.labels[:40])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
