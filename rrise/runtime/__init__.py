"""The part of rrise that runs on a device: it needs numpy, the compiled kernel and one engine runtime, nothing else.

Key modules: `certifier` (images -> certificates), `bundle` (the format), `bundle_schema` (its fields), `multi_sigma`
(several noise levels), `engines` (networks that run), `images` (what counts as an image), `certificates` (the answer),
`documents` (strict files), `signature` (who made a bundle).
"""

from __future__ import annotations

from rrise.runtime.bundle import BundleError, load_bundle
from rrise.runtime.bundle_schema import Bundle
from rrise.runtime.bundle_writing import save_bundle
from rrise.runtime.certificates import ABSTAIN, Certificate, Certificates
from rrise.runtime.certifier import Certifier
from rrise.runtime.engines import Engine, EngineOptions, open_engine
from rrise.runtime.images import prepare_images
from rrise.runtime.levels_schema import LevelsBundle
from rrise.runtime.multi_sigma import ChosenCertificates, MultiSigma
from rrise.runtime.signing import sign_bundle

__all__ = [
    "ABSTAIN",
    "Bundle",
    "BundleError",
    "Certificate",
    "Certificates",
    "Certifier",
    "ChosenCertificates",
    "Engine",
    "EngineOptions",
    "LevelsBundle",
    "MultiSigma",
    "load_bundle",
    "open_engine",
    "prepare_images",
    "save_bundle",
    "sign_bundle",
]
