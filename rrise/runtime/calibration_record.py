"""The facts behind a bundle's curve, as frozen objects that come into being only through `parse`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rrise.promise import promise, rounded_up
from rrise.runtime.documents import Fields

GUARANTEES = ("marginal", "training-conditional", "certified")
_MEMBERS = ("beta", "eta", "gamma", "guarantee", "images", "n", "rank", "t")
_OPTIONAL = ("bins", "certified", "effective", "priors")


@dataclass(frozen=True)
class BinRecord:
    """What calibration found among the images with q from ``start`` up to the next bin.

    Parameters
    ----------
    start : float
        Smallest q of the bin, in [0,1).
    images : int
        Calibration images in the bin.
    rank : int
        Which of their sorted scores was taken, 1 to ``images``.
    t : float
        That score.
    """

    start: float
    images: int
    rank: int
    t: float

    @classmethod
    def parse(cls, fields: Fields, after: float, most: int) -> BinRecord:
        """Return the bin that the fields hold: it begins above ``after`` and has at most so many images."""
        fields.exactly("images", "rank", "start", "t")
        images = fields.value("images", int, f"an integer from 1 to {most}", lambda images: 1 <= images <= most)
        return cls(
            fields.value("start", float, f"a number in [0,1) above {after}", lambda q: 0.0 <= q < 1.0 and q > after),
            images,
            fields.value("rank", int, f"an integer from 1 to images = {images}", lambda rank: 1 <= rank <= images),
            fields.value("t", float, "a finite number", math.isfinite),
        )


@dataclass(frozen=True)
class CalibrationRecord:
    """The facts behind the curve.

    Parameters
    ----------
    guarantee : str
        "marginal", "training-conditional" or "certified".
    beta : float
        Share of wrong Clopper-Pearson bounds allowed at each calibration image, in (0,1).
    gamma : float
        Share of future inputs whose bound is allowed below the curve, in (0,1); gamma / (1 - beta) < 1.
    eta : float
        Chance that an unlucky calibration draw breaks the guarantee, in (0,1); unused if marginal.
    n : int
        Noisy evaluations of the base classifier at each calibration image.
    images : int
        Calibration images, M.
    rank : int
        Which of the M sorted scores was taken, 1 to M; with bins, the sum of theirs; if the guarantee is "certified",
        M less the images that are certified above their own bound.
    t : float
        That score, or the largest of the bins; how far the curve was lowered.
    certified : int or None
        Calibration images that the curve certifies; None where it was not recorded.
    bins : tuple of BinRecord
        Of a curve whose guarantee holds inside each bin of q, in rising order; otherwise none.
    priors : tuple of float
        Class frequencies that the calibration images were weighted for; none if they were not.
    effective : float or None
        Effective number of images under those weights; None without.
    shared_draws : bool
        Whether scores are made from some of the draws that the bounds count: a bundle of more passes.
    """

    guarantee: str
    beta: float
    gamma: float
    eta: float
    n: int
    images: int
    rank: int
    t: float
    certified: int | None = None
    bins: tuple[BinRecord, ...] = ()
    priors: tuple[float, ...] = ()
    effective: float | None = None
    shared_draws: bool = False

    @property
    def error(self) -> float:
        """Share of wrong bounds that the guarantee allows, :func:`rrise.promise.promise` rounded up."""
        return rounded_up(promise(self.beta, self.gamma, shared_draws=self.shared_draws))

    @classmethod
    def parse(
        cls, fields: Fields, num_classes: int, newer: bool = True, shared_draws: bool = False
    ) -> CalibrationRecord:
        """Return the record that the fields hold, or raise ValueError naming the field.

        ``shared_draws`` is what the bundle says outside of them. Only a ``newer`` bundle than version 1 may hold the
        members that have a default above, each of them or none.
        """
        fields.exactly(*_MEMBERS, optional=_OPTIONAL if newer else ())
        guarantee = fields.value("guarantee", str, f"one of {', '.join(GUARANTEES)}", lambda name: name in GUARANTEES)
        beta = fields.value("beta", float, "a number between 0 and 1", lambda beta: 0.0 < beta < 1.0)
        gamma = fields.value(
            "gamma",
            float,
            f"a number between 0 and 1 - beta = {1 - beta}",
            lambda g: 0.0 < g < 1.0 and promise(beta, g) < 1,
        )
        if guarantee == "marginal":
            eta = fields.value("eta", float, "a number in [0,1)", lambda eta: 0.0 <= eta < 1.0)
        else:
            eta = fields.value("eta", float, "a number between 0 and 1", lambda eta: 0.0 < eta < 1.0)
        images = fields.value("images", int, "an integer of at least 1", lambda images: 1 <= images < 1 << 63)
        priors = _priors(fields, num_classes)
        return cls(
            guarantee,
            beta,
            gamma,
            eta,
            n=fields.value("n", int, "an integer of at least 1", lambda n: 1 <= n < 1 << 63),
            images=images,
            rank=fields.value("rank", int, f"an integer from 1 to images = {images}", lambda rank: 1 <= rank <= images),
            t=fields.value("t", float, "a finite number", math.isfinite),
            certified=_certified(fields, images),
            bins=_bins(fields, images),
            priors=priors,
            effective=_effective(fields, images, bool(priors)),
            shared_draws=shared_draws,
        )


def _certified(fields: Fields, images: int) -> int | None:
    if "certified" not in fields.content:
        return None
    return fields.value("certified", int, f"an integer from 0 to images = {images}", lambda c: 0 <= c <= images)


def _bins(fields: Fields, images: int) -> tuple[BinRecord, ...]:
    if "bins" not in fields.content:
        return ()
    bins: list[BinRecord] = []
    after, left = -1.0, images
    for place, row in enumerate(fields.values("bins", dict, "a list of objects", lambda _: True)):
        section = Fields(row, fields.thing, fields.advice, f"{fields.prefix}bins[{place}].")
        bins.append(BinRecord.parse(section, after, left))
        after, left = bins[-1].start, left - bins[-1].images
    return tuple(bins) or fields.refuse("bins", "a list of at least one object")


def _priors(fields: Fields, num_classes: int) -> tuple[float, ...]:
    if "priors" not in fields.content:
        return ()
    expected = f"{num_classes} numbers in [0,1] that sum to 1"
    priors = fields.values("priors", float, expected, lambda p: 0.0 <= p <= 1.0)
    if len(priors) != num_classes or abs(math.fsum(priors) - 1) > 2e-6:
        fields.refuse("priors", expected)
    return priors


def _effective(fields: Fields, images: int, weighted: bool) -> float | None:
    if not weighted and "effective" not in fields.content:
        return None
    most = images * (1 + 1e-9)  # all of one weight, and the rounding of the sums
    expected = f"a number from 1 to images = {images}, beside priors only"
    return fields.value("effective", float, expected, lambda size: weighted and 1 - 1e-9 <= size <= most)
