"""Who is compared on the test images: bundles, a rival surrogate's bundles, and Monte Carlo by three budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrise.promise import percent
from rrise.stages.calibrate import DEPLOYED
from rrise.stages.first_stage import cascade_alpha
from rrise.stages.pass_contenders import name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.evaluation.contender import Contender
    from rrise.evaluation.settings import EvaluateConfig
    from rrise.images import ImageSet
    from rrise.runtime.bundle_schema import Bundle
    from rrise.runtime.certificates import Certificates
    from rrise.runtime.certifier import Certifier
    from rrise.targets.settings import SampleConfig

FIXED, SPECIFIC, ADAPTIVE = "Monte Carlo", "input-specific MC", "adaptive MC"
"""Names of the Monte Carlo certifiers B1, B2 and B3; the first is what the others are measured against."""
_THINNING = 1
"""Second part of the seed by which draws of B2 and B3 are picked out of B1's; the first is that of the noise."""
_FEWER = 4
"""The same for B1's own draws, picked out of those of the larger budget."""


@dataclass(frozen=True)
class Certifiers:
    """The bundles that are compared, by the names of their contenders.

    They have one sigma; those of a single pass make one promise, those of more passes one. Their number of calibration
    draws, paid once, may be another than Monte Carlo's.

    Attributes
    ----------
    deployed : str
        Whose result is stated.
    passes : mapping of str to path
        Bundles for more passes, by the names of their contenders.
    bundles : mapping of str to Bundle
        All of them, by the names of their contenders.
    first_stage : Certifier, optional
        Of the bundle for a cascade, whose promise in all is the others'.
    """

    by_name: Mapping[str, Certifier]
    deployed: str
    passes: Mapping[str, Path]
    bundles: Mapping[str, Bundle]
    first_stage: Certifier | None = None

    @property
    def stated(self) -> Certifier:
        """The certifier whose result is stated."""
        return self.by_name[self.deployed]

    @property
    def error(self) -> float:
        """Failure probability that it promises."""
        return self.stated.bundle.calibration.error


def open_certifiers(bundles: Path, rivals: Mapping[str, Path]) -> Certifiers:
    """Open all bundles of a folder, and a rival surrogate's by the name that each is given.

    Raises
    ------
    FileNotFoundError
        If the folder holds no bundle.
    ValueError
        If sigma differs, or what is promised by those of a single pass (or, of a cascade, with Monte Carlo), or of
        more; or if there are several bundles for a cascade.
    """
    from rrise.runtime.bundle import load_bundle
    from rrise.runtime.certifier import Certifier

    loaded = {path.parent: load_bundle(path.parent) for path in sorted(bundles.glob("*/bundle.json"))}
    first = [folder for folder, bundle in loaded.items() if cascade_alpha(bundle) is not None]
    if len(first) > 1:
        raise ValueError(
            f"bundles: expected one for a cascade in {bundles}, got {', '.join(f.name for f in first)}. Move others."
        )
    folders = [folder for folder, bundle in loaded.items() if bundle.extra_passes is None and folder not in first]
    passes = {name_of(f.name, b.extra_passes.m): f for f, b in loaded.items() if b.extra_passes is not None}
    if not folders:
        raise FileNotFoundError(f"bundles: expected folders written by `rrise calibrate` in {bundles}, got none.")
    found = {f"rrise {folder.name}": Certifier.load(folder) for folder in folders}
    deployed = f"rrise {DEPLOYED}" if f"rrise {DEPLOYED}" in found else next(iter(found))
    taken = {*found, FIXED, SPECIFIC, ADAPTIVE} & rivals.keys()
    if taken:
        raise ValueError(f"rival: expected other names than {', '.join(sorted(taken))}. Name it otherwise.")
    found |= {name: Certifier.load(folder) for name, folder in rivals.items()}
    everyone = {name: certifier.bundle for name, certifier in found.items()}
    everyone |= {name: loaded[folder] for name, folder in passes.items()}
    if first:
        everyone["the cascade's bundle"] = loaded[first[0]]
    levels = {(b.sigma, b.extra_passes is not None, cascade_alpha(b) or b.calibration.error) for b in everyone.values()}
    if len(levels) > 1 + bool(passes) or len({sigma for sigma, *_ in levels}) > 1:
        shown = ", ".join(
            f"sigma {sigma:g}{', more passes' if more else ''}, {percent(error)}"
            for sigma, more, error in sorted(levels)
        )
        raise ValueError(
            f"bundles: expected one sigma and promise in {bundles}{' and of rivals' if rivals else ''}, got "
            f"{shown}. Compare like with like."
        )
    return Certifiers(found, deployed, passes, everyone, Certifier.load(first[0]) if first else None)


def contenders(
    certifiers: Certifiers,
    images: ImageSet,
    selection: NDArray[np.int64],
    estimation: NDArray[np.int64],
    larger: NDArray[np.int64] | None,
    config: EvaluateConfig,
    base: SampleConfig,
) -> list[Contender]:
    """Return everybody's certificates of the test images, the bundles' first; ``larger`` are B1's larger budget."""
    from rrise.evaluation.contender import LARGER, fixed_budget

    alpha = config.alpha or certifiers.error
    found = [_single_pass(name, certifier, images) for name, certifier in certifiers.by_name.items()]
    found += monte_carlo(selection, estimation, alpha, config, base)
    if larger is not None:
        name = larger_name(int(larger[0].sum()))
        found.append(fixed_budget(name, selection, larger, alpha=alpha, sigma=base.sigma, role=LARGER))
    return found


def larger_name(n: int) -> str:
    """Return what Monte Carlo of the larger budget, of n draws, is called."""
    return f"{FIXED}, n = {n:,}"


def few_of(estimation: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return int64[B, K], the class counts of n of the estimation draws: a random part, all where there are no more.

    In law that is what n draws would have given. Selection draws have no part in either.
    """
    from rrise.evaluation.thinning import thinned

    if int(estimation.sum(axis=1).max()) == n:
        return estimation
    return thinned(estimation, n, np.random.default_rng([seed, _FEWER]))


def monte_carlo(
    selection: NDArray[np.int64],
    estimation: NDArray[np.int64],
    alpha: float,
    config: EvaluateConfig,
    base: SampleConfig,
) -> list[Contender]:
    """Return Monte Carlo's certificates by a fixed budget, an input-specific one, and adaptive stopping.

    Parameters
    ----------
    selection, estimation : int64[B, K]
        Class counts of two streams. Who needs fewer draws than the second has takes a random part of them, or looks at
        them in a random order; in law that is what draws of its own would have given.
    alpha : float
        Failure probability of each certificate.
    """
    from rrise.evaluation.adaptive_stopping import adaptive_certify
    from rrise.evaluation.baselines import cohen_select
    from rrise.evaluation.contender import Contender, fixed_budget
    from rrise.evaluation.input_specific import budget_map, input_specific_budget, input_specific_certify
    from rrise.evaluation.thinning import in_order, thinned

    guess, sigma, (unit, most) = cohen_select(selection), base.sigma, unit_of(base)
    rng = np.random.default_rng([base.seed, _THINNING])
    pilot = f"{int(selection[0].sum()):,} draws"
    each = f"For any input, each certificate is wrong with probability at most {percent(alpha)} over its own noise"
    budgets = budget_map(n_max=most, batch=unit, alpha=alpha, sigma=sigma, decline=config.decline)
    fresh = thinned(estimation, input_specific_budget(selection, budgets, alpha=alpha), rng)
    looks = np.arange(unit, most + 1, unit)
    k = in_order(estimation[np.arange(len(guess)), guess], base.n, looks, rng)
    stopped = adaptive_certify(selection, k, looks, alpha=alpha, sigma=sigma, tolerance=config.tolerance)
    specific = input_specific_certify(selection, fresh, alpha=alpha, sigma=sigma)
    return [
        fixed_budget(FIXED, selection, estimation, alpha=alpha, sigma=sigma),
        Contender(
            SPECIFIC,
            specific,
            guess,
            alpha,
            f"{each} (Chen et al. 2022, Seferis et al. 2024): {pilot} pick the class and ask for at most {most:,} "
            f"others, of which it gives up {100 * config.decline:g}% of the radius to save some.",
        ),
        Contender(
            ADAPTIVE,
            stopped,
            guess,
            alpha,
            f"{each}, whenever it stops (after Voracek 2024): {pilot} pick the class, others bound it, {most:,} at "
            f"most, looked at every {unit:,} until the radius is known to {config.tolerance:g}.",
        ),
    ]


def unit_of(base: SampleConfig) -> tuple[int, int]:
    """Return the draws between two looks, in which an input-specific budget is counted too, and the most draws."""
    unit = max(1, min(base.batch_size, 100, base.n // 10))
    return unit, base.n - base.n % unit


def answered(certifier: Certifier, images: ImageSet) -> tuple[Certificates, NDArray[np.int64]]:
    """Return a bundle's certificates, and int64[B], the class that each bound speaks of."""
    from rrise import _C

    return certifier(images.images), _C.top(certifier.logits(images.images))[0]


def _single_pass(name: str, certifier: Certifier, images: ImageSet) -> Contender:
    from rrise.evaluation.contender import Contender

    return Contender(
        name,
        *answered(certifier, images),
        certifier.bundle.calibration.error,
        certifier.statement,
        certifier.bundle.calibration.guarantee == "certified",
    )
