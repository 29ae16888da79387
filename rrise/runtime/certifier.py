"""The certifier: images -> certificates, one forward pass an image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rrise import _C
from rrise.runtime.bundle import BundleError, read_bundle
from rrise.runtime.certificates import Certificate, unchecked
from rrise.runtime.documents import sha256_of
from rrise.runtime.engines.opening import open_engine_bytes
from rrise.runtime.engines.protocol import EngineOptions
from rrise.runtime.engines.spec import check_engine, read_engine
from rrise.runtime.images import as_batch, scale, scale_into
from rrise.runtime.served import Served

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.runtime.bundle_schema import Bundle
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.engines.protocol import Engine
    from rrise.runtime.levels_schema import LevelsBundle
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
class Certifier(Served["Bundle"]):
    """A verified bundle and its engine, ready to certify; safe to call from many threads, and after a fork.

    Made by `Certifier.load`, which checks that bundle and engine belong together. What the certificates guarantee is
    `statement`. In a child process an engine that holds threads or a GPU is opened again, from the same verified
    files, at the first call; prefer to load there.

    Examples
    --------
    >>> certifier = Certifier.load("runs/digits/bundles/scaled")        # doctest: +SKIP
    >>> certificates = certifier(images)                                # doctest: +SKIP
    >>> certificates.label, certificates.radius                         # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        if extra := bundle.extra_passes:  # such a curve at q alone would be a wrong certificate
            raise BundleError(
                f"bundle: expected a curve of the surrogate's q alone, got one of q and m = {extra.m} noisy passes of "
                "the base classifier. Use rrise.MultiPass, or a bundle without extra_passes."
            )
        super().__init__(bundle, engine, reopen)
        self._kernel = _C.Kernel(bundle.curve.knots_q, bundle.curve.knots_p, bundle.sigma)
        self._local = threading.local()

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        engine: str | Path | None = None,
        threads: int = 1,
        *,
        spinning: bool = False,
        device: str = "",
        public_key: KeySource | None = None,
    ) -> Certifier:
        """Return the certifier of a bundle folder, its engine warmed up by the reference images.

        Parameters
        ----------
        bundle : path
            Folder written by `rrise calibrate`.
        engine : path, optional
            Another copy of the bundle's engine, as a file or an engine folder: it must have the recorded sha256.
        threads : int
            CPU threads that share one forward pass.
        spinning : bool
            Whether those threads spin between calls: lower latency for cores kept busy.
        device : str
            Where the engine runs; "" is its default, "cuda:1" a GPU.
        public_key : path or bytes, optional
            Ed25519 public key in PEM that must have signed the bundle, as in `load_bundle`.

        Raises
        ------
        BundleError
            If anything in the folder is not as it was calibrated, not signed by the key, the engine is another one, or
            it answers the reference images otherwise than at calibration.
        FileNotFoundError, ValueError
            If the key cannot be used, as in `load_bundle`.
        ImportError
            If the engine's runtime is not installed, or a key is given and cryptography is not.
        """
        options = EngineOptions(threads, spinning, device)
        loaded, opened = open_bundle(bundle, engine, options, public_key)
        return cls(loaded, opened, lambda: open_bundle(bundle, engine, options, public_key, of=loaded)[1])

    @property
    def sigma(self) -> float:
        """Standard deviation of the smoothing noise, in [0,1] pixel units."""
        return self._bundle.sigma

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the engine's logits float32[B, K] of images as `__call__` takes them."""
        engine = self.engine
        batch = as_batch(images, engine.input_shape)
        if len(batch) == 1 and batch.dtype == np.uint8:  # a camera's frame: no memory is asked for
            try:
                planes = self._local.planes
            except AttributeError:
                planes = self._local.planes = np.empty((1, *engine.input_shape), np.float32)
            scale_into(batch, planes)
            return engine(planes)
        return engine_logits(engine, images, ROWS)

    def warm_up(self, batch_sizes: Sequence[int] = (1,)) -> None:
        """Run the engine once at each batch size, so that no later call pays for its first allocations.

        `load` has run batches of one image already.
        """
        for size in batch_sizes:
            self.logits(np.zeros((size, *self.input_shape), np.float32))

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
        label, q, p_lower, radius = self._kernel.certify(self.logits(images))
        return unchecked(label, radius, p_lower, q, np.zeros(len(label), np.int64))

    def certify_one(self, image: NDArray[Any]) -> Certificate:
        """Return the certificate of one image as plain numbers: the quickest call, the same answer as of `__call__`.

        Parameters
        ----------
        image : uint8 (H,W) or (H,W,C), or float32 (1,C,H,W) in [0,1]

        Raises
        ------
        TypeError, ValueError
            As `__call__`; also for a batch of several images.
        """
        logits = self.logits(image)
        if len(logits) != 1:
            raise ValueError(f"image: expected one image, got {len(logits)}. Call the certifier for a batch.")
        return Certificate(*self._kernel.certify_one(logits))


def open_bundle(
    bundle: str | Path,
    engine: str | Path | None,
    options: EngineOptions,
    public_key: KeySource | None,
    of: Bundle | None = None,
) -> tuple[Bundle, Engine]:
    """Return the verified bundle of a folder and its engine; `of` is the bundle that it must still be.

    Raises
    ------
    BundleError, FileNotFoundError, ValueError, ImportError
        As `Certifier.load`.
    """
    loaded, data = read_bundle(bundle, public_key)
    require_same(loaded, of, bundle)
    if engine is not None:
        try:
            data = read_engine(engine)[1]
        except (OSError, ValueError) as error:
            raise _refused(error) from None
        if sha256_of(data) != loaded.engine.sha256:
            raise BundleError(
                f"bundle: expected an engine with sha256 {loaded.engine.sha256}, got {sha256_of(data)} in {engine}. "
                "The guarantee holds only for the calibrated engine; re-run rrise calibrate."
            )
    return loaded, opened_engine(loaded, data, options)


def require_same(loaded: Bundle | LevelsBundle, of: Bundle | LevelsBundle | None, folder: str | Path) -> None:
    """Raise BundleError if a folder no longer holds the bundle that it held in the parent process."""
    if of is not None and loaded.sha256 != of.sha256:
        raise BundleError(
            f"bundle: expected the bundle with sha256 {of.sha256} that the parent process loaded, got {loaded.sha256} "
            f"in {folder}. Load it anew."
        )


def opened_engine(bundle: Bundle | LevelsBundle, data: bytes, options: EngineOptions) -> Engine:
    """Return the engine of verified bytes, if it is as the bundle says and answers as it did at calibration.

    Raises
    ------
    BundleError
        If it does not.
    ImportError
        If its runtime is not installed.
    """
    spec = bundle.engine
    try:
        opened = open_engine_bytes(data, spec.kind, precision=spec.precision, options=options)
        check_engine(opened, spec)
        if bundle.reference is not None:
            bundle.reference.check(opened)
    except (OSError, ValueError) as error:
        raise _refused(error) from None
    return opened


def _refused(error: Exception) -> BundleError:
    return BundleError(f"bundle: {str(error).removeprefix('engine: ').removeprefix('bundle: ')}")
