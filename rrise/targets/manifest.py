"""What a store of counts was sampled from and how: the facts that must match before work is resumed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rrise.targets.settings import SampleConfig, TargetsConfig
from rrise.views import Views

if TYPE_CHECKING:
    from rrise.images.image_set import ImageSet

FORMAT = "rrise-counts/3"
_NEW = {"views", "shift", "flip", "images_per_pass"}
_BEFORE = {"rrise-counts/1": {"precision", "compile"} | _NEW, "rrise-counts/2": _NEW}
"""Formats before, still read, and the fields that each lacks: those have defaults here."""


@dataclass(frozen=True)
class Manifest:
    """The facts of a store of counts; all but ``versions`` must match, and two manifests are equal when those do.

    Parameters
    ----------
    sigma : float
        Noise level in units of pixels in [0, 1].
    n, batch : int
        Noisy draws of a view of an image, and of them in one forward pass.
    seed, stream, sampler : int, int, str
        Name the noise.
    device : str
        Kind of device (``cpu``, ``cuda``): floating-point results can differ between kinds.
    num_classes : int
    classifier_sha256, data_sha256 : str
    images, shard_size : int
        Images in all, and in each shard of a view but its last.
    precision, compile : str, bool
        How the classifier is run.
    views, shift, flip : int, int, bool
        Views of an image, see :class:`rrise.views.Views`; their seed is that of the noise.
    images_per_pass : int
        Images whose draws share a forward pass: a shard's in order, the last pass filled up by its last image. If more
        than 1, what else is in an image's pass may change its counts as far as it changes the last bits of logits.
    versions : dict
        Package versions; recorded, not compared.
    """

    sigma: float
    n: int
    seed: int
    stream: int
    sampler: str
    batch: int
    device: str
    num_classes: int
    classifier_sha256: str
    data_sha256: str
    images: int
    shard_size: int
    precision: str = "float32"
    compile: bool = False
    views: int = 1
    shift: int = 0
    flip: bool = False
    images_per_pass: int = 1
    versions: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        config: SampleConfig,
        images: ImageSet,
        *,
        stream: int,
        num_classes: int,
        classifier_sha256: str,
        targets: TargetsConfig | None = None,
    ) -> Manifest:
        """Return the manifest of sampling these images as configured; ``targets`` where they are training targets."""
        from importlib.metadata import version

        from rrise._C import __version__

        same = ("sigma", "n", "seed", "sampler", "batch", "shard_size", "precision", "compile")
        targets = targets or TargetsConfig()
        config = targets.sampling(config)
        return cls(
            **{name: getattr(config, name) for name in same},
            stream=stream,
            device=config.device.partition(":")[0],
            num_classes=num_classes,
            classifier_sha256=classifier_sha256,
            data_sha256=images.sha256,
            images=len(images),
            views=targets.views,
            shift=targets.shift,
            flip=targets.flip,
            images_per_pass=targets.images_per_pass(config, len(images)),
            versions={"rrise": __version__, "numpy": version("numpy"), "torch": version("torch")},
        )

    @property
    def made(self) -> Views:
        """How the views are made from the images."""
        return Views(self.views, self.shift, self.flip, self.seed)

    @property
    def evaluations(self) -> int:
        """Evaluations of the classifier that are counted, in all."""
        return self.images * self.views * self.n

    @property
    def shards(self) -> int:
        """Number of shards: those of view 0, then those of view 1, and so on."""
        return self.views * self.shards_of_a_view

    @property
    def shards_of_a_view(self) -> int:
        """Number of shards of each view."""
        return -(-self.images // self.shard_size)

    def view(self, shard: int) -> int:
        """Return the view that a shard holds counts of."""
        return shard // self.shards_of_a_view

    def first(self, shard: int) -> int:
        """Return where the images of a shard begin among all."""
        return shard % self.shards_of_a_view * self.shard_size

    def size(self, shard: int) -> int:
        """Return the number of images of a shard."""
        return min(self.shard_size, self.images - self.first(shard))

    def require_match(self, found: Manifest, where: str) -> None:
        """Raise ValueError, naming each field that differs and both values, unless ``found`` holds the same facts."""
        names = [item.name for item in dataclasses.fields(self) if item.compare]
        pairs = [(name, getattr(found, name), getattr(self, name)) for name in names]
        if differing := [f"{name}={old!r}, not {name}={new!r}" for name, old, new in pairs if old != new]:
            raise ValueError(
                f"counts: {where} was sampled with {'; '.join(differing)}. Use another folder, or delete this one."
            )

    def to_json(self) -> bytes:
        """Return the content of ``manifest.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Manifest:
        """Return the manifest that :meth:`to_json` wrote; ValueError says what is wrong with another content."""
        try:
            fields = json.loads(content)
            found = fields.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{where}: expected a manifest of counts, got something else ({error!r}).") from error
        if found != FORMAT and found not in _BEFORE:
            raise ValueError(f"{where}: expected format {FORMAT}, got {found}. Use the rrise that wrote it.")
        if found in _BEFORE and fields.pop("first_n", 0):
            raise ValueError(f"{where}: expected n draws of every image, got counts that stopped early. Sample again.")
        names = {item.name for item in dataclasses.fields(cls)} - _BEFORE.get(found, set())
        if fields.keys() != names:
            raise ValueError(f"{where}: expected the fields {sorted(names)}, got {sorted(fields)}.")
        return cls(**fields)
