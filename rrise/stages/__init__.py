"""The stages: each reads its artifacts, calls one room of the package, and writes one artifact.

Here, in ``recipe.py`` and on the command line do the rooms meet. Each function returns one line that says what it made.
"""

from __future__ import annotations

from rrise.images import load_splits
from rrise.stages.attack import attack
from rrise.stages.build import fit, sample, train
from rrise.stages.calibrate import DEPLOYED, calibrate
from rrise.stages.calibrate_levels import calibrate_levels
from rrise.stages.engines import engines
from rrise.stages.evaluate import evaluate
from rrise.stages.export import export
from rrise.stages.plan import plan
from rrise.stages.selftest import selftest

__all__ = [
    "DEPLOYED",
    "attack",
    "calibrate",
    "calibrate_levels",
    "engines",
    "evaluate",
    "export",
    "fit",
    "load_splits",
    "plan",
    "sample",
    "selftest",
    "train",
]
