"""Engines: the deployable network behind one protocol (`protocol`), one file for each runtime that executes it."""

from __future__ import annotations

from rrise.runtime.engines.protocol import Engine, EngineSpec, open_engine

__all__ = ["Engine", "EngineSpec", "open_engine"]
