# ruff: noqa: N999  (the compiled module is private, hence its name)
from typing import final

import numpy as np
from numpy.typing import NDArray

__version__: str

def certify(
    logits: NDArray[np.float32] | NDArray[np.float64],
    knots_q: NDArray[np.float64],
    knots_p: NDArray[np.float64],
    sigma: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def top(
    logits: NDArray[np.float32] | NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]: ...
def radius(p_lower: NDArray[np.float64], sigma: float) -> NDArray[np.float64]: ...
def pixels_to_planes(images: NDArray[np.uint8], out: NDArray[np.float32]) -> None: ...
def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]: ...
def gaussian_fill(
    images: NDArray[np.float32],
    ids: NDArray[np.uint64],
    sigma: float,
    first_draw: int,
    seed: int,
    stream: int,
    out: NDArray[np.float32],
) -> None: ...

@final
class Kernel:
    def __init__(self, knots_q: NDArray[np.float64], knots_p: NDArray[np.float64], sigma: float) -> None: ...
    def certify(
        self, logits: NDArray[np.float32] | NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
    def certify_one(self, logits: NDArray[np.float32] | NDArray[np.float64]) -> tuple[int, float, float, float]: ...

@final
class GridNoise:
    def __init__(self, thresholds: NDArray[np.uint64], lowest: int) -> None: ...
    def noise(self, seed: int, image_id: int, draw: int, pixels: int, stream: int) -> NDArray[np.int16]: ...
    def fill(
        self,
        images: NDArray[np.uint8],
        ids: NDArray[np.uint64],
        first_draw: int,
        seed: int,
        stream: int,
        out: NDArray[np.float32],
    ) -> None: ...
