"""Certificates: what every certifier of rrise returns, single pass or Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ABSTAIN = -1
"""The label of an input for which nothing is certified."""

_DTYPES = {"label": np.int64, "radius": np.float64, "p_lower": np.float64, "q": np.float64, "evaluations": np.int64}


class Certificate(NamedTuple):
    """One certificate as plain numbers.

    Parameters
    ----------
    label : int
        Certified class, or ABSTAIN.
    q, p_lower, radius : float
        As in `Certificates`.
    """

    label: int
    q: float
    p_lower: float
    radius: float


@dataclass(frozen=True, eq=False)
class Certificates:
    """One certificate a row: "the smoothed classifier answers `label` everywhere within `radius`".

    Abstention is a value: label -1, radius 0. A row with a label has p_lower > 1/2.

    Parameters
    ----------
    label : int64[B]
        Certified class, or ABSTAIN.
    radius : float64[B]
        Certified radius, ℓ2 in [0,1] pixel units, rounded down.
    p_lower : float64[B]
        Lower bound on the label's probability under noise, in [0,1].
    q : float64[B]
        What the bound was computed from: the surrogate's top probability, or k/n of a Monte Carlo certifier. NaN
        where the engine answered NaN or infinity.
    evaluations : int64[B]
        Noisy evaluations of the base classifier spent on the row; 0 for a single forward pass.

    Raises
    ------
    TypeError
        If an array has another dtype.
    ValueError
        If shapes differ, or a row claims what no certificate may (a radius without a label, a label without p > 1/2).
    """

    label: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_lower: NDArray[np.float64]
    q: NDArray[np.float64]
    evaluations: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.label.shape
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype:
                raise TypeError(f"certificates: expected {name} of {np.dtype(dtype)}, got {array.dtype}. Convert it.")
            if array.ndim != 1 or array.shape != shape:
                raise ValueError(
                    f"certificates: expected {name} of shape {shape}, one axis, got {array.shape}. Fill every row."
                )
        # Each condition is written so that NaN fails it (but for q, whose NaN says that the engine answered none).
        possible = (self.p_lower >= 0) & (self.p_lower <= 1) & (self.evaluations >= 0)
        certified = (self.label >= 0) & (self.radius >= 0) & (self.radius < np.inf) & (self.p_lower > 0.5)
        abstained = (self.label == ABSTAIN) & (self.radius == 0)
        valid = possible & (certified | abstained)
        if not valid.all():
            row = int(np.argmin(valid))
            raise ValueError(
                "certificates: expected a label with p_lower in (1/2,1] and a finite radius, or label -1, radius 0, "
                f"got {self[row].to_rows()[0]} in row {row}. Make abstentions label -1, radius 0."
            )

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """Whether each row abstains, bool[B]."""
        abstained: NDArray[np.bool_] = self.label == ABSTAIN
        return abstained

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | slice | NDArray[Any]) -> Certificates:
        """Return the rows of a slice, mask or index array; an int gives one row, still as certificates of length 1."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"certificates: expected a row below {len(self)}, got {index}. Count rows from 0.")
            index = slice(int(index) % len(self), int(index) % len(self) + 1)
        return unchecked(*(getattr(self, name)[index] for name in _DTYPES))

    def __iter__(self) -> Iterator[Certificates]:
        return (self[row] for row in range(len(self)))

    def to_rows(self) -> list[dict[str, int | float | None]]:
        """Return one dict a row, of plain numbers fit for JSON (q is None where it is NaN)."""
        columns = {name: getattr(self, name).tolist() for name in _DTYPES}
        columns["q"] = [q if q == q else None for q in columns["q"]]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def unchecked(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    p_lower: NDArray[np.float64],
    q: NDArray[np.float64],
    evaluations: NDArray[np.int64],
) -> Certificates:
    """Return certificates valid by construction (the kernel's rows, rows of others) without checking them again.

    The checks cost 12 µs, as much as all the rest that is done around the forward pass of one image.
    """
    certificates = object.__new__(Certificates)
    certificates.__dict__.update(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=evaluations)
    return certificates
