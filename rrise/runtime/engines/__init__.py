"""Engines: the deployable network behind one protocol (`protocol`), one file for each runtime that executes it."""

from __future__ import annotations

from rrise.runtime.engines.opening import open_engine
from rrise.runtime.engines.protocol import Engine, EngineOptions
from rrise.runtime.engines.spec import EngineSpec

__all__ = ["Engine", "EngineOptions", "EngineSpec", "open_engine"]
