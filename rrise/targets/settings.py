"""What is sampled (:class:`SampleConfig`), and who does the work (:class:`ExecutionConfig`), which changes no count."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rrise.targets.noise import TARGETS
from rrise.views import Views

SAMPLERS = ("grid", "gaussian")
PRECISIONS = ("float32", "bfloat16")
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class SampleConfig:
    """How the base classifier is sampled under noise."""

    sigma: float = field(default=0.25, metadata={"help": "noise level in units of pixels in [0, 1]"})
    n: int = field(default=1000, metadata={"help": "noisy draws an image"})
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    sampler: str = field(default="grid", metadata={"help": "grid (exact, 8-bit images) or gaussian (float32)"})
    batch_size: int = field(default=250, metadata={"help": "most draws in one forward pass"})
    shard_size: int = field(default=100, metadata={"help": "images a shard: the unit of work and restart"})
    device: str = field(default="cpu", metadata={"help": "torch device that runs the classifier"})
    precision: str = field(
        default="float32", metadata={"help": "float32, or bfloat16 (autocast: other, faster counts)"}
    )
    compile: bool = field(default=False, metadata={"help": "run the classifier through torch.compile"})

    def __post_init__(self) -> None:
        require_sampling(self.sigma, self.n, self.seed, self.sampler, self.batch_size)
        if self.shard_size < 1:
            raise ValueError(f"shard_size: expected at least 1 image, got {self.shard_size}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}.")

    @property
    def batch(self) -> int:
        """Draws of an image in one forward pass."""
        return batch_geometry(self.n, self.batch_size)[0]


_USUAL = 1000
"""Draws of an image in the shards of targets that are counted otherwise than all other images."""


@dataclass(frozen=True)
class TargetsConfig:
    """How training targets are sampled, where otherwise than what bounds are made from.

    With any of these settings, forward passes of few draws hold several images; without, a target's counts are those of
    any other image.
    """

    views: int = field(
        default=1,
        metadata={"help": "targets an image: itself, and views - 1 copies of it, shifted and mirrored if so set"},
    )
    n: int = field(default=0, metadata={"help": "noisy draws of a target; 0: n of all other images"})
    shift: int = field(default=0, metadata={"help": "move copies by up to this many pixels"})
    flip: bool = field(default=False, metadata={"help": "mirror every second copy left to right"})

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n: expected 0 (n of all other images) or a number of draws, got {self.n}.")
        self.of_seed(0)

    def of_seed(self, seed: int) -> Views:
        """Return the views of targets whose noise has this seed."""
        return Views(self.views, self.shift, self.flip, seed)

    def sampling(self, config: SampleConfig) -> SampleConfig:
        """Return these settings of sampling with n as here, in shards of as many evaluations as of 1,000 draws.

        So they depend on the draws of no other images.

        Raises
        ------
        ValueError
            If the draws of all views are more than noise has names for.
        """
        if self == TargetsConfig():
            return config
        n = self.n or config.n
        if self.views * n > 2**31:
            raise ValueError(f"views: expected views × n of at most 2^31, got {self.views} × {n}. Lower one of them.")
        return replace(config, n=n, shard_size=max(1, config.shard_size * _USUAL // n))

    def images_per_pass(self, config: SampleConfig, images: int) -> int:
        """Return how many of so many images share a forward pass, sampled as :meth:`sampling` says.

        The fewest passes of equal size that hold a shard: few draws then cost as little as many.
        """
        if self == TargetsConfig():
            return 1
        return batch_geometry(min(config.shard_size, images), max(1, config.batch_size // config.n))[0]


@dataclass(frozen=True)
class DrawsConfig:
    """What `rrise sample --plan` reckons with besides the images that it is asked to sample: three separate numbers."""

    targets: int = field(
        default=0,
        metadata={"help": "--plan: noisy draws of a target; 0: --n if those are sampled, else as many as monte-carlo"},
    )
    calibration: int = field(
        default=0,
        metadata={
            "help": "--plan: noisy draws of a calibration image; 0: --n if those are sampled, else 10 × monte-carlo"
        },
    )
    monte_carlo: int = field(
        default=1000,
        metadata={"help": "--plan: noisy draws of the Monte Carlo certificate that it is paid back against"},
    )

    def __post_init__(self) -> None:
        for name, least in (("targets", 0), ("calibration", 0), ("monte_carlo", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least} draws, got {getattr(self, name)}.")


@dataclass(frozen=True)
class ExecutionConfig:
    """Who evaluates the shards. Counts are the same to the bit whatever is chosen here."""

    executor: str = field(
        default="local", metadata={"help": "local (this process) or ray (actors, here or on a cluster)"}
    )
    address: str = field(
        default="",
        metadata={"help": "ray: cluster to join, HOST:PORT or auto; none: RAY_ADDRESS, or else Ray on this machine"},
    )
    workers: int = field(default=0, metadata={"help": "ray: actors; 0: as many as the cluster has room for"})
    cpus_per_worker: float = field(default=1.0, metadata={"help": "ray: CPUs an actor, and its threads"})
    gpus_per_worker: float = field(
        default=-1.0, metadata={"help": "ray: GPUs an actor; -1: 1 where the device is a GPU, else 0"}
    )
    threads: int = field(
        default=0, metadata={"help": "local: images evaluated at a time, one CPU thread each; 0: one a core"}
    )
    patience: float = field(
        default=60.0,
        metadata={
            "help": "ray: seconds after which a silent worker may be taken for stuck (and 10 times the longest shard)"
        },
    )
    log: str = field(
        default="", metadata={"help": "file of progress in JSON lines; none: beside local counts, OUT.jsonl"}
    )

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor: expected one of {', '.join(EXECUTORS)}, got {self.executor!r}.")
        for name in ("workers", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}.")
        for name, low in (("cpus_per_worker", 0.0), ("patience", 0.0)):
            if not low < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a finite number above {low:g}, got {getattr(self, name)}.")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            value = getattr(self, name)
            if value > 1 and value != int(value):
                raise ValueError(f"{name}: expected a whole number, or a share below 1, got {value}.")
        if not (self.gpus_per_worker == -1 or 0 <= self.gpus_per_worker < math.inf):
            raise ValueError(f"gpus_per_worker: expected -1 (choose), or 0 or more, got {self.gpus_per_worker}.")
        if self.address and self.executor != "ray":
            raise ValueError(f"address: expected none with executor={self.executor!r}, got {self.address!r}. Use ray.")

    def gpus(self, device: str) -> float:
        """Return the GPUs an actor asks for, given the torch device that runs the classifier."""
        if self.gpus_per_worker >= 0:
            return self.gpus_per_worker
        return float(device.startswith("cuda"))

    @property
    def worker_threads(self) -> int:
        """Images an actor evaluates at a time, each on one CPU thread."""
        return max(1, int(self.cpus_per_worker))


def batch_geometry(n: int, batch_size: int) -> tuple[int, int]:
    """Return (batch, batches): the fewest equal batches of at most ``batch_size`` that hold ``n`` draws.

    Floating-point results can change with the batch's shape, so every pass over an image has this one shape; the last
    is padded by further draws, which are not counted.
    """
    batch = -(-n // -(-n // batch_size))
    return batch, -(-n // batch)


def require_sampling(
    sigma: float, n: int, seed: int, sampler: str, batch_size: int, stream: int = TARGETS, first_draw: int = 0
) -> None:
    """Raise ValueError, naming the argument, unless these settings name noise."""
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma: expected a finite number above 0, in units of pixels in [0, 1], got {sigma}.")
    if not 1 <= n < 2**31:
        raise ValueError(f"n: expected 1 to 2^31 - 1 draws, got {n}.")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1 draw, got {batch_size}.")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2^64 - 1, got {seed}.")
    if not 0 <= stream < 256:
        raise ValueError(f"stream: expected 0 to 255, got {stream}.")
    if first_draw < 0 or first_draw + math.prod(batch_geometry(n, batch_size)) > 2**32:
        raise ValueError(
            f"first_draw: expected draws, padding included, within 0 to 2^32 - 1, got {n} from {first_draw} on."
        )
