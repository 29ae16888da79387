"""Views: an image itself, and shifted and mirrored copies of it, named as noise is named and made from the name.

View v of an image is a function of (seed, image id, v) and of nothing else: words 0, 1 and 2 of the Philox4x32-10 block
0xC0000000, whose key is the seed and whose counter holds v in the place of a draw (csrc/noise.h), say how far the image
moves down and to the right and whether it is mirrored. No noise is made from that block. Integers throughout: every
process and platform makes the same pixels, so that none need be stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

LARGEST: Final = 2**16
"""Views that an image may have."""
_BLOCK: Final = 0xC0000000
_MASK: Final = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Views:
    """The views of every image of a set; view 0 is the image itself.

    Parameters
    ----------
    count : int
        Views an image, 1 to 65,536.
    shift : int
        Views from 1 on are moved by up to so many pixels along each axis, each distance as likely; black flows in.
    flip : bool
        They are then mirrored left to right, every second one on average.
    seed : int
        Names the views further.

    Raises
    ------
    ValueError
        If a number is out of range, or images are to be changed and there is no view but the image itself.
    """

    count: int = 1
    shift: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= LARGEST:
            raise ValueError(f"views: expected 1 to {LARGEST} views of an image, got {self.count}.")
        if not 0 <= self.shift < 2**15:
            raise ValueError(f"shift: expected 0 to {2**15 - 1} pixels, got {self.shift}.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed: expected 0 to 2^64 - 1, got {self.seed}.")
        if self.count == 1 and (self.shift or self.flip):
            raise ValueError(
                f"views: expected 2 or more with shift={self.shift} and flip={self.flip}, got 1: the first view is the "
                "image itself."
            )

    def moves(self, ids: npt.NDArray[np.uint64], view: int) -> npt.NDArray[np.int64]:
        """Return how a view is made of each image.

        Parameters
        ----------
        ids : uint64[N]
            Names of the images, below 2^56.
        view : int
            0 to count - 1.

        Returns
        -------
        int64[N, 3]
            Pixels down and pixels to the right, each -shift to shift, and 1 where the image is then mirrored, else 0.
        """
        if not 0 <= view < self.count:
            raise ValueError(f"view: expected 0 to {self.count - 1}, got {view}.")
        if not view:
            return np.zeros((len(ids), 3), dtype=np.int64)
        names = np.asarray(ids, dtype=np.uint64)
        numbers = (np.full_like(names, number) for number in (_BLOCK, view))
        down, right, mirror, _ = philox4x32((*numbers, names & _MASK, names >> np.uint64(32)), self.seed)
        places = np.uint64(2 * self.shift + 1)
        axes = [((word * places) >> np.uint64(32)).astype(np.int64) - self.shift for word in (down, right)]
        mirrored = (mirror >> np.uint64(31)).astype(np.int64) * self.flip
        return np.stack([*axes, mirrored], axis=1)

    def images(self, images: npt.NDArray[Any], ids: npt.NDArray[np.uint64], view: int) -> npt.NDArray[Any]:
        """Return a view of each image, in the images' dtype and shape.

        Parameters
        ----------
        images : array[N, H, W] or array[N, H, W, C]
        ids, view
            As for :meth:`moves`.
        """
        moves = self.moves(ids, view)
        if not moves.any():
            return images
        import torch

        channels = images if images.ndim == 4 else images[..., None]
        pixels = torch.from_numpy(np.ascontiguousarray(channels)).permute(0, 3, 1, 2)
        made = moved(pixels, torch.from_numpy(moves)).permute(0, 2, 3, 1).contiguous().numpy()
        return made.reshape(images.shape)


def moved(pixels: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Return images moved, then mirrored; what flows in is 0.

    Parameters
    ----------
    pixels : tensor [N, C, H, W]
        Of any dtype.
    moves : int64[N, 3]
        On the same device, as :meth:`Views.moves` gives them.
    """
    import torch

    count, channels, height, width = pixels.shape
    device = pixels.device
    down, right, mirrored = (column[:, None] for column in moves.unbind(1))
    rows = torch.arange(height, device=device) - down
    places = torch.arange(width, device=device)
    columns = torch.where(mirrored > 0, width - 1 - places, places) - right
    # Where each pixel comes from in a list of all; what lies outside comes from the 0 at the list's end.
    end = count * height * width
    first = torch.arange(count, device=device)[:, None] * (height * width)
    row = torch.where((rows >= 0) & (rows < height), first + rows * width, end)
    column = torch.where((columns >= 0) & (columns < width), columns, end)
    source = (row[:, :, None] + column[:, None, :]).clamp_(max=end).view(-1)
    pixels_and_0 = torch.cat([pixels.permute(0, 2, 3, 1).reshape(-1, channels), pixels.new_zeros((1, channels))])
    return pixels_and_0.index_select(0, source).view(count, height, width, channels).permute(0, 3, 1, 2)


def philox4x32(
    counter: tuple[npt.NDArray[np.uint64], ...], key: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the four words of many blocks of Philox4x32-10, as csrc/noise.h makes them.

    Parameters
    ----------
    counter : four uint64[N]
        Words of the counters, below 2^32.
    key : int
        Below 2^64; its low half is the first word of the key.

    References
    ----------
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = counter
    low, high = key & 0xFFFFFFFF, key >> 32
    half = np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ np.uint64(low), b & _MASK, (a >> half) ^ c3 ^ np.uint64(high), a & _MASK
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3
