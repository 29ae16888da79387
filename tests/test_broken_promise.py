"""A promise that the reference draws contradict is called broken, in words, and fails `evaluate --strict`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from rrise.evaluation.metrics import REFUTATION_LEVEL, Share, plainly_broken


def test_a_kept_promise_is_called_broken_once_in_a_thousand_at_most() -> None:
    """Exactly, over the law of the count of refuted bounds where as many are wrong as may be."""
    for error in (0.01, 0.05, 0.25):
        for images in (20, 397, 2000):
            called = np.array([plainly_broken(Share(count, images), error) for count in range(images + 1)])
            law = binom.pmf(np.arange(images + 1), images, error + REFUTATION_LEVEL)
            assert law[called].sum() <= 1e-3


@pytest.mark.parametrize(("refuted", "broken"), [(34, True), (15, True), (12, False), (0, False)])
def test_what_is_far_beyond_the_promise_is_broken(refuted: int, broken: bool) -> None:
    assert plainly_broken(Share(refuted, 100), 0.05) is broken


def test_no_bounds_break_nothing() -> None:
    assert not plainly_broken(Share(0, 0), 0.05)
    assert not plainly_broken(Share(50, 50), 1.0)
