"""Certificates from one forward pass for several noise levels at once, and the one of the largest radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise import _C
from rrise.runtime.bundle import read_levels
from rrise.runtime.certificates import ABSTAIN, unchecked
from rrise.runtime.certifier import ROWS, engine_logits, opened_engine, require_same
from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from rrise.runtime.certificates import Certificates
    from rrise.runtime.engines.protocol import Engine
    from rrise.runtime.levels_schema import LevelsBundle
    from rrise.runtime.signature import KeySource


@dataclass(frozen=True, eq=False)
class ChosenCertificates:
    """One certificate a row, each at a sigma of its own.

    Parameters
    ----------
    certificates : Certificates
        Label, radius, bound and q at the chosen sigma; a row abstains where no sigma certifies, or where two certify
        different labels.
    sigma : float64[B]
        The chosen noise level, in [0,1] pixel units: whose smoothed classifier the row is about. NaN where it abstains.
    """

    certificates: Certificates
    sigma: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sigma)

    def to_rows(self) -> list[dict[str, int | float | None]]:
        """Return one dict a row, of plain numbers fit for JSON."""
        sigmas = [None if math.isnan(sigma) else sigma for sigma in self.sigma.tolist()]
        rows = self.certificates.to_rows()
        return [{**row, "sigma": sigma} for row, sigma in zip(rows, sigmas, strict=True)]


@final
class MultiSigma(Served["LevelsBundle"]):
    """A verified bundle of several noise levels and its engine; safe to call from many threads, and after a fork.

    Made by `MultiSigma.load`. One pass of the engine gives logits for every sigma. The bounds of an input hold together
    (`statement` says how often), so the largest radius may be taken after looking at all. A certificate is about the
    smoothed classifier at its own sigma: nearby, another sigma may have the largest radius, and another label. Where
    two sigma certify different labels there is no one answer to certify, and the row abstains.

    Examples
    --------
    >>> certifier = MultiSigma.load("runs/digits/levels/scaled")        # doctest: +SKIP
    >>> chosen = certifier(images)                                      # doctest: +SKIP
    >>> chosen.certificates.radius, chosen.sigma                        # doctest: +SKIP
    """

    def __init__(self, bundle: LevelsBundle, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        super().__init__(bundle, engine, reopen)
        pairs = zip(bundle.curves, bundle.sigmas, strict=True)
        self._kernels = [_C.Kernel(curve.knots_q, curve.knots_p, sigma) for curve, sigma in pairs]

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        threads: int = 1,
        *,
        spinning: bool = False,
        device: str = "",
        public_key: KeySource | None = None,
    ) -> MultiSigma:
        """Return the certifier of a bundle folder that `rrise calibrate` made from counts at several sigma.

        Parameters
        ----------
        bundle, threads, spinning, device, public_key
            As for `Certifier.load`.

        Raises
        ------
        BundleError, FileNotFoundError, ValueError, ImportError
            As `Certifier.load`; also if the bundle is one of a single sigma.
        """
        options = EngineOptions(threads, spinning, device)
        loaded, engine = _opened(bundle, options, public_key, None)
        return cls(loaded, engine, lambda: _opened(bundle, options, public_key, loaded)[1])

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, in [0,1] pixel units, rising."""
        return self._bundle.sigmas

    def each(self, images: NDArray[Any]) -> tuple[Certificates, ...]:
        """Return the certificates at every sigma, which hold together: S of one row an image.

        Parameters
        ----------
        images : uint8 (H,W), (H,W,C), (N,H,W) or (N,H,W,C), or float32 (N,C,H,W) in [0,1]
            As `prepare_images` takes them.

        Raises
        ------
        TypeError, ValueError
            If the images are of another kind, size or range.
        """
        logits = engine_logits(self.engine, images, ROWS)
        levels = np.split(logits, len(self._kernels), axis=1)
        return tuple(
            _certificates(kernel, np.ascontiguousarray(own)) for kernel, own in zip(self._kernels, levels, strict=True)
        )

    def __call__(self, images: NDArray[Any]) -> ChosenCertificates:
        """Return the certificate of the largest radius for each image, or an abstention.

        Parameters and errors are those of `each`.
        """
        return choose(self.each(images), self.sigmas)


def choose(levels: tuple[Certificates, ...], sigmas: tuple[float, ...]) -> ChosenCertificates:
    """Return the certificate of the largest radius in each row; of equal ones that of the smallest sigma.

    A row abstains where no level certifies, or two certify different labels; its bound and q are then those of the
    level with the largest radius all the same, and its sigma is NaN.
    """
    labels, radii, bounds, q = (
        np.stack([getattr(level, name) for level in levels]) for name in ("label", "radius", "p_lower", "q")
    )
    best, rows = radii.argmax(axis=0), np.arange(labels.shape[1])
    highest = labels.max(axis=0)
    agree = ((labels == ABSTAIN) | (labels == highest)).all(axis=0) & (highest != ABSTAIN)
    certified = agree & (labels[best, rows] != ABSTAIN)
    certificates = unchecked(
        np.where(certified, highest, ABSTAIN),
        np.where(certified, radii[best, rows], 0.0),
        bounds[best, rows],
        q[best, rows],
        np.zeros(len(rows), np.int64),
    )
    return ChosenCertificates(certificates, np.where(certified, np.asarray(sigmas)[best], np.nan))


def _certificates(kernel: _C.Kernel, logits: NDArray[np.float32]) -> Certificates:
    label, q, p_lower, radius = kernel.certify(logits)
    return unchecked(label, radius, p_lower, q, np.zeros(len(label), np.int64))


def _opened(
    bundle: str | Path, options: EngineOptions, public_key: KeySource | None, of: LevelsBundle | None
) -> tuple[LevelsBundle, Engine]:
    loaded, data = read_levels(bundle, public_key)
    require_same(loaded, of, bundle)
    return loaded, opened_engine(loaded, data, options)
