"""Certified robustness in one forward pass.

rrise pays the cost of randomized smoothing once, offline: it samples a frozen base classifier under noise, fits a
surrogate of the smoothed class distribution, and calibrates the surrogate's top probability into a lower bound.
Online, :class:`Certifier` turns one forward pass into a label, a lower bound and a certified ℓ2 radius.

>>> import rrise
>>> certifier = rrise.Certifier.load("runs/digits/bundles/scaled")      # doctest: +SKIP
>>> certifier(images).radius                                            # doctest: +SKIP

``import rrise`` loads nothing but the standard library; every public name is loaded when it is first used, so a device
that only certifies never needs torch, scipy, timm or ray.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# From 1.32 on, importing onnxruntime starts a thread that sends usage data. A safety library sends none; and a forked
# child, which lacks that thread, would wait for it for ever when it ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from rrise.audit.auditor import Auditor
    from rrise.audit.fallback import Fallback
    from rrise.calibration.bounds import clopper_pearson
    from rrise.calibration.conformal import Calibration, calibrate
    from rrise.images import ImageSet, load_images
    from rrise.recipe import Recipe, load_recipe, run
    from rrise.runtime.bundle import BundleError
    from rrise.runtime.certificates import ABSTAIN, Certificate, Certificates
    from rrise.runtime.certifier import Certifier
    from rrise.runtime.multi_sigma import ChosenCertificates, MultiSigma
    from rrise.stages.more_passes import MultiPass
    from rrise.targets.sampling import sample_counts

_HOME = {
    "ABSTAIN": "rrise.runtime.certificates",
    "Auditor": "rrise.audit.auditor",
    "BundleError": "rrise.runtime.bundle",
    "Calibration": "rrise.calibration.conformal",
    "Certificate": "rrise.runtime.certificates",
    "Certificates": "rrise.runtime.certificates",
    "Certifier": "rrise.runtime.certifier",
    "ChosenCertificates": "rrise.runtime.multi_sigma",
    "Fallback": "rrise.audit.fallback",
    "ImageSet": "rrise.images",
    "MultiPass": "rrise.stages.more_passes",
    "MultiSigma": "rrise.runtime.multi_sigma",
    "Recipe": "rrise.recipe",
    "calibrate": "rrise.calibration.conformal",
    "clopper_pearson": "rrise.calibration.bounds",
    "load_images": "rrise.images",
    "load_recipe": "rrise.recipe",
    "run": "rrise.recipe",
    "sample_counts": "rrise.targets.sampling",
}

__all__ = [  # include_dir and the keys of _HOME, spelled out for type checkers
    "ABSTAIN",
    "Auditor",
    "BundleError",
    "Calibration",
    "Certificate",
    "Certificates",
    "Certifier",
    "ChosenCertificates",
    "Fallback",
    "ImageSet",
    "MultiPass",
    "MultiSigma",
    "Recipe",
    "calibrate",
    "clopper_pearson",
    "include_dir",
    "load_images",
    "load_recipe",
    "run",
    "sample_counts",
]


def include_dir() -> str:
    """Folder of the C++ headers (``radius.h`` and those it includes), for a compiler's ``-I``.

    Returns
    -------
    str
        Absolute path, in an installed wheel or in a source tree.

    Raises
    ------
    FileNotFoundError
        If the package was installed without them.
    """
    from pathlib import Path

    package = Path(__file__).resolve().parent
    for folder in (package / "include", package.parent / "csrc"):  # of a wheel, of a source tree
        if (folder / "radius.h").is_file():
            return str(folder)
    raise FileNotFoundError(f"headers: expected radius.h in {package / 'include'}, got none. Reinstall rrise.")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from pathlib import Path

        return Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()
    if name not in _HOME:
        raise AttributeError(f"module 'rrise' has no attribute {name!r}; public names are {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except ImportError as error:
        if "_C" in str(error):
            raise ImportError(
                "rrise: the compiled kernel rrise._C is missing. Build it with `pip install .`"
            ) from error
        raise


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
