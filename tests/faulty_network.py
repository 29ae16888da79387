"""A classifier that takes its time and, on one marked image, does what a file in the folder $RRISE_FAULTS says."""

import os
import time
from pathlib import Path

import torch
from torch import nn


class Faulty(nn.Module):
    """Linear logits of weights that the seed gives; an all-white image sets off the faults."""

    def __init__(self, num_classes: int, in_chans: int, side: int = 8, slow: float = 0.0) -> None:
        super().__init__()
        if "RRISE_NODE" in os.environ and (Path(os.environ["RRISE_FAULTS"]) / "unopenable").exists():
            raise ImportError("a library that only the driver has")
        self.slow = slow
        self.broken = False
        self.linear = nn.Linear(in_chans * side * side, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(self.slow)
        faults = Path(os.environ.get("RRISE_FAULTS", "nowhere"))
        while (faults / "hold").exists():
            time.sleep(0.1)
        if (faults / "slow").exists():
            time.sleep(6 * self.slow)
        if float(pixels.mean()) > 0.9:
            if (faults / "raise").exists():
                raise ValueError("this image cannot be evaluated")
            if (faults / "hog").exists():
                self.hog = [torch.ones(25_000_000) for _ in range(1000) if not time.sleep(0.05)]
            if (faults / "break").exists():
                (faults / "break").unlink()
                self.broken = True
            if (faults / "die").exists():
                os._exit(7)
            if (faults / "hang").exists():
                time.sleep(600)
        if self.broken:
            raise RuntimeError("broken for good, as after an error of CUDA")
        return self.linear(pixels.flatten(1))
