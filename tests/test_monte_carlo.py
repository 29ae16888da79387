"""Certifiers that draw for themselves spend what they say, and certify what the same draws would, made beforehand."""

import numpy as np
import pytest

from rrise.evaluation.adaptive_stopping import adaptive_certify
from rrise.evaluation.baselines import cohen_certify, cohen_select
from rrise.evaluation.input_specific import budget_map, input_specific_budget, input_specific_certify
from rrise.stages.monte_carlo import NoisyImages, certify_adaptive, certify_fixed, certify_input_specific
from rrise.targets.noise import ESTIMATION, SELECTION

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 4, 4), dtype=np.uint8)
IDS = np.arange(40, dtype=np.uint64)
DIRECTION = torch.from_numpy(RNG.normal(size=16).astype(np.float32))
SIGMA, BATCH, N, ALPHA = 0.3, 20, 400, 0.05


class Linear:
    """Two classes on either side of a plane; counts the noisy images it is given and the passes it takes."""

    def __init__(self) -> None:
        self.given: list[int] = []  # adding to a number loses what other threads add meanwhile; append does not

    @property
    def images(self) -> int:
        return sum(self.given)

    def __call__(self, pixels: object) -> object:
        self.given.append(len(pixels))
        side = (pixels.reshape(len(pixels), -1) - 0.5) @ DIRECTION
        return torch.stack([side, -side], dim=1)


def noisy(threads: int | None = None, rows: slice = slice(None)) -> NoisyImages:
    return NoisyImages(Linear(), IMAGES[rows], IDS[rows], SIGMA, seed=3, batch=BATCH, threads=threads)


def same(found: object, expected: object) -> None:
    for name in ("label", "radius", "p_lower", "q", "evaluations"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


@pytest.mark.parametrize("threads", [None, 2])
def test_all_three_agree_with_the_functions_of_counts_and_spend_no_more(threads: int | None) -> None:
    source = noisy()
    selection = source.counts(40, SELECTION)
    guess = cohen_select(selection)
    looks = np.arange(BATCH, N + 1, BATCH)
    steps = np.stack([source.counts(BATCH, ESTIMATION, int(look) - BATCH) for look in looks], axis=1)
    path = steps.cumsum(axis=1)
    k = path[np.arange(40), :, guess]

    live = noisy(threads)
    fixed = certify_fixed(live, n=N, alpha=ALPHA, n_selection=40)
    same(fixed, cohen_certify(selection, path[:, -1], alpha=ALPHA, sigma=SIGMA))
    assert live.classifier.images == fixed.evaluations.sum() == 40 * 440

    live = noisy(threads)
    adaptive = certify_adaptive(live, n_max=N, alpha=ALPHA, n_selection=40, tolerance=0.1)
    same(adaptive, adaptive_certify(selection, k, looks, alpha=ALPHA, sigma=SIGMA, tolerance=0.1))
    assert live.classifier.images == adaptive.evaluations.sum() < fixed.evaluations.sum()
    assert len(set(adaptive.evaluations.tolist())) > 3

    live = noisy(threads)
    found = certify_input_specific(live, n_max=N, alpha=ALPHA, n_selection=40, decline=0.05)
    budgets = budget_map(n_max=N, batch=BATCH, alpha=ALPHA, sigma=SIGMA, decline=0.05)
    draws = input_specific_budget(selection, budgets, alpha=ALPHA)
    fresh = np.stack([path[i, n // BATCH - 1] if n else np.zeros(2, int) for i, n in enumerate(draws)])
    same(found, input_specific_certify(selection, fresh, alpha=ALPHA, sigma=SIGMA))
    assert live.classifier.images == found.evaluations.sum() < fixed.evaluations.sum()

    assert set(live.classifier.given) == {BATCH}  # every pass is full


def test_a_certificate_does_not_depend_on_the_other_images() -> None:
    every = certify_adaptive(noisy(), n_max=N, alpha=ALPHA, n_selection=40, tolerance=0.1)
    some = certify_adaptive(noisy(rows=slice(5, 9)), n_max=N, alpha=ALPHA, n_selection=40, tolerance=0.1)
    np.testing.assert_array_equal(some.radius, every.radius[5:9])
    np.testing.assert_array_equal(some.evaluations, every.evaluations[5:9])
