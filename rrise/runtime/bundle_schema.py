"""What bundle.json holds, as frozen objects; each comes into being only through `parse`, which checks every field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rrise.class_names import is_line
from rrise.runtime.calibration_record import CalibrationRecord
from rrise.runtime.documents import Fields, canonical_json, sha256_of
from rrise.runtime.engines.spec import EngineSpec, is_plain_name
from rrise.runtime.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FORMAT = "rrise-bundle/2"
EARLIER = "rrise-bundle/1"
"""The version before, still read: it records no ONNX file, no GPU and no reference answers."""
DOCUMENT = "bundle.json"
SIGNATURE = "bundle.sig"


@dataclass(frozen=True, eq=False)
class Curve:
    """The calibration curve: piecewise linear from the surrogate's top probability q to the lower bound p.

    Parameters
    ----------
    family : str
        How the curve was parametrised; the runtime evaluates any.
    knots_q : float64[J]
        Strictly increasing from 0 to 1; read-only.
    knots_p : float64[J]
        Bounds at the knots, in [0, beta^(1/n)]; read-only.
    """

    family: str
    knots_q: NDArray[np.float64]
    knots_p: NDArray[np.float64]

    @classmethod
    def parse(cls, fields: Fields) -> Curve:
        """Return the curve that the fields hold, or raise ValueError naming the field."""
        fields.exactly("family", "knots_p", "knots_q")
        rising = "at least 2 numbers, strictly increasing from 0.0 to 1.0"
        q = fields.values("knots_q", float, rising, math.isfinite)
        if len(q) < 2 or q[0] != 0.0 or q[-1] != 1.0 or any(a >= b for a, b in pairwise(q)):
            fields.refuse("knots_q", rising)
        bounds = f"{len(q)} numbers in [0,1], one for each of knots_q"
        p = fields.values("knots_p", float, bounds, lambda p: 0.0 <= p <= 1.0)
        if len(p) != len(q):
            fields.refuse("knots_p", bounds)
        return cls(fields.value("family", str, "the name of a curve family", is_plain_name), _frozen(q), _frozen(p))


@dataclass(frozen=True)
class ExtraPasses:
    """The curve is not one of q but of q_m = (kappa q + k) / (kappa + m), k of m noisy passes agreeing with the label.

    Parameters
    ----------
    m : int
        Noisy passes of the base classifier that a certificate takes beside the surrogate's own.
    kappa : float
        For how many of them the surrogate's q counts.
    """

    m: int
    kappa: float

    @classmethod
    def parse(cls, fields: Fields) -> ExtraPasses:
        """Return the numbers that the fields hold, or raise ValueError naming the field."""
        fields.exactly("kappa", "m")
        return cls(
            m=fields.value("m", int, "an integer of at least 1", lambda m: 1 <= m < 1 << 32),
            kappa=fields.value("kappa", float, "a finite number above 0", lambda kappa: 0.0 < kappa < math.inf),
        )


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything that bundle.json says, checked; its engine file had the recorded sha256 when it was read.

    Parameters
    ----------
    engine : EngineSpec
        The engine file that the calibration holds for.
    sigma : float
        Standard deviation of the smoothing noise, in [0,1] pixel units.
    curve : Curve
        From the engine's top probability to the lower bound.
    calibration : CalibrationRecord
        How the curve was found.
    statement : str
        What is guaranteed, in one sentence.
    limits : str
        What is not.
    provenance : dict
        Hashes, seeds and versions of everything the bundle was made from; recorded, not interpreted.
    sha256 : str
        SHA-256 of the canonical bundle.json without this member: the identity of the bundle.
    reference : Reference or None
        What the engine answered at calibration, asked again at loading; None in a bundle of the earlier version.
    extra_passes : ExtraPasses or None
        What the curve asks for beside q; None is a curve of q alone, the only kind that `Certifier` takes.
    """

    engine: EngineSpec
    sigma: float
    curve: Curve
    calibration: CalibrationRecord
    statement: str
    limits: str
    provenance: Mapping[str, Any]
    sha256: str
    reference: Reference | None = None
    extra_passes: ExtraPasses | None = None

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Bundle:
        """Return the bundle that the members of a bundle.json make, or raise ValueError naming the one at fault."""
        fields = Fields(content, "bundle", "Re-run rrise calibrate.")
        versions = (FORMAT, EARLIER)
        version = fields.value("format", str, f"{FORMAT!r}, or the earlier {EARLIER!r}", lambda name: name in versions)
        own = digest(content)
        fields.value("sha256", str, f"its content's, {own}", lambda recorded: recorded == own)
        newer = version != EARLIER
        extra = newer and "extra_passes" in content
        members = "calibration curve engine format limits provenance sha256 sigma statement"
        fields.exactly(*members.split(), *(["reference"] if newer else []), *(["extra_passes"] if extra else []))
        section = fields.section("engine")
        members = "classes file input_shape kind num_classes precision sha256"
        section.exactly(*members.split(), *(["gpu", "onnx_sha256"] if newer else []))
        engine = EngineSpec.parse(section)
        if engine.file.casefold() in (DOCUMENT, SIGNATURE):
            section.refuse("file", f"another file than {DOCUMENT} and {SIGNATURE}")
        section = fields.section("curve")
        curve = Curve.parse(section)
        calibration = CalibrationRecord.parse(fields.section("calibration"), engine.num_classes, newer, extra)
        # n draws cannot support more than beta^(1/n); the factor allows for the rounding of the power itself.
        cap = min(1.0, calibration.beta ** (1 / calibration.n) * (1 + 4 * np.finfo(np.float64).eps))
        if curve.knots_p.max() > cap:
            section.refuse("knots_p", f"at most beta^(1/n) = {cap}")
        return cls(
            engine=engine,
            sigma=fields.value("sigma", float, "a finite number above 0", lambda sigma: 0.0 < sigma < math.inf),
            curve=curve,
            calibration=calibration,
            statement=fields.value("statement", str, "a sentence of one line", is_line),
            limits=fields.value("limits", str, "a sentence of one line", is_line),
            provenance=fields.section("provenance").content,
            sha256=own,
            reference=Reference.parse(fields.section("reference"), engine.num_classes) if newer else None,
            extra_passes=ExtraPasses.parse(fields.section("extra_passes")) if extra else None,
        )


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical content without its member sha256."""
    return sha256_of(canonical_json({k: v for k, v in content.items() if k != "sha256"}, "bundle"))


def _frozen(values: tuple[float, ...]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array
