"""Certificates from the surrogate and some noisy passes of the base classifier: slower than one pass, and tighter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise import _C
from rrise.calibration.combined import combined_score
from rrise.calibration.curves import interpolated_down
from rrise.evaluation.baselines import bounded
from rrise.image_set import image_ids
from rrise.runtime.bundle import BundleError
from rrise.runtime.certifier import ROWS, engine_logits, open_bundle
from rrise.runtime.engines.protocol import EngineOptions
from rrise.stages.service import noisy_source
from rrise.targets.noise import EXTRA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.bundle_schema import Bundle, ExtraPasses
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.engines import Engine
    from rrise.runtime.signature import KeySource
    from rrise.stages.monte_carlo import NoisyImages


@final
class MultiPass:
    """A bundle calibrated for m noisy passes, its engine, and the base classifier that makes them.

    The label is the surrogate's. What the certificates guarantee is ``statement``; why it is the same guarantee as that
    of a single pass stands in :mod:`rrise.calibration.combined`.

    Parameters
    ----------
    bundle : Bundle
        One that says ``extra_passes``.
    engine : Engine
        The bundle's.
    source : NoisyImages
        The base classifier that the calibration counts are of, as :func:`rrise.stages.service.noisy_source` gives it.
        Equal images get equal noise, so its seed must be unknown to whoever chooses the images.

    Raises
    ------
    BundleError
        If the bundle's curve is one of q alone, or was calibrated with another sampler.
    """

    def __init__(self, bundle: Bundle, engine: Engine, source: NoisyImages) -> None:
        self.bundle = bundle
        self.extra = require_extra(bundle)
        calibrated = bundle.provenance.get("sampler", source.sampler)
        if calibrated != source.sampler:
            raise BundleError(
                f"bundle: expected sampler {calibrated!r} as at calibration, got {source.sampler!r}. Use that one."
            )
        self._engine, self._source = engine, replace(source, batch=min(source.batch, self.extra.m))

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
        loaded, engine = open_bundle(bundle, None, options or EngineOptions(), public_key)
        require_extra(loaded)
        source = noisy_source(loaded, classifier, seed=seed, batch=250, device=device, threads=threads)
        return cls(loaded, engine, source)

    @property
    def statement(self) -> str:
        """What is guaranteed, in a few sentences."""
        return self.bundle.statement

    def __call__(self, images: NDArray[np.uint8]) -> Certificates:
        """Return one certificate an image, from one pass of the surrogate and m noisy ones of the classifier.

        Parameters
        ----------
        images : uint8[B, H, W] or uint8[B, H, W, C]

        Returns
        -------
        Certificates
            ``q`` is the combined score q_m, ``evaluations`` is m.
        """
        noisy = replace(self._source, images=images, ids=image_ids(images))
        return self.from_counts(images, noisy.counts(self.extra.m, EXTRA))

    def from_counts(self, images: NDArray[np.uint8], counts: NDArray[Any]) -> Certificates:
        """Return the certificates that int[B, K] class counts give, of m draws that were made for these images alone.

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

    def answers(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the surrogate's labels int64[B], -1 where it has none, and their probabilities q float64[B]."""
        return _C.top(engine_logits(self._engine, images, ROWS))


def require_extra(bundle: Bundle) -> ExtraPasses:
    """Return what a bundle's curve asks for beside q, or raise BundleError if that is nothing."""
    if bundle.extra_passes is None:
        raise BundleError(
            "bundle: expected a curve of q and noisy passes, got one of q alone. Use Certifier, or a bundle of "
            "rrise calibrate --passes."
        )
    return bundle.extra_passes
