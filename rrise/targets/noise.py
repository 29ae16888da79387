"""Noise named by (seed, stream, image id, draw, pixel), and by nothing else.

Two samplers. ``grid`` is for 8-bit images: it adds integer noise whose law is that of Gaussian noise rounded to the
1/255 grid, so what is smoothed is exactly f∘round and the certificate holds for every input on the grid. ``gaussian``
is for other inputs: it adds float32 noise, whose rounding carries fingerprints of the input, so its certificate is
one of real arithmetic, not of the computation.

The same name gives the same noise to the bit on every machine, in any order, batch, shard or process.
"""

from __future__ import annotations

import functools
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import TYPE_CHECKING, Final, TypeAlias, final

import numpy as np

from rrise import _C

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS: Final = 0
"""Stream of the draws that make training and calibration counts."""
SELECTION: Final = 1
"""Stream of the draws by which a Monte Carlo certifier picks a class."""
ESTIMATION: Final = 2
"""Stream of the draws from which a Monte Carlo certifier bounds that class's probability."""
REFERENCE: Final = 3
"""Stream of the draws of the large reference sample of an evaluation."""
EXTRA: Final = 4
"""Stream of the noisy passes that a multi-pass certificate adds to the surrogate's answer."""

AUDIT: Final = 5
"""Stream of the draws by which an audit checks a certificate in service."""

STREAMS: Final = {
    "targets": TARGETS,
    "selection": SELECTION,
    "estimation": ESTIMATION,
    "reference": REFERENCE,
    "extra": EXTRA,
}
"""The streams by name, as `rrise sample --stream` takes them."""

LARGEST_GRID_SIGMA: Final = 14.0
"""Above it the grid noise would not fit in int16."""


def grid_thresholds(sigma: float) -> tuple[NDArray[np.uint64], int]:
    """Law of the grid noise: the 64-bit thresholds of its distribution function and its lowest value.

    With U uniform on 0 … 2^64 − 1, ``lowest + #{i : T_i <= U}`` is round(255·σ·Z), Z ~ N(0, 1), with every probability
    within 2^-64 of the exact one: T_i = round(2^64 Φ((2(lowest + i) + 1) / (510 σ))), of which those from 1 to 2^64 − 1
    are kept. Computed in decimal arithmetic from ``repr(sigma)``, so it is the same on every platform. Symmetric:
    T_i + T_(T-1-i) = 2^64, lowest = −T/2.

    Parameters
    ----------
    sigma : float
        Noise level in [0,1] pixel units, 0 < σ <= 14. Below 2.1e-4 no threshold is left and the noise is always 0,
        which is the truth to 2^-64 and therefore allowed.

    Returns
    -------
    thresholds : uint64[T]
        Never falling; read-only.
    lowest : int
        Noise below the first threshold, in units of 1/255.

    Raises
    ------
    ValueError
        If σ is not in (0, 14].
    """
    return _grid_thresholds(_grid_sigma(sigma))


def _grid_sigma(sigma: float) -> float:
    value = float(sigma)
    if not 0.0 < value <= LARGEST_GRID_SIGMA:
        raise ValueError(
            f"sigma: expected a noise level above 0 and at most {LARGEST_GRID_SIGMA:g} for the grid sampler, "
            f"got {sigma!r}. Give it in [0,1] pixel units."
        )
    return value


@functools.lru_cache(maxsize=16)
def _grid_thresholds(sigma: float) -> tuple[NDArray[np.uint64], int]:
    top = 2**64
    upper = []  # thresholds above 2^63; those below mirror them
    with localcontext(Context(prec=50, rounding=ROUND_HALF_EVEN)):
        half = 1 / (510 * Decimal(repr(sigma)))  # half a pixel step in units of σ
        # The density at half, 3 half, 5 half, …: each is the one before times a ratio that is itself geometric. Their
        # relative error grows as the square of the count: under 1e-40 at the largest σ, where 1e-21 would do.
        density = _INVERSE_SQRT_TWO_PI * (-half * half / 2).exp()
        ratio = shrink = (-4 * half * half).exp()
        x = half
        while x < 10:  # Φ(−10) < 2^-65: nothing beyond can be told from 2^64
            threshold = int(((Decimal("0.5") + density * _half_mass_over_density(x)) * top).to_integral_value())
            if threshold >= top:
                break
            upper.append(threshold)
            density *= ratio
            ratio *= shrink
            x += 2 * half
    thresholds = np.array([top - t for t in reversed(upper)] + upper, dtype=np.uint64)
    thresholds.flags.writeable = False
    return thresholds, -len(upper)


_INVERSE_SQRT_TWO_PI = Decimal("0.39894228040143267793994605993438186847585863116493465766593")


def _half_mass_over_density(x: Decimal) -> Decimal:
    """(Φ(x) − 1/2) / φ(x) for x >= 0, in the current precision: Σ x^(2k+1) / (1·3·5…(2k+1)), all terms positive."""
    square = x * x
    term = total = x
    k = 3
    while True:
        term = term * square / k
        grown = total + term
        if grown == total:
            return total
        total = grown
        k += 2


@final
class GridSampler:
    """Exact Gaussian smoothing on the 1/255 grid: (pixel + integer noise) / 255 of 8-bit images.

    Parameters
    ----------
    sigma : float
        Noise level in [0,1] pixel units, 0 < σ <= 14.
    """

    name: Final = "grid"

    def __init__(self, sigma: float) -> None:
        self.sigma: Final = _grid_sigma(sigma)
        self._noise = _C.GridNoise(*grid_thresholds(self.sigma))

    def fill(
        self,
        images: NDArray[np.uint8],
        ids: NDArray[np.uint64],
        *,
        first_draw: int,
        draws: int,
        seed: int,
        stream: int,
        out: NDArray[np.float32],
    ) -> None:
        """Write (pixel + noise) / 255 of draws ``first_draw`` … ``first_draw + draws − 1`` into ``out``.

        Parameters
        ----------
        images : uint8[B, P]
            Pixels flattened in C order of (C, H, W).
        ids : uint64[B]
            Image ids, below 2^56.
        first_draw, draws : int
            Draws are numbered from 0, below 2^32.
        seed, stream : int
            Below 2^64 and 2^8.
        out : float32[B, draws, P]

        Raises
        ------
        TypeError
            If the images are not uint8: exact smoothing needs pixels on the grid.
        ValueError
            If a shape or a number is out of range.
        """
        if isinstance(images, np.ndarray) and images.dtype != np.uint8:
            raise TypeError(
                f"images: expected uint8 for the grid sampler, got {images.dtype}. "
                "Pass 8-bit images, or use sampler='gaussian', whose certificate is not exact in floating point."
            )
        _check_draws(draws, out)
        self._noise.fill(images, ids, first_draw, seed, stream, out)


@final
class GaussianSampler:
    """Float32 Gaussian noise for images that are not 8-bit: x + σ·N(0, 1), rounded as float32 rounds.

    fl(x + ε) carries fingerprints of x, so a classifier that reads the last bits can be certified falsely.

    Parameters
    ----------
    sigma : float
        Noise level in [0,1] pixel units.
    """

    name: Final = "gaussian"

    def __init__(self, sigma: float) -> None:
        if not 0.0 < float(sigma) < float("inf"):
            raise ValueError(f"sigma: expected a finite number above 0, got {sigma!r}. Give it in [0,1] pixel units.")
        self.sigma: Final = float(sigma)

    def fill(
        self,
        images: NDArray[np.float32],
        ids: NDArray[np.uint64],
        *,
        first_draw: int,
        draws: int,
        seed: int,
        stream: int,
        out: NDArray[np.float32],
    ) -> None:
        """Write x + σ·N(0, 1) of draws ``first_draw`` … ``first_draw + draws − 1`` into ``out``.

        Parameters
        ----------
        images : float32[B, P]
            Pixels in [0,1], flattened in C order of (C, H, W).
        ids, first_draw, draws, seed, stream, out
            As for :meth:`GridSampler.fill`.

        Raises
        ------
        TypeError
            If the images are not float32.
        ValueError
            If a shape or a number is out of range.
        """
        if isinstance(images, np.ndarray) and images.dtype != np.float32:
            raise TypeError(
                f"images: expected float32 for the gaussian sampler, got {images.dtype}. "
                "Use sampler='grid' for 8-bit images."
            )
        _check_draws(draws, out)
        _C.gaussian_fill(images, ids, self.sigma, first_draw, seed, stream, out)


Sampler: TypeAlias = GridSampler | GaussianSampler


def make_sampler(name: str, sigma: float) -> Sampler:
    """Sampler of that name at that noise level.

    Raises
    ------
    ValueError
        If there is no such sampler, or it cannot use this σ.
    """
    if name == GridSampler.name:
        return GridSampler(sigma)
    if name == GaussianSampler.name:
        return GaussianSampler(sigma)
    raise ValueError(f"sampler: expected 'grid' or 'gaussian', got {name!r}. Use 'grid' for 8-bit images.")


def _check_draws(draws: int, out: NDArray[np.float32]) -> None:
    if out.ndim != 3 or out.shape[1] != draws:
        raise ValueError(f"out: expected shape (B, {draws}, P), got {out.shape}. Allocate float32[B, draws, P].")
