"""What a calibration guarantees, in words made from its own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rrise.calibration.guarantees import CERTIFIED, MARGINAL, exact, smallest_share
from rrise.promise import decimal, percent

if TYPE_CHECKING:
    from rrise.calibration.joint import JointCalibration
    from rrise.calibration.record import Calibration

_CLAIM = "the noise-smoothed classifier g gives the returned label less than the returned lower bound"
_MOST_PRIORS = 12
DOUBT = 0.01
"""Error probability of the bound on the share of inputs that a curve certifies."""


class Facts(Protocol):
    """What a sentence about a guarantee needs of a calibration, new or read from a bundle."""

    @property
    def guarantee(self) -> str: ...  # noqa: D102
    @property
    def eta(self) -> float: ...  # noqa: D102
    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def error(self) -> float: ...  # noqa: D102
    @property
    def priors(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def effective(self) -> float | None: ...  # noqa: D102


def describe(calibration: Calibration) -> str:
    """Return what a calibration guarantees, in two sentences with its numbers: the claim, then how it was reached.

    What the claim is not about stands beside it wherever it is shown (``limits`` of a bundle).
    """
    c = calibration
    others = "for all others whose bound exceeds 1/2, the label is g's own and g keeps it within the returned radius"
    largest = float(c.knots_p.max())
    reach = f"the largest bound is {largest:.6g}" if largest > 0.5 else "it certifies nothing, for no bound exceeds 1/2"
    eta = "" if c.guarantee == MARGINAL else f", eta = {c.eta:g}"
    rule = "beta + gamma" if c.shared_draws else "gamma / (1 - beta)"
    return (
        f"{_scope(c)} {_CLAIM}; {others}. This is a {c.guarantee} guarantee with beta = {c.beta:g}, gamma = "
        f"{c.gamma:g}{eta} and the promise {rule}, from n = {c.n} noisy draws an input; {_reached(c)}; {reach}."
    )


def describe_joint(calibration: JointCalibration) -> str:
    """Return what curves of several sigma guarantee together, as :func:`describe` does for one."""
    c = calibration
    sigmas = ", ".join(f"{sigma:g}" for sigma in c.sigmas)
    eta = "" if c.guarantee == MARGINAL else f", eta = {c.eta:g}"
    reach = ", ".join(f"{max(knots_p):.6g}" for _, knots_p in c.curves)
    return (
        f"{_scope(c)} at one or more of sigma = {sigmas} the noise-smoothed classifier g of that sigma gives the label "
        "returned for it less than the lower bound returned for it; for all others every bound is right, and so is the "
        "one of the largest radius: where it exceeds 1/2, the label is that of g at the returned sigma, and g keeps it "
        f"within the returned radius. This is a {c.guarantee} guarantee with beta = {c.beta:g} (of each of the "
        f"{len(c.sigmas)} bounds of an input), gamma = {c.gamma:g}{eta} and the promise gamma / (1 - beta), from "
        f"n = {c.n} noisy draws an input and sigma; {c.curve} curves at rank {c.rank} of {c.images}{weighted(c)}, "
        f"t = {c.t:.6g}; the largest bounds are {reach}."
    )


def among_certified(error: float, certified: int, images: int) -> str:
    """Return what a guarantee over all inputs says of certified ones alone, promise / P(certified), in words.

    P(certified) is bounded from below by the calibration inputs, with confidence 0.99 whichever curve they chose. Not
    for the guarantee "certified", which is about certified inputs already, nor for bins, each with a curve of its own.

    Notes
    -----
    The curves of a family certify nested sets of inputs. Let C be the union of those sets that an input is in with
    probability below c. If a curve that certifies j calibration inputs is among them, then C holds j of the M or more,
    and P[Bin(M, P(C)) >= j] <= P[Bin(M, c) >= j]. With c the Clopper-Pearson bound of j of M at level 0.01 / M that is
    0.01 / M, and 0.01 for all j together (docs/theory.md, section "Among certified inputs").

    >>> among_certified(0.05, 400, 500)  # doctest: +NORMALIZE_WHITESPACE
    'Among certified inputs alone: at most 6.955% can be wrong, 5% divided by the 71.9% of inputs or more that the
    curve certifies, with confidence 0.99 (400 of the 500 calibration inputs).'
    """
    share = smallest_share(certified, images, decimal(DOUBT) / images)
    counted = f"with confidence {1 - DOUBT:g} ({certified} of the {images} calibration inputs)"
    shown = f"{float(100 * share):.4g}% of inputs or more that the curve certifies, {counted}"
    if decimal(error) >= share:
        return f"Among certified inputs alone it promises nothing: {percent(error)} may be wrong, of the {shown}."
    return (
        f"Among certified inputs alone: at most {percent(decimal(error) / share)} can be wrong, {percent(error)} "
        f"divided by the {shown}."
    )


def one_input(c: Facts) -> str:
    """Return the beginning of a sentence about one new input: on what conditions a guarantee speaks of it."""
    inputs = f"the {c.images} calibration inputs"
    if c.guarantee != MARGINAL:
        return f"{_sure(c)}, a new input drawn independently from their source"
    if c.priors:
        return (
            "On average over calibration sets, if class frequencies in service are exactly the given priors and images "
            f"within a class are unchanged, exchangeable with those of the class among {inputs}, a new input"
        )
    return f"On average over calibration sets, a new input exchangeable with {inputs}"


def _sure(c: Facts) -> str:
    confidence = float(1 - exact("eta", c.eta))
    return f"With confidence {confidence:.6g} over the draw of the {c.images} calibration inputs"


def _scope(c: Calibration | JointCalibration) -> str:
    wrong = f"at most {percent(c.error)}"
    if c.guarantee == MARGINAL:
        within = f", whichever of the curve's {_bins(c)} bins of q it falls in," if _bins(c) else ""
        return f"{one_input(c)}{within} has a chance of {wrong} that"
    sure = f"{_sure(c)}, {wrong} of"
    if c.guarantee == CERTIFIED:
        return f"{sure} the certificates issued for new inputs drawn independently from their source are such that"
    within = f" within each of the curve's {_bins(c)} bins of q at once" if _bins(c) else ""
    return f"{sure} new inputs drawn independently from their source{within} are such that"


def _reached(c: Calibration) -> str:
    if c.bins:
        bins = ", ".join(f"from q = {b.start:.6g} rank {b.rank} of {b.images}, t = {b.t:.6g}" for b in c.bins)
        return f"{c.curve} curve: {bins}"
    if c.guarantee == CERTIFIED:
        return (
            f"{c.curve} curve at t = {c.t:.6g}, the lowest of a fixed sequence, which certifies {c.certified} of "
            f"{c.images} calibration inputs, {c.images - c.rank} of them above their own bound"
        )
    return f"{c.curve} curve at rank {c.rank} of {c.images}{weighted(c)}, t = {c.t:.6g}"


def _bins(c: Calibration | JointCalibration) -> int:
    return len(getattr(c, "bins", ()))


def weighted(c: Facts) -> str:
    """Return a clause that says for which priors the calibration inputs were weighted; empty if for none."""
    if not c.priors:
        return ""
    shown = ", ".join(f"{p:g}" for p in c.priors[:_MOST_PRIORS])
    more = f" and {len(c.priors) - _MOST_PRIORS} more" if len(c.priors) > _MOST_PRIORS else ""
    return f", inputs weighted for priors {shown}{more} (worth {c.effective:.1f} inputs of one weight)"
