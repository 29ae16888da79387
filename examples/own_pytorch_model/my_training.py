"""Stands for the training you did long ago, without rrise: plain PyTorch that leaves weights and knows its images.

    python my_training.py FOLDER

writes my_weights.pt (a state_dict), my_images.npy (what trained it) and new_images.npy, new_labels.npy (others).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from my_model import build

from rrise.images import DataConfig, load_splits

SIGMA, EPOCHS = 0.5, 40


def main(folder: Path) -> None:
    """Train on noisy images: one that never saw noise is often right on few of them, or gives most the same class."""
    splits = load_splits(DataConfig())
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network gains nothing from more
    pixels = torch.from_numpy(splits.train.images).unsqueeze(1) / 255
    labels = torch.from_numpy(splits.train.labels)
    model = build(num_classes=10, in_chans=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pixels)).split(100):
            noisy = pixels[batch] + SIGMA * torch.randn_like(pixels[batch])
            loss = torch.nn.functional.cross_entropy(model((noisy - 0.5) / 0.5), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "my_weights.pt")
    np.save(folder / "my_images.npy", splits.train.images)
    np.save(folder / "new_images.npy", splits.test.images[:40])
    np.save(folder / "new_labels.npy", splits.test.labels[:40])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
