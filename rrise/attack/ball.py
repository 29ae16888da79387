"""The points that an attacker may use: inside an ℓ2 ball around an image, inside the pixels' box, on the 8-bit grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_HALVINGS = 30
_STRICT = 1 - 1e-12
"""A certified ball is open: points stay this factor, in squared distance, inside it."""


def project(points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Return the nearest points that lie in the ball of each centre and in the box [0, 1].

    The nearest point is ``centre + clip(t · (point − centre))`` for the largest t <= 1 at which that lies in the ball
    (the conditions of Karush, Kuhn and Tucker); t is found by bisection, from below.

    Parameters
    ----------
    points, centres : float32[B, C, H, W]
        The centres lie in [0, 1].
    radii : float32[B]
        ℓ2, in units of pixels in [0, 1].

    Returns
    -------
    float32[B, C, H, W]
        Within the radius up to the rounding of float32; :func:`to_grid` makes that exact.
    """
    import torch

    each = (-1, *[1] * (points.ndim - 1))
    step, low, high = points - centres, -centres, 1 - centres

    def reached(t: torch.Tensor) -> torch.Tensor:
        return torch.clamp(step * t.view(each), low, high)

    inside, outside = torch.zeros_like(radii), torch.ones_like(radii)
    whole = reached(outside).flatten(1).norm(dim=1) <= radii
    if not whole.all():
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            fits = reached(middle).flatten(1).norm(dim=1) <= radii
            inside, outside = torch.where(fits, middle, inside), torch.where(fits, outside, middle)
    return centres + reached(torch.where(whole, torch.ones_like(radii), inside))


def to_grid(points: NDArray[np.floating], images: NDArray[np.uint8], radii: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 8-bit images close to the points, each strictly inside the ball around its own image.

    Grid noise smooths the classifier on the 1/255 grid, and the certificate speaks of the points of that grid only; so
    an attacked point must be one to say anything about it. A pixel is rounded to the nearest step unless that leaves
    the ball; then as few pixels as possible, those that lie halfway between two steps first, are rounded towards the
    image instead. Rounding all of them so never leaves the ball.

    Parameters
    ----------
    points : float[N, ...]
        Pixels in [0, 1], in the ball or a rounding error outside.
    images : uint8[N, ...]
    radii : float64[N]
        ℓ2, in units of pixels in [0, 1].

    Returns
    -------
    uint8[N, ...]
    """
    count, pixels = len(images), math.prod(images.shape[1:])
    flat = images.reshape(count, pixels).astype(np.int64)
    limit = np.floor((255.0 * radii) ** 2 * _STRICT).astype(np.int64)
    steps = np.clip(points.reshape(count, pixels).astype(np.float64), 0, 1) * 255 - flat
    length = np.sqrt((steps**2).sum(axis=1))
    steps *= np.minimum(1, np.sqrt(limit) / np.maximum(length, 1e-300))[:, None]
    nearest, towards = np.rint(steps).astype(np.int64), np.trunc(steps).astype(np.int64)
    saved = nearest**2 - towards**2  # above 0 where the nearest step leads away from the image
    order = np.argsort(-np.abs(steps - nearest) * (saved > 0), axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(saved, order, axis=1), axis=1)
    excess = (nearest**2).sum(axis=1) - limit
    # The pixel of rank r is turned back if what those before it save is not enough yet.
    turned = np.concatenate([np.zeros((count, 1), np.int64), sums[:, :-1]], axis=1) < excess[:, None]
    back = np.zeros_like(turned)
    np.put_along_axis(back, order, turned, axis=1)
    return (flat + np.where(back, towards, nearest)).astype(np.uint8).reshape(images.shape)
