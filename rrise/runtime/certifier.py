"""The certifier: images -> certificates, one forward pass an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise import _C
from rrise.runtime.bundle import BundleError, read_bundle
from rrise.runtime.certificates import unchecked
from rrise.runtime.documents import sha256_of
from rrise.runtime.engines.protocol import check_shape, check_threads, open_engine_bytes, read_engine
from rrise.runtime.images import as_batch, scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.bundle_schema import Bundle
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.engines.protocol import Engine
    from rrise.runtime.signature import KeySource

ROWS = 1024
"""Images a forward pass takes at most, so that a large batch needs memory for its float32 copy by parts only."""


def engine_logits(engine: Engine, images: NDArray[Any], rows: int) -> NDArray[np.float32]:
    """Return an engine's logits float32[B, K] of images as `prepare_images` takes them, at most `rows` a pass."""
    batch = as_batch(images, engine.input_shape)
    if len(batch) <= rows:
        return engine(scale(batch))
    return np.concatenate([engine(scale(batch[i : i + rows])) for i in range(0, len(batch), rows)])


@final
class Certifier:
    """A verified bundle and its engine, ready to certify; immutable, and safe to call from many threads.

    Made by `Certifier.load`, which checks that bundle and engine belong together. What the certificates guarantee is
    `statement`.

    Examples
    --------
    >>> certifier = Certifier.load("runs/digits/bundles/scaled")        # doctest: +SKIP
    >>> certificates = certifier(images)                                # doctest: +SKIP
    >>> certificates.label, certificates.radius                         # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._engine = engine

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        engine: str | Path | None = None,
        threads: int = 1,
        public_key: KeySource | None = None,
    ) -> Certifier:
        """Return the certifier of a bundle folder.

        Parameters
        ----------
        bundle : path
            Folder written by `rrise calibrate`.
        engine : path, optional
            Another copy of the bundle's engine, as a file or an engine folder: it must have the recorded sha256.
        threads : int
            Threads that share one forward pass.
        public_key : path or bytes, optional
            Ed25519 public key in PEM that must have signed the bundle, as in `load_bundle`.

        Raises
        ------
        BundleError
            If anything in the folder is not as it was calibrated, not signed by the key, or the engine is another one.
        FileNotFoundError, ValueError, ImportError
            If the key cannot be used, as in `load_bundle`.
        """
        check_threads(threads)
        loaded, data = read_bundle(bundle, public_key)
        spec = loaded.engine
        try:
            if engine is not None:
                data = read_engine(engine)[1]
                if sha256_of(data) != spec.sha256:
                    raise BundleError(
                        f"bundle: expected an engine with sha256 {spec.sha256}, got {sha256_of(data)} in {engine}. "
                        "The guarantee holds only for the calibrated engine; re-run rrise calibrate."
                    )
            opened = open_engine_bytes(data, spec.kind, precision=spec.precision, threads=threads)
            check_shape(opened, spec)
        except (OSError, ValueError) as error:
            raise BundleError(f"bundle: {str(error).removeprefix('engine: ').removeprefix('bundle: ')}") from None
        return cls(loaded, opened)

    @property
    def bundle(self) -> Bundle:
        """The bundle, with its calibration and provenance."""
        return self._bundle

    @property
    def engine(self) -> Engine:
        """The engine that runs."""
        return self._engine

    @property
    def sigma(self) -> float:
        """Standard deviation of the smoothing noise, in [0,1] pixel units."""
        return self._bundle.sigma

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self._bundle.engine.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C,H,W) of one image."""
        return self._bundle.engine.input_shape

    @property
    def statement(self) -> str:
        """What is guaranteed, in one sentence."""
        return self._bundle.statement

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the engine's logits float32[B, K] of images as `__call__` takes them."""
        return engine_logits(self._engine, images, ROWS)

    def __call__(self, images: NDArray[Any]) -> Certificates:
        """Return one certificate an image; the last bits of a radius may vary with the composition of the batch.

        Parameters
        ----------
        images : uint8 (H,W), (H,W,C), (N,H,W) or (N,H,W,C), or float32 (N,C,H,W) in [0,1]
            As `prepare_images` takes them.

        Raises
        ------
        TypeError, ValueError
            If the images are of another kind, size or range.
        """
        curve = self._bundle.curve
        label, q, p_lower, radius = _C.certify(self.logits(images), curve.knots_q, curve.knots_p, self._bundle.sigma)
        return unchecked(label, radius, p_lower, q, np.zeros(len(label), np.int64))
