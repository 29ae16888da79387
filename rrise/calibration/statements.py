"""What a calibration guarantees, in words made from its own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rrise.calibration.guarantees import CERTIFIED, MARGINAL, exact

if TYPE_CHECKING:
    from fractions import Fraction

    from rrise.calibration.joint import JointCalibration
    from rrise.calibration.record import Calibration

_CLAIM = "the noise-smoothed classifier g gives the returned label less than the returned lower bound"
_MOST_PRIORS = 12


class Scoped(Protocol):
    """What the conditions of a guarantee are made of: a calibration, or the record of it in a bundle."""

    @property
    def guarantee(self) -> str: ...  # noqa: D102
    @property
    def eta(self) -> float: ...  # noqa: D102
    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def priors(self) -> tuple[float, ...]: ...  # noqa: D102


def describe(calibration: Calibration) -> str:
    """Return what a calibration guarantees, in two sentences with its numbers: the claim, then how it was reached.

    What the claim is not about stands beside it wherever it is shown (``limits`` of a bundle).
    """
    c = calibration
    others = "for all others whose bound exceeds 1/2, the label is g's own and g keeps it within the returned radius"
    largest = float(c.knots_p.max())
    reach = f"the largest bound is {largest:.6g}" if largest > 0.5 else "it certifies nothing, for no bound exceeds 1/2"
    eta = "" if c.guarantee == MARGINAL else f", eta = {c.eta:g}"
    return (
        f"{_scope(c)} {_CLAIM}; {others}. This is a {c.guarantee} guarantee with beta = {c.beta:g}, gamma = "
        f"{c.gamma:g}{eta}, from n = {c.n} noisy draws an input; {_reached(c)}; {reach}."
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
        f"within the returned radius. This is a {c.guarantee} guarantee with beta = {c.beta:g} (shared evenly by the "
        f"{len(c.sigmas)} bounds of an input), gamma = {c.gamma:g}{eta}, from n = {c.n} noisy draws an input and "
        f"sigma; {c.curve} curves at rank {c.rank} of {c.images}{_weighted(c)}, t = {c.t:.6g}; the largest bounds "
        f"are {reach}."
    )


def among_certified(error: float, certified: int, images: int) -> str:
    """Return what a guarantee over all inputs says of certified ones alone, (beta + gamma) / P(certified), in words.

    The share certified is that of the calibration inputs, an estimate. Not for the guarantee "certified", which is
    about certified inputs already.

    >>> among_certified(0.05, 400, 500)  # doctest: +NORMALIZE_WHITESPACE
    'Among certified inputs alone: at most about 6.25% can be wrong, 5% divided by the 80% of calibration inputs
    that are certified (400 of 500).'
    """
    share = certified / images
    if error >= share:
        return (
            f"Among certified inputs alone it promises nothing: {100 * error:.4g}% may be wrong, and "
            f"{100 * share:.4g}% of calibration inputs are certified ({certified} of {images})."
        )
    return (
        f"Among certified inputs alone: at most about {100 * error / share:.4g}% can be wrong, {100 * error:.4g}% "
        f"divided by the {100 * share:.4g}% of calibration inputs that are certified ({certified} of {images})."
    )


def _scope(c: Calibration | JointCalibration) -> str:
    return scope(c, exact("beta", c.beta) + exact("gamma", c.gamma))


def scope(c: Scoped, error: Fraction, *, of_all: bool = False) -> str:
    """Return under which conditions at most ``error`` is wrong, and of what, up to the word "that".

    Of all inputs, if ``of_all``, also where the guarantee is one of issued certificates alone, which implies that.
    """
    wrong = f"at most {100 * float(error):.6g}%"
    inputs = f"the {c.images} calibration inputs"
    if c.guarantee == MARGINAL:
        if c.priors:
            return (
                "On average over calibration sets, if class frequencies in service are exactly the given priors and "
                f"images within a class are unchanged, exchangeable with those of the class among {inputs}, a new "
                f"input has a chance of {wrong} that"
            )
        within = f", whichever of the curve's {_bins(c)} bins of q it falls in," if _bins(c) else ""
        return (
            f"On average over calibration sets, a new input exchangeable with {inputs}{within} has a chance of {wrong} "
            "that"
        )
    sure = f"With confidence {float(1 - exact('eta', c.eta)):.6g} over the draw of {inputs}, {wrong} of"
    if c.guarantee == CERTIFIED and not of_all:
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
    return f"{c.curve} curve at rank {c.rank} of {c.images}{_weighted(c)}, t = {c.t:.6g}"


def _bins(c: Scoped) -> int:
    return len(getattr(c, "bins", ()))


def _weighted(c: Calibration | JointCalibration) -> str:
    if not c.priors:
        return ""
    shown = ", ".join(f"{p:g}" for p in c.priors[:_MOST_PRIORS])
    more = f" and {len(c.priors) - _MOST_PRIORS} more" if len(c.priors) > _MOST_PRIORS else ""
    return f", inputs weighted for priors {shown}{more} (worth {c.effective:.1f} inputs of one weight)"
