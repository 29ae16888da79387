"""The ladder of calibration draws: thinned counts are parts of each other, and more draws keep more of the radius."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rrise.calibration.scored import Scored

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "calibration_draws.py"
MOST, N = 10_000, 100


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration_draws", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def world(ladder: ModuleType, images: int = 600) -> Any:
    """Two classes, class 0 with probability p; a surrogate that errs by 0.01 in p."""
    rng = np.random.default_rng(7)

    def drawn(n: int, p: np.ndarray) -> np.ndarray:
        k = rng.binomial(n, p)
        return np.stack([k, n - k], axis=1)

    p, p_test, p_shape = (rng.beta(8, 1, size) * 0.5 + 0.499 for size in (images, 300, 400))
    q, q_test, q_shape = (np.clip(each + rng.normal(0, 0.01, each.size), 0.3, 0.9999) for each in (p, p_test, p_shape))
    larger = drawn(1000, p_test)
    return ladder.World(
        logits=np.stack([np.log(q_test), np.log1p(-q_test)], axis=1).astype(np.float32),
        calibration_label=np.append(np.where(q[1:] > 0.5, 0, 1), -1),
        calibration_q=np.append(np.maximum(q, 1 - q)[1:], np.nan),
        calibration=drawn(MOST, p),
        profile=Scored(q_shape, rng.binomial(N, p_shape), np.full(400, N)),
        labels=np.zeros(300, dtype=np.int64),
        selection=drawn(100, p_test),
        estimation=ladder.few_of(larger, N, 0),
        larger=larger,
        reference=drawn(20_000, p_test),
        sigma=0.25,
        seed=3,
    )


def test_fewer_draws_are_a_part_of_more(ladder: ModuleType) -> None:
    made = world(ladder)
    points = made.thinned([100, 10_000, 1_000])
    assert list(points) == [100, 1_000, 10_000]
    top = np.maximum(made.calibration_label, 0)
    np.testing.assert_array_equal(points[10_000].k[:-1], made.calibration[np.arange(600), top][:-1])
    for few, more in ((100, 1_000), (1_000, 10_000)):  # what agrees, and what does not
        assert np.all(points[few].k <= points[more].k)
        assert np.all(few - points[few].k[:-1] <= more - points[more].k[:-1])
    assert all(each.k[-1] == 0 for each in points.values())  # the engine answered nothing there
    for n, each in points.items():
        assert set(each.n.tolist()) == {n}
        share, p = each.k[:-1] / n, points[10_000].k[:-1] / 10_000
        assert abs(np.mean(share - p)) < 6 * np.sqrt(0.25 / n / 599)
    again = made.thinned([100, 1_000, 10_000])
    np.testing.assert_array_equal(again[100].k, points[100].k)


def test_the_usual_numbers_go_as_far_as_there_are_draws(ladder: ModuleType) -> None:
    made = world(ladder)
    assert made.numbers([]) == [100, 300, 1_000, 3_000, 10_000]
    assert made.numbers([700, 50]) == [50, 700]
    with pytest.raises(ValueError, match=r"n: expected at most the 10000 draws of a calibration image, got \[20000\]"):
        made.numbers([50, 20_000])


def test_more_draws_keep_more_of_the_radius_and_the_promise(ladder: ModuleType) -> None:
    made = world(ladder)
    found = [ladder.rows(made, points, 0.05, "marginal") for points in made.thinned([100, 1_000, 10_000]).values()]
    of_n, of_larger = ([float(row[column]) for row in found] for column in (3, 4))
    assert of_n[0] < of_n[1] < of_n[2]
    assert all(more < few for few, more in zip(of_n, of_larger, strict=True))  # the larger budget's radii are larger
    assert of_larger[2] > 1.3 * of_larger[0]
    for row, n in zip(found, (100, 1_000, 10_000), strict=True):
        assert row[-1] == f"{600 * n:,}"
        assert float(row[-2].rstrip("%")) > 100 * (0.95 - 6 * np.sqrt(0.05 * 0.95 / 300))


def test_what_cannot_be_promised_says_why(ladder: ModuleType) -> None:
    made = world(ladder, images=120)
    page = "\n".join(ladder.tables(made, [0.01], [1_000]))
    marginal, conditional = page.split("alpha = 0.01, ")[1:]
    assert "refused" not in marginal
    assert "refused: alpha: expected at least" in conditional
