"""The guarantee among issued certificates alone: curves are tested one after the other, the safest first.

Let a curve be fixed, and call an input certified when the curve exceeds 1/2 at its q. For a certified input with
smoothed probability p and (hypothetical) Clopper-Pearson bound L_new,

    (1 - beta) P[p < L(q) | certified] <= P[L_new < L(q) | certified] = pi.

For given an input whose p lies below the curve, L_new <= p has probability at least 1 - beta, and whether the input is
certified depends on the input alone (docs/theory.md, Theorem 1, given that the input is certified). The right side is
tested: among N certified calibration inputs, given N, the number V with a bound below the curve is Bin(N, pi), and
"pi > gamma" is rejected at level eta when P[Bin(N, gamma) <= V] <= eta. Testing curves in an order fixed beforehand, at
level eta each, until the first that is not rejected, wrongly rejects any with probability at most eta (fixed sequence
testing); so the last rejected one has pi <= gamma with confidence 1 - eta, and errs on at most gamma / (1 - beta).

Sources: Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then test" (2021), theorem 1 and section 4.2; Bauer,
"Multiple testing in clinical trials" (1991).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.curves import Family
from rrise.calibration.guarantees import fewest_images, most_failures

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FLOOR = 0.5 + 2**-30
"""Claims of at most this are withdrawn, so that who is certified does not hang on the last bits of a float64."""
_STEPS = 256


@dataclass(frozen=True)
class Certified:
    """Where the walk stopped.

    Parameters
    ----------
    t : float
        Of the last curve whose test rejected; of the curve that certifies nothing if none did.
    certified : int
        Calibration inputs that it certifies.
    wrong : int
        Those of them whose bound lies below it.
    """

    t: float
    certified: int
    wrong: int


def withdrawn(family: Family) -> Family:
    """Return the family with claims of at most 1/2 + 2^-30 withdrawn: a curve jumps from 0 to more than 1/2."""
    return replace(family, floor=max(family.floor, FLOOR))


def is_certified(knots_q: NDArray[np.float64], knots_p: NDArray[np.float64], q: ArrayLike) -> NDArray[np.bool_]:
    """Return bool[M]: whether a curve of a :func:`withdrawn` family certifies each q; never where q is NaN.

    Such a curve crosses 1/2 between neighbouring float64 numbers only, so the knot at or below q decides.
    """
    x = np.asarray(q, dtype=np.float64)
    left = np.searchsorted(knots_q, np.where(np.isnan(x), 0.0, x), side="right") - 1
    return np.asarray((knots_p[left] > 0.5) & ~np.isnan(x))


def sequence(
    family: Family,
    q: ArrayLike,
    l: ArrayLike,  # noqa: E741
    cap: float,
    *,
    images: int,
    gamma: float,
    eta: float,
) -> NDArray[np.float64]:
    """Return the t's to test, falling, from the profile alone; the order must not depend on calibration inputs.

    The first is the one whose test the profile leads to expect to reject most clearly, were errors twice as many and
    two more: a higher t certifies too few to reject anything, a lower one errs too often.

    Parameters
    ----------
    family : Family
        Of :func:`withdrawn`.
    q, l : float64[N]
        The profile's top probabilities and lower bounds.
    cap : float
        Largest value of a curve.
    images : int
        Calibration inputs to come.
    gamma, eta : float
        Largest share of certified inputs with a bound below the curve; error probability of the tests.

    Raises
    ------
    ValueError
        If so many images cannot reject anything even if all are certified, or the profile has none to certify.
    """
    from scipy.stats import binom

    needed = fewest_images("certified", gamma, eta)
    if images < needed:
        raise ValueError(
            f"calibration: expected at least {needed} images, all certified, for gamma {gamma} at eta {eta}, got "
            f"{images}. Use more, or raise gamma or eta."
        )
    x = np.asarray(q, dtype=np.float64)
    scores = family.scores(x, l, cap)
    # From here on nothing is claimed. Only the order of the tests hangs on these numbers, so rounding is harmless.
    last_claim = np.where(np.isnan(x), 0.0, family.scores(x, np.zeros(x.shape), cap))
    highest = float(last_claim.max(initial=0.0))
    if not highest > 0:
        raise ValueError(
            "profile: expected inputs that the curve would certify, got none. Fit a surrogate whose answers are right "
            "more often than not."
        )
    grid = highest * (1 - np.arange(_STEPS + 1) / _STEPS) ** 2
    claims = last_claim[None, :] > grid[:, None]
    share = images / x.size
    certified = np.floor(claims.sum(axis=1) * share)
    wrong = np.ceil((claims & (scores > grid[:, None])).sum(axis=1) * share)
    start = int(np.argmin(binom.logcdf(2 * wrong + 2, certified, gamma)))
    return np.asarray(grid[start:])


def walk(counts: Iterable[tuple[int, int]], gamma: float, eta: float) -> int:
    """Return how many curves were accepted: tests in the given order stop at the first that does not reject.

    Parameters
    ----------
    counts : iterable of (int, int)
        For each curve, the safest first: certified calibration inputs N, and those of them that are wrong, V. Consumed
        only as far as the walk goes.
    gamma, eta : float
        As for :func:`rrise.calibration.guarantees.most_failures`, which decides each test exactly.
    """
    accepted = 0
    for certified, wrong in counts:
        if certified < 1 or wrong > most_failures(certified, gamma, eta):
            break
        accepted += 1
    return accepted


def certified_threshold(
    family: Family,
    ts: ArrayLike,
    q: ArrayLike,
    l: ArrayLike,  # noqa: E741
    cap: float,
    gamma: float,
    eta: float,
) -> Certified:
    """Return the lowest curve that the walk accepts; with confidence 1 - eta it errs on at most gamma / (1 - beta).

    Parameters
    ----------
    family : Family
        Of :func:`withdrawn`.
    ts : float64[G]
        Falling; from :func:`sequence`, or any other that was fixed beforehand.
    q, l : float64[M]
        The calibration inputs' top probabilities and Clopper-Pearson bounds; independent draws of one source.
    cap, gamma, eta : float
        As for :func:`sequence`.

    Raises
    ------
    ValueError
        If the t's do not fall: from a curve that errs on to a safer one, the first step would spend all of eta.
    """
    grid = np.asarray(ts, dtype=np.float64)
    if grid.size < 1 or not np.all(np.diff(grid) < 0):
        raise ValueError("ts: expected falling numbers, the safest curve first, got others. Sort them downwards.")
    scores = family.scores(q, l, cap)
    seen: list[tuple[int, int]] = []

    def counted() -> Iterable[tuple[int, int]]:
        for t in grid.tolist():
            claims = is_certified(*family.at(t, cap), q)
            seen.append((int(claims.sum()), int((claims & (scores > t)).sum())))
            yield seen[-1]

    accepted = walk(counted(), gamma, eta)
    if not accepted:
        return Certified(_silent(family), 0, 0)
    return Certified(float(grid[accepted - 1]), *seen[accepted - 1])


def _silent(family: Family) -> float:
    """Return a t at which the curve claims nothing."""
    return float(np.max(np.maximum(family.h - family.floor, 0.0) / family.u)) * (1 + 1e-12)
