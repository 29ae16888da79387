"""The reference answers: what an engine said of a few made-up images when it was calibrated, asked again at loading.

A sha256 pins the file, not what a runtime makes of it: another version, processor or provider may compute another
function from the same bytes. Whoever loads a bundle therefore repeats a few forward passes and compares. Agreement on
these images does not prove agreement on all; it finds what goes wrong in practice (another precision, a broken
provider, integer kernels that saturate).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.runtime.images import prepare_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.documents import Fields
    from rrise.runtime.engines.protocol import Engine

IMAGES = 4
CLASSES = 64
"""Logits kept of each image, at most: enough to tell two functions apart, and bundle.json stays small."""
TOLERANCE = 1e-3
"""Accepted difference of a logit, relative to the largest (or to 1). Other orders of summation in float32 differ by
1e-6, bfloat16 by 1e-2; a difference d of the logits moves q by at most 2d · q(1-q)."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What an engine answered at calibration.

    Parameters
    ----------
    runtime : str
        Name and version of the runtime that answered.
    device : str
        Where it ran.
    logits : float64[R, min(K, 64)]
        Of the first R reference images; R = 0 where nothing was recorded, and then nothing is checked.
    tolerance : float
        Accepted difference, relative to the largest logit of an image (or to 1).
    """

    runtime: str
    device: str
    logits: NDArray[np.float64]
    tolerance: float

    @classmethod
    def of(cls, engine: Engine) -> Reference:
        """Return an engine's answers, one image a pass, as a camera sends them."""
        return cls(f"{engine.kind} {engine.version}", engine.device, reference_logits(engine, IMAGES), TOLERANCE)

    @classmethod
    def parse(cls, fields: Fields, num_classes: int) -> Reference:
        """Return the answers that the fields hold, or raise ValueError naming the field."""
        fields.exactly("device", "logits", "runtime", "tolerance")
        width = min(num_classes, CLASSES)
        expected = f"up to {IMAGES} × {width} finite numbers, image by image"
        values = fields.values("logits", float, expected, math.isfinite)
        if len(values) % width or len(values) > IMAGES * width:
            fields.refuse("logits", expected)
        return cls(
            runtime=fields.value("runtime", str, "a name and a version, of one line", str.isprintable),
            device=fields.value("device", str, "a name of one line", str.isprintable),
            logits=np.array(values, np.float64).reshape(-1, width),
            tolerance=fields.value("tolerance", float, "a finite number above 0", lambda t: 0.0 < t < math.inf),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the members of bundle.json's section ``reference``."""
        return {
            "runtime": self.runtime,
            "device": self.device,
            "logits": [float(logit) for logit in self.logits.ravel()],
            "tolerance": self.tolerance,
        }

    def check(self, engine: Engine) -> None:
        """Refuse an engine that answers otherwise than the calibrated one did.

        Raises
        ------
        ValueError
            Naming both runtimes and the difference.
        """
        if not len(self.logits):
            return
        found = reference_logits(engine, len(self.logits))
        size = np.maximum(1.0, np.abs(self.logits).max(axis=1))
        difference = float((np.abs(found - self.logits).max(axis=1) / size).max())
        if not difference <= self.tolerance:  # NaN is no agreement
            raise ValueError(
                f"engine: expected the logits that {self.runtime} on {self.device} gave at calibration, within "
                f"{self.tolerance:g}, got a difference of {difference:.3g} from {engine.kind} {engine.version} on "
                f"{engine.device}. The guarantee is that engine's; re-run rrise calibrate on this machine."
            )


def reference_images(input_shape: tuple[int, int, int], count: int = IMAGES) -> NDArray[np.uint8]:
    """Return made-up images uint8[count, H, W, C], the same for ever: random blocks, from coarse to fine.

    The generator's raw words are used, which numpy keeps stable, unlike what its methods make of them.
    """
    channels, height, width = input_shape
    images = np.empty((count, height, width, channels), np.uint8)
    for index in range(count):
        cells = 2 << index
        words = np.random.Philox(key=2606 + index, counter=0).random_raw(cells * cells * channels)
        blocks = (words >> np.uint64(56)).astype(np.uint8).reshape(cells, cells, channels)
        rows, columns = (np.arange(size) * cells // size for size in (height, width))
        images[index] = blocks[rows][:, columns]
    return images


def reference_logits(engine: Engine, count: int) -> NDArray[np.float64]:
    """Return an engine's logits float64[count, min(K, 64)] of the reference images, one image a pass."""
    batch = prepare_images(reference_images(engine.input_shape, count), engine.input_shape)
    logits = [engine(batch[index : index + 1])[:, :CLASSES] for index in range(count)]
    return np.concatenate(logits).astype(np.float64) if logits else np.empty((0, min(engine.num_classes, CLASSES)))
