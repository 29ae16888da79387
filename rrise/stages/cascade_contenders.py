"""Who is compared when Monte Carlo certifies what the surrogate leaves undecided, at the same promise in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rrise.stages.contenders import ADAPTIVE, FIXED, answered, unit_of
from rrise.stages.first_stage import monte_carlo_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.evaluation.contender import Contender
    from rrise.evaluation.settings import EvaluateConfig
    from rrise.images import ImageSet
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.certifier import Certifier
    from rrise.targets.settings import SampleConfig

_THINNING = 5
"""Second part of the seed by which draws are put in an order; the first is that of the noise."""


def cascade_contenders(
    first: Certifier,
    images: ImageSet,
    selection: NDArray[np.int64],
    estimation: NDArray[np.int64],
    config: EvaluateConfig,
    base: SampleConfig,
) -> list[Contender]:
    """Return the certificates of the test images by a cascade with fixed budget (B1), and with adaptive stopping (B3).

    Parameters
    ----------
    first : Certifier
        Of the first stage's bundle.
    selection, estimation : int64[B, K]
        Class counts of two streams, as for :func:`rrise.stages.contenders.monte_carlo`.
    """
    from rrise.evaluation.baselines import cohen_select
    from rrise.evaluation.cascade import cascade_adaptive, cascade_fixed
    from rrise.evaluation.thinning import in_order

    alpha, (unit, most) = monte_carlo_alpha(first.bundle), unit_of(base)
    answers, label = answered(first, images)
    guess, looks = cohen_select(selection), np.arange(unit, most + 1, unit)
    rng = np.random.default_rng([base.seed, _THINNING])
    k = in_order(estimation[np.arange(len(guess)), guess], base.n, looks, rng)
    same = {"alpha": alpha, "sigma": base.sigma, "wanted": config.wanted}
    fixed = cascade_fixed(answers, selection, estimation, **same)
    adaptive = cascade_adaptive(answers, selection, k, looks, tolerance=config.tolerance, **same)
    pilot = f"{int(selection[0].sum()):,} draws pick the class"

    def contender(name: str, draws: str, found: tuple[Certificates, NDArray[np.bool_]]) -> Contender:
        return _contender(f"cascade, {name}", first, *found, np.where(found[1], guess, label), draws, config.wanted)

    return [
        contender(FIXED, f"{pilot}, {base.n:,} others bound it", fixed),
        contender(
            ADAPTIVE,
            f"{pilot}, others bound it, {most:,} at most, looked at every {unit:,} until the radius is known to "
            f"{config.tolerance:g}",
            adaptive,
        ),
    ]


def _contender(
    name: str,
    first: Certifier,
    certificates: Certificates,
    replaced: NDArray[np.bool_],
    predicted: NDArray[np.int64],
    draws: str,
    wanted: float,
) -> Contender:
    from rrise.calibration.cascade import describe_cascade
    from rrise.evaluation.contender import CASCADE, Contender
    from rrise.stages.first_stage import cascade_alpha

    chosen, total = int(np.count_nonzero(certificates.evaluations)), cascade_alpha(first.bundle)
    assert total is not None
    below = f" and where the radius is below {wanted:g}" if wanted else ""
    said = describe_cascade(first.bundle.calibration, monte_carlo_alpha(first.bundle), chosen, len(certificates))
    return Contender(
        name,
        certificates,
        predicted,
        total,
        f"{said} To Monte Carlo go the images on which the surrogate abstains{below}: {draws}; "
        f"{int(replaced.sum()):,} of {chosen:,} got a certificate by it.",
        role=CASCADE,
    )
