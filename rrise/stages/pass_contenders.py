"""Who is compared when there is time for more passes: bundles for m of them, and Monte Carlo of few draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rrise.evaluation.contender import Contender
    from rrise.images import ImageSet
    from rrise.stages.monte_carlo import NoisyImages
    from rrise.stages.more_passes import MultiPass

_THINNING = 2
"""Second part of the seed by which fewer draws are picked out of many; the first is that of the noise."""
_MORE = 100
"""Draws that Monte Carlo gets on top of m, for its class is not given."""


def name_of(bundle: str, m: int) -> str:
    """Return what the contender of a bundle folder such as scaled-m8 is called."""
    return f"rrise {bundle.removesuffix(f'-m{m}')}, m = {m}"


def open_passes(folders: Mapping[str, Path], classifier: Path, seed: int, device: str) -> dict[str, MultiPass]:
    """Return the certifiers of bundle folders by the names of their contenders, the fewest passes first."""
    from rrise.stages.more_passes import MultiPass

    opened = {name: MultiPass.load(folder, classifier, seed=seed, device=device) for name, folder in folders.items()}
    return dict(sorted(opened.items(), key=lambda item: item[1].extra.m))


def budgets(passes: Mapping[str, MultiPass], most: int, n_selection: int) -> dict[str, tuple[int, int]]:
    """Return selection and estimation draws of Monte Carlo beside each number of passes, by its contender's name.

    It gets 100 draws more than m, of which a tenth picks the class; none where that is as much as the baseline has.
    """
    found = {}
    for certifier in passes.values():
        total = certifier.extra.m + _MORE
        first = min(n_selection, total // 10)
        if total - first < most:
            found[f"Monte Carlo, {total:,} draws"] = first, total - first
    return found


def pass_contenders(
    passes: Mapping[str, MultiPass],
    images: ImageSet,
    counts: Mapping[str, NDArray[np.int64]],
    *,
    alpha: float,
    n_selection: int,
    seed: int,
) -> list[Contender]:
    """Return the certificates of the test images by more passes, and by Monte Carlo of about as many draws.

    Parameters
    ----------
    counts : mapping of str to int64[B, K]
        Class counts of the streams extra, selection and estimation. Who needs fewer draws takes a random part, of the
        extra ones a part of those that the next larger m takes; in law that is what draws of its own would have given.
    """
    from rrise.evaluation.contender import BUDGET, PASSES, Contender, fixed_budget
    from rrise.evaluation.thinning import thinned

    rng, left = np.random.default_rng([seed, _THINNING]), counts["extra"]
    found: list[Contender] = []
    for name, certifier in reversed(list(passes.items())):
        left, error = thinned(left, certifier.extra.m, rng), certifier.bundle.calibration.error
        answers, label = certifier.from_counts(images.images, left), certifier.answers(images.images)[0]
        found.insert(0, Contender(name, answers, label, error, certifier.statement, role=PASSES))
    most = int(counts["estimation"][0].sum())
    for name, (first, n) in budgets(passes, most, n_selection).items():
        selection, estimation = thinned(counts["selection"], first, rng), thinned(counts["estimation"], n, rng)
        sigma = next(iter(passes.values())).bundle.sigma
        found.append(fixed_budget(name, selection, estimation, alpha=alpha, sigma=sigma, role=BUDGET))
    return found


def timed_passes(
    passes: Mapping[str, MultiPass],
    noisy: Callable[[int], NoisyImages],
    *,
    most: int,
    n_selection: int,
    alpha: float,
) -> dict[str, Callable[[int], object]]:
    """Return what makes one certificate of the image with an index, by the names of :func:`pass_contenders`."""
    from rrise.stages.monte_carlo import certify_fixed

    def with_surrogate(certifier: MultiPass) -> Callable[[int], object]:
        return lambda index: certifier(noisy(index).images)

    def alone(first: int, n: int) -> Callable[[int], object]:
        return lambda index: certify_fixed(replace(noisy(index), batch=n), n=n, alpha=alpha, n_selection=first)

    found = {name: with_surrogate(certifier) for name, certifier in passes.items()}
    return found | {name: alone(*draws) for name, draws in budgets(passes, most, n_selection).items()}
