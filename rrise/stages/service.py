"""The base classifier in service: class counts for an audit, Monte Carlo certificates for a fallback."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise.runtime.locks import ProcessLock
from rrise.stages.monte_carlo import NoisyImages, certify_adaptive, certify_fixed
from rrise.stages.provenance import as_calibrated, require_of
from rrise.targets.noise import AUDIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.bundle_schema import Bundle
    from rrise.runtime.certificates import Certificates


def noisy_source(
    bundle: Bundle,
    classifier: str | Path,
    *,
    seed: int | None = None,
    batch: int = 100,
    device: str = "cpu",
    threads: int | None = 1,
) -> NoisyImages:
    """Return a bundle's base classifier before no images yet, under the noise that it was calibrated for.

    Parameters
    ----------
    bundle : Bundle
    classifier : path
        Folder of `rrise train`, or an ONNX file, by its suffix ``.onnx``.
    seed : int, optional
        Names the noise. Default: from the operating system, so that nobody who sends inputs can know the noise.
    batch, device, threads
        As in :class:`NoisyImages`.

    Raises
    ------
    ValueError
        If it is another classifier than the one that the bundle was calibrated on.
    FileNotFoundError
        If there is none.
    """
    from rrise.training.networks import open_classifier

    network = open_classifier(classifier)
    require_of(bundle, "classifier", network, classifier)
    return NoisyImages(
        as_calibrated(bundle, network, device),
        np.empty((0, 1, 1), np.uint8),
        np.empty(0, np.uint64),
        bundle.sigma,
        seed=secrets.randbits(64) if seed is None else seed,
        sampler=str(bundle.provenance.get("sampler", "grid")),
        batch=batch,
        device=device,
        threads=threads,
    )


@final
class ClassifierCounts:
    """Class counts of noisy copies of one image: what :class:`rrise.audit.auditor.Auditor` evaluates.

    Parameters
    ----------
    source : NoisyImages
        As `noisy_source` gives it.
    """

    def __init__(self, source: NoisyImages) -> None:
        self._source = source

    def __call__(self, image: NDArray[Any], n: int, name: int) -> NDArray[np.int64]:
        """Return int64[K], the counts of n draws of a stream of their own, named by seed and ``name``."""
        one = replace(self._source, images=image[None], ids=np.array([name], np.uint64))
        (counts,) = one.counts(n, AUDIT)
        return np.asarray(counts, np.int64)


@final
class MonteCarloCertifier:
    """Monte Carlo certificates of images as they come, with fresh noise for each: the backing of a `Fallback`.

    Parameters
    ----------
    source : NoisyImages
        As `noisy_source` gives it.
    n : int
        Draws that bound the probability of the class: of every image (B1), or at most (``adaptive``, B3).
    alpha : float
        Failure probability of one certificate, whatever the image.
    n_selection : int
        Draws that pick the class.
    adaptive : bool
        Whether an image stops as soon as its radius is known to within ``tolerance``.
    tolerance : float
        ℓ2 in [0,1] pixel units.
    """

    def __init__(
        self,
        source: NoisyImages,
        *,
        n: int = 1000,
        alpha: float = 0.001,
        n_selection: int = 100,
        adaptive: bool = False,
        tolerance: float = 0.01,
    ) -> None:
        self._source, self._n, self._n_selection = source, n, n_selection
        self._adaptive, self._tolerance = adaptive, tolerance
        self.alpha = alpha
        self._next, self._lock = 0, ProcessLock()

    @property
    def sigma(self) -> float:
        """Noise level in units of pixels in [0, 1]."""
        return self._source.sigma

    @property
    def most(self) -> int:
        """Evaluations of one image at most."""
        return self._n_selection + self._n

    def __call__(self, images: NDArray[Any]) -> Certificates:
        """Return certificates of uint8 (N,H,W,C), or float32 (N,C,H,W) where the sampler takes them."""
        with self._lock:
            first = self._next
            self._next += len(images)
        ids = np.arange(first, first + len(images), dtype=np.uint64)
        noisy = replace(self._source, images=images, ids=ids)
        if self._adaptive:
            return certify_adaptive(
                noisy, n_max=self._n, alpha=self.alpha, n_selection=self._n_selection, tolerance=self._tolerance
            )
        return certify_fixed(noisy, n=self._n, alpha=self.alpha, n_selection=self._n_selection)
