"""Fewer draws, and draws in an order, out of counts: their law is that of drawing them."""

from itertools import product
from math import comb

import numpy as np
import pytest

from rrise.evaluation.thinning import in_order, thinned

REPEATS = 200_000


def test_a_part_of_the_draws_has_the_law_of_fewer_draws() -> None:
    """A multinomial of 5 draws thinned to 2 is a multinomial of 2 draws, whatever the classes' probabilities."""
    p, rng = np.array([0.5, 0.3, 0.2]), np.random.default_rng(0)
    found = thinned(rng.multinomial(5, p, REPEATS), 2, rng)
    assert np.all(found.sum(axis=1) == 2)
    for counts in ((2, 0, 0), (1, 1, 0), (0, 1, 1), (0, 0, 2)):
        exact = comb(2, counts[0]) * comb(2 - counts[0], counts[1]) * float(np.prod(p**counts))
        seen = float(np.mean(np.all(found == counts, axis=1)))
        assert abs(seen - exact) < 6 * np.sqrt(exact / REPEATS)


def test_an_order_of_the_draws_has_the_law_of_draws_one_after_the_other() -> None:
    p, looks, rng = 0.7, np.array([1, 2, 4]), np.random.default_rng(1)
    found = in_order(rng.binomial(4, p, REPEATS), 4, looks, rng)
    exact: dict[tuple[int, ...], float] = {}
    for draws in product((0, 1), repeat=4):
        seen = tuple(int(sum(draws[:look])) for look in looks)
        exact[seen] = exact.get(seen, 0.0) + p ** sum(draws) * (1 - p) ** (4 - sum(draws))
    assert sum(exact.values()) == pytest.approx(1)
    for path, law in exact.items():
        seen = float(np.mean(np.all(found == path, axis=1)))
        assert abs(seen - law) < 6 * np.sqrt(law / REPEATS)


def test_each_row_may_have_its_own_number_of_draws() -> None:
    found = thinned(np.array([[3, 7], [10, 0], [0, 4]]), [0, 10, 2], np.random.default_rng(2))
    assert found.tolist() == [[0, 0], [10, 0], [0, 2]]
    np.testing.assert_array_equal(in_order([3, 0], 5, [2, 5], np.random.default_rng(2))[:, -1], [3, 0])


def test_more_draws_than_there_are_is_an_error() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="draws: expected at most the 4 draws of row 1, got 5"):
        thinned(np.array([[5, 5], [3, 1]]), 5, rng)
    for looks in ([3, 2], [0, 2], [2, 6]):
        with pytest.raises(ValueError, match="looks: expected rising numbers of draws from 1 to 5"):
            in_order([3], 5, looks, rng)
