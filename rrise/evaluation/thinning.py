"""Counts of fewer draws, and in an order, out of the counts of many.

The draws of an image are independent and alike, so given their counts every order is as likely as any other: a random
part of them, or a random order, is in law what fewer draws, or the draws one after the other, would have given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def thinned(counts: NDArray[Any], draws: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return int64[B, K], the class counts of a random part of the draws behind each row.

    Parameters
    ----------
    counts : int[B, K]
    draws : int or int[B]
        How many draws of each row, at most all of them.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a row has fewer draws than are asked for.
    """
    rows = np.asarray(counts, dtype=np.int64)
    wanted = np.broadcast_to(np.asarray(draws, dtype=np.int64), rows.shape[:1])
    short = rows.sum(axis=1) < wanted
    if short.any():
        row = int(np.argmax(short))
        raise ValueError(
            f"draws: expected at most the {rows[row].sum()} draws of row {row}, got {wanted[row]}. Sample more."
        )
    return np.stack([rng.multivariate_hypergeometric(*pair) for pair in zip(rows, wanted, strict=True)])


def in_order(k: ArrayLike, n: int, looks: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return int64[B, T]: how many of the first looks[t] of n draws agreed, k of n having agreed in the end.

    Parameters
    ----------
    k : int[B]
        Draws that agree, 0 to n.
    n : int
        Draws of each row.
    looks : int[T]
        Numbers of draws, rising, at most n.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If looks do not rise or exceed n.
    """
    total, wanted = np.asarray(k, dtype=np.int64), np.asarray(looks, dtype=np.int64)
    if np.any(np.diff(wanted, prepend=0) <= 0) or np.any(wanted > n):
        raise ValueError(f"looks: expected rising numbers of draws from 1 to {n}, got {wanted.tolist()}. Sort them.")
    seen, drawn, columns = np.zeros_like(total), 0, []
    for look in wanted.tolist():
        rest = n - drawn
        seen = seen + rng.hypergeometric(total - seen, rest - (total - seen), look - drawn)
        drawn = look
        columns.append(seen)
    return np.stack(columns, axis=1)
