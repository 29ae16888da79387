"""Certificates from the surrogate and some noisy passes of the base classifier: slower than one pass, and tighter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise import _C
from rrise.calibration.combined import combined_score
from rrise.calibration.curves import interpolated_down
from rrise.evaluation.baselines import bounded
from rrise.images.image_set import image_ids
from rrise.runtime.bundle import BundleError
from rrise.runtime.certifier import ROWS, engine_logits, open_bundle
from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.images import as_batch
from rrise.runtime.served import Served
from rrise.stages.service import noisy_source
from rrise.targets.noise import EXTRA, GridSampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.bundle_schema import Bundle, ExtraPasses
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.engines import Engine
    from rrise.runtime.signature import KeySource
    from rrise.stages.monte_carlo import NoisyImages


@final
class MultiPass(Served["Bundle"]):
    """A bundle calibrated for m noisy passes, its engine, and the base classifier that makes them.

    The label is the surrogate's. What the certificates guarantee is ``statement``; why it is the same guarantee as that
    of a single pass stands in :mod:`rrise.calibration.combined`. In a forked child the engine is opened again as
    `Certifier` does; a classifier on a GPU cannot be used there.

    Parameters
    ----------
    bundle : Bundle
        One that says ``extra_passes``.
    engine : Engine
        The bundle's.
    source : NoisyImages
        The base classifier that the calibration counts are of, as :func:`rrise.stages.service.noisy_source` gives it.
        Equal images get equal noise, so its seed must be unknown to whoever chooses the images.
    reopen : callable, optional
        Opens the engine again, for a forked child.

    Raises
    ------
    BundleError
        If the bundle's curve is one of q alone, or was calibrated with another sampler.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, source: NoisyImages, reopen: Callable[[], Engine] | None = None
    ) -> None:
        super().__init__(bundle, engine, reopen)
        self.extra = require_extra(bundle)
        calibrated = bundle.provenance.get("sampler", source.sampler)
        if calibrated != source.sampler:
            raise BundleError(
                f"bundle: expected sampler {calibrated!r} as at calibration, got {source.sampler!r}. Use that one."
            )
        self._source = replace(source, batch=min(source.batch, self.extra.m))

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        classifier: str | Path,
        *,
        seed: int | None = None,
        device: str = "cpu",
        threads: int | None = 1,
        options: EngineOptions | None = None,
        public_key: KeySource | None = None,
    ) -> MultiPass:
        """Return the certifier of a bundle folder and of the classifier, a folder of `rrise train` or an ONNX file.

        The seed of the noise is a secret one unless it is given.

        Raises
        ------
        BundleError
            As `Certifier.load`; if its curve is one of q alone.
        ValueError, FileNotFoundError
            If the classifier is another one than the bundle's, or is not there.
        """
        chosen = options or EngineOptions()
        loaded, engine = open_bundle(bundle, None, chosen, public_key)
        require_extra(loaded)
        source = noisy_source(loaded, classifier, seed=seed, batch=250, device=device, threads=threads)
        return cls(loaded, engine, source, lambda: open_bundle(bundle, None, chosen, public_key, of=loaded)[1])

    def __call__(self, images: NDArray[Any]) -> Certificates:
        """Return one certificate an image, from one pass of the surrogate and m noisy ones of the classifier.

        Parameters
        ----------
        images : uint8 (H,W), (H,W,C), (N,H,W) or (N,H,W,C)
            Or float32 (N,C,H,W) in [0,1], if the bundle was calibrated with the sampler ``gaussian``: the noise of
            ``grid`` is exact for 8-bit pixels, and between them there is none.

        Returns
        -------
        Certificates
            ``q`` is the combined score q_m, ``evaluations`` is m.

        Raises
        ------
        TypeError, ValueError
            If the images are of another kind, size or range.
        """
        batch = as_batch(images, self.engine.input_shape)
        if batch.dtype != np.uint8 and self._source.sampler == GridSampler.name:
            raise TypeError(
                f"images: expected uint8 for the sampler 'grid' of this bundle, whose noise is exact for 8-bit pixels, "
                f"got {batch.dtype}. Give the 8-bit pixels themselves, channels last, or use a bundle of counts of "
                "rrise sample --sampler gaussian."
            )
        noisy = replace(self._source, images=batch, ids=image_ids(_as_bytes(batch)))
        return self.from_counts(batch, noisy.counts(self.extra.m, EXTRA))

    def from_counts(self, images: NDArray[Any], counts: NDArray[Any]) -> Certificates:
        """Return the certificates that int[B, K] class counts give, of m draws that were made for these images alone.

        Parameters
        ----------
        images : uint8 or float32
            As `Certifier` takes them: no noise is added here.
        counts : int[B, K]

        Raises
        ------
        ValueError
            If an image has another number of draws than m.
        """
        label, q = self.answers(images)
        if (drawn := np.unique(counts.sum(axis=1))).size and drawn.tolist() != [self.extra.m]:
            raise ValueError(
                f"passes: expected m = {self.extra.m} draws of every image, as calibrated, got {drawn.tolist()}. "
                "Another number needs another bundle: rrise calibrate --passes."
            )
        agreeing = np.where(label >= 0, counts[np.arange(len(label)), np.maximum(label, 0)], 0).astype(np.int64)
        score = combined_score(q, agreeing, self.extra.m, self.extra.kappa)
        knots = self.bundle.curve.knots_q, self.bundle.curve.knots_p
        p_lower = np.array([0.0 if np.isnan(each) else interpolated_down(*knots, each) for each in score.tolist()])
        evaluations = np.full(len(label), self.extra.m, dtype=np.int64)
        return bounded(label, p_lower, score, evaluations, self.bundle.sigma)

    def answers(self, images: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the surrogate's labels int64[B], -1 where it has none, and their probabilities q float64[B]."""
        return _C.top(engine_logits(self.engine, images, ROWS))


def require_extra(bundle: Bundle) -> ExtraPasses:
    """Return what a bundle's curve asks for beside q, or raise BundleError if that is nothing."""
    if bundle.extra_passes is None:
        raise BundleError(
            "bundle: expected a curve of q and noisy passes, got one of q alone. Use Certifier, or a bundle of "
            "rrise calibrate --passes."
        )
    return bundle.extra_passes


def _as_bytes(batch: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a batch of images as 8-bit pictures of the same bytes, by which they are named."""
    return batch if batch.dtype == np.uint8 else np.ascontiguousarray(batch).view(np.uint8)
