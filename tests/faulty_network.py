"""A classifier that does what files in the folder $RRISE_FAULTS say, some of it on one marked image only."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from rrise.training.one_image import IMAGES


class Faulty(nn.Module):
    """Linear logits of weights that the seed gives; an all-white image sets off the faults."""

    def __init__(self, num_classes: int, in_chans: int, side: int = 8) -> None:
        super().__init__()
        if "RRISE_NODE" in os.environ and (Path(os.environ["RRISE_FAULTS"]) / "unopenable").exists():
            raise ImportError("a library that only the driver has")
        self.passes = 0  # of this process
        self.broken = False
        self.linear = nn.Linear(in_chans * side * side, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > IMAGES:  # fewer are asked for by the check, before sampling, that this answers one image alike
            if "RRISE_FAULTS" in os.environ:
                self._fail(Path(os.environ["RRISE_FAULTS"]), marked=float(pixels.mean()) > 0.9)
            self.passes += 1
        return self.linear(pixels.flatten(1))

    def _fail(self, faults: Path, marked: bool) -> None:
        time.sleep(_number(faults / "slow", 0.0))
        if marked:
            if (faults / "raise").exists():
                raise ValueError("this image cannot be evaluated")
            if (faults / "hog").exists():
                self.hog = [torch.ones(25_000_000) for _ in range(1000) if not time.sleep(0.05)]
            if (faults / "die").exists():
                os._exit(7)
            with suppress(FileNotFoundError):  # the first process that comes here; the others are held
                os.rename(faults / "break", faults / "hold")
                self.broken = True
            with suppress(FileNotFoundError):  # the first process that comes here stops; the others wait for its end
                os.rename(faults / "stop", faults / f"stopped-{os.getpid()}")
                os.kill(os.getpid(), signal.SIGSTOP)
            if (faults / "await").exists():
                (stopped,) = faults.glob("stopped-*")
                while Path("/proc", stopped.name.partition("-")[2]).exists():
                    time.sleep(0.1)
        if self.broken:
            raise RuntimeError("broken for good, as after an error of CUDA")
        while self.passes >= _number(faults / "hold", float("inf")):  # each process may do so many passes
            time.sleep(0.05)


def _number(file: Path, absent: float) -> float:
    try:
        return float(file.read_text())
    except FileNotFoundError:
        return absent
