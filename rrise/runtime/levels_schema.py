"""What bundle.json holds where one engine serves several noise levels.

A format of its own, so that nobody who knows one sigma only can take it for a bundle of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rrise.class_names import is_line
from rrise.runtime.bundle_schema import DOCUMENT, SIGNATURE, Curve, digest
from rrise.runtime.calibration_record import CalibrationRecord
from rrise.runtime.documents import Fields
from rrise.runtime.engines.spec import EngineSpec
from rrise.runtime.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "rrise-levels/1"


@dataclass(frozen=True, eq=False)
class LevelsBundle:
    """Everything that the bundle.json of several noise levels says, checked.

    Parameters
    ----------
    engine : EngineSpec
        Of S K logits; its ``sigmas`` are the S noise levels, in [0,1] pixel units, rising.
    curves : tuple of S Curves
        From the top probability at each sigma to the lower bound there.
    calibration : CalibrationRecord
        What the curves share; beta is that of each bound, the score of an input is the largest of its S.
    statement, limits, provenance, sha256, reference
        As in :class:`rrise.runtime.bundle_schema.Bundle`.
    """

    engine: EngineSpec
    curves: tuple[Curve, ...]
    calibration: CalibrationRecord
    statement: str
    limits: str
    provenance: Mapping[str, Any]
    sha256: str
    reference: Reference

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, in [0,1] pixel units, rising."""
        return self.engine.sigmas

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> LevelsBundle:
        """Return the bundle that the members of a bundle.json make, or raise ValueError naming the one at fault."""
        fields = Fields(content, "bundle", "Re-run rrise calibrate.")
        fields.value("format", str, repr(FORMAT), lambda name: name == FORMAT)
        own = digest(content)
        fields.value("sha256", str, f"its content's, {own}", lambda recorded: recorded == own)
        members = "calibration curves engine format limits provenance reference sha256 statement"
        fields.exactly(*members.split())
        section = fields.section("engine")
        members = "classes file gpu input_shape kind num_classes onnx_sha256 precision sha256 sigmas"
        section.exactly(*members.split())
        engine = EngineSpec.parse(section)
        if engine.file.casefold() in (DOCUMENT, SIGNATURE):
            section.refuse("file", f"another file than {DOCUMENT} and {SIGNATURE}")
        section = fields.section("calibration")
        calibration = CalibrationRecord.parse(section, engine.num_classes, True)
        if calibration.bins or calibration.guarantee == "certified":
            section.refuse("guarantee", "marginal or training-conditional, without bins, for several sigma")
        levels = len(engine.sigmas)
        rows = fields.values("curves", dict, f"{levels} objects, one for each of engine.sigmas", lambda _: True)
        if len(rows) != levels:
            fields.refuse("curves", f"{levels} objects, one for each of engine.sigmas")
        # The factor allows for the rounding of the power itself.
        cap = min(1.0, calibration.beta ** (1 / calibration.n) * (1 + 4 * 2.0**-52))
        curves = []
        for place, row in enumerate(rows):
            section = Fields(row, fields.thing, fields.advice, f"curves[{place}].")
            curves.append(Curve.parse(section))
            if curves[-1].knots_p.max() > cap:
                section.refuse("knots_p", f"at most beta^(1/n) = {cap}")
        return cls(
            engine=engine,
            curves=tuple(curves),
            calibration=calibration,
            statement=fields.value("statement", str, "a sentence of one line", is_line),
            limits=fields.value("limits", str, "a sentence of one line", is_line),
            provenance=fields.section("provenance").content,
            sha256=own,
            reference=Reference.parse(fields.section("reference"), engine.outputs),
        )
