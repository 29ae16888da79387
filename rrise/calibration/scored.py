"""What an engine says of inputs, beside what the classifier did under noise: all that calibration looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Scored:
    """What an engine says of images, beside how often the classifier said the same under noise.

    Parameters
    ----------
    q : float64[N]
        Top probability; NaN where the engine's logits are not finite.
    k, n : int64[N]
        Draws that agree with the engine's label (0 where it has none), and all draws.
    """

    q: NDArray[np.float64]
    k: NDArray[np.int64]
    n: NDArray[np.int64]
