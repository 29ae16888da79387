"""How certified images are attacked, and how the attacked points are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AttackConfig:
    """How certified images are attacked, and how the attacked points are judged."""

    reach: tuple[float, ...] = field(
        default=(1.0, 1.5, 2.0, 4.0),
        metadata={"help": "attack within these multiples of the certified radius; 1.0 must be one of them"},
    )
    images: int = field(
        default=0, metadata={"help": "test images, the first ones, whose certificates are attacked; 0: all"}
    )
    steps: int = field(default=40, metadata={"help": "gradient steps of one attack"})
    step: float = field(
        default=0.25, metadata={"help": "first step as a share of the attack's radius; it shrinks to 0"}
    )
    restarts: int = field(default=1, metadata={"help": "starts of each attack: the image, then random points"})
    targets: int = field(
        default=3, metadata={"help": "classes towards which the surrogate is moved in turn, the likeliest others first"}
    )
    draws: int = field(
        default=32, metadata={"help": "noisy copies that estimate one gradient of the smoothed classifier"}
    )
    halvings: int = field(default=10, metadata={"help": "halvings of the radius in search of the smallest flip"})
    n: int = field(
        default=1000, metadata={"help": "noisy draws that judge the smoothed classifier at an attacked point"}
    )
    alpha: float = field(
        default=0.001, metadata={"help": "chance that any of an image's attacked points is judged wrongly"}
    )
    batch_size: int = field(default=256, metadata={"help": "most points, noisy copies included, in one pass"})
    seed: int = field(default=0, metadata={"help": "seed of random starts and of the noise"})
    device: str = field(default="cpu", metadata={"help": "torch device that attacks and judges"})
    threads: int = field(default=0, metadata={"help": "CPU threads; 0: as torch chooses, and one a core to judge"})

    def __post_init__(self) -> None:
        if 1.0 not in self.reach or not all(math.isfinite(r) and r > 0 for r in self.reach):
            raise ValueError(
                f"reach: expected finite multiples above 0, 1.0 among them, got {self.reach}. Try 1.0 2.0."
            )
        if list(self.reach) != sorted(set(self.reach)):
            raise ValueError(f"reach: expected rising multiples, got {self.reach}. Sort them and drop repeats.")
        for name in ("steps", "restarts", "targets", "draws", "n", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}. Try the default.")
        for name in ("images", "halvings", "seed", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}.")
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step: expected a share of the radius above 0, got {self.step}. Try 0.25.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected a failure probability in (0, 1), got {self.alpha}. Try 0.001.")
        least = 1 - math.floor(math.log2(self.level))
        if self.n < least:
            raise ValueError(f"n: expected at least {least} draws to tell labels apart at this alpha, got {self.n}.")

    @property
    def level(self) -> float:
        """Level of the test at one attacked point: two attacks within each multiple share ``alpha``."""
        return self.alpha / (2 * len(self.reach))
