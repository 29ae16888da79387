"""The part of rrise that runs on a device: it needs numpy, the compiled kernel and one engine runtime, nothing else.

Key modules: `certifier` (images -> certificates), `bundle` (the format), `bundle_schema` (its fields), `engines`
(networks that run), `images` (what counts as an image), `certificates` (the answer), `documents` (strict files),
`signature` (who made a bundle).
"""

from __future__ import annotations

from rrise.runtime.bundle import BundleError, load_bundle, save_bundle
from rrise.runtime.bundle_schema import Bundle
from rrise.runtime.certificates import ABSTAIN, Certificate, Certificates
from rrise.runtime.certifier import Certifier
from rrise.runtime.engines import Engine, EngineOptions, open_engine
from rrise.runtime.images import prepare_images
from rrise.runtime.signing import sign_bundle

__all__ = [
    "ABSTAIN",
    "Bundle",
    "BundleError",
    "Certificate",
    "Certificates",
    "Certifier",
    "Engine",
    "EngineOptions",
    "load_bundle",
    "open_engine",
    "prepare_images",
    "save_bundle",
    "sign_bundle",
]
