"""What every certifier made of a bundle is: the bundle's facts, and its engine in whichever process asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from rrise.runtime.engines.process import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from rrise.runtime.bundle_schema import Bundle
    from rrise.runtime.engines.protocol import Engine
    from rrise.runtime.levels_schema import LevelsBundle

Kind = TypeVar("Kind", bound="Bundle | LevelsBundle")


class Served(Generic[Kind]):
    """A verified bundle and its engine.

    Parameters
    ----------
    bundle : Bundle or LevelsBundle
    engine : Engine
        The bundle's.
    reopen : callable, optional
        Opens the engine again, for a forked child.
    """

    def __init__(self, bundle: Kind, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._bundle = bundle
        self._engine = ProcessEngine(engine, reopen)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"certifier: expected to be loaded in each process, got a {type(self).__name__} to pickle. Hand on the "
            "bundle's folder, and load it there."
        )

    @property
    def bundle(self) -> Kind:
        """The bundle, with its calibration and provenance."""
        return self._bundle

    @property
    def engine(self) -> Engine:
        """The engine that runs."""
        return self._engine()

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
        """What is guaranteed, in words."""
        return self._bundle.statement
