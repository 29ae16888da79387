"""The samplers: the bits their definition says, the law it promises, and nothing but the name of a draw behind them."""

from __future__ import annotations

import threading
from itertools import combinations
from typing import Any

import mpmath
import numpy as np
import pytest
import reference_noise as reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rrise import _C
from rrise.targets import noise
from rrise.targets.noise import GaussianSampler, GridSampler, grid_thresholds, make_sampler

NAME = {"seed": 2**63 + 12345, "image_id": 2**55 + 99, "draw": 2**31 + 3, "stream": 200}
FALSE_ALARM = 1e-6


def grid_noise(sigma: float, pixels: int, **name: int) -> NDArray[np.int16]:
    return _C.GridNoise(*grid_thresholds(sigma)).noise(pixels=pixels, **{**NAME, **name})


def fill(
    sampler: GridSampler | GaussianSampler,
    images: NDArray[Any],
    ids: list[int],
    first_draw: int = 0,
    draws: int = 1,
    seed: int = 7,
    stream: int = 0,
) -> NDArray[np.float32]:
    out = np.full((len(images), draws, images.shape[1]), np.nan, dtype=np.float32)
    sampler.fill(
        images, np.array(ids, dtype=np.uint64), first_draw=first_draw, draws=draws, seed=seed, stream=stream, out=out
    )
    return out


# ---- Philox --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers_of_random123(counter: str, key: str, words: str) -> None:
    c, k, expected = ([int(w, 16) for w in text.split()] for text in (counter, key, words))
    got = _C.philox4x32(np.array(c, dtype=np.uint32), np.array(k, dtype=np.uint32))
    assert got.tolist() == expected
    assert list(reference.philox4x32(tuple(c), tuple(k))) == expected  # type: ignore[arg-type]


# ---- the law of the grid noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2e-4, 0.001, 0.01, 0.1, 0.12345678901234567, 0.25, 0.5, 1.0])
def test_thresholds_are_the_exact_distribution_function_rounded_to_64_bits(sigma: float) -> None:
    thresholds, lowest = grid_thresholds(sigma)
    expected, expected_lowest = reference.grid_thresholds(sigma)
    assert thresholds.dtype == np.uint64
    assert tuple(thresholds.tolist()) == expected
    assert lowest == expected_lowest
    assert [2**64 - t for t in reversed(thresholds.tolist())] == thresholds.tolist()
    assert lowest == -len(thresholds) // 2


def test_thresholds_are_cached_and_cannot_be_changed() -> None:
    thresholds, _ = grid_thresholds(0.25)
    assert grid_thresholds(np.float64(0.25))[0] is thresholds
    with pytest.raises(ValueError, match="read-only"):
        thresholds[0] = 0


@pytest.mark.parametrize("sigma", [0.0, -0.25, 14.001, 255.0, float("nan"), float("inf")])
def test_sigma_outside_the_grid_sampler_s_range(sigma: float) -> None:
    for make in (grid_thresholds, GridSampler):
        with pytest.raises(ValueError, match=r"sigma: expected a noise level above 0 and at most 14 .*, got .*\[0,1\]"):
            make(sigma)


@pytest.mark.parametrize("sigma", [1e-300, 1e-5, 2e-4])
def test_a_tiny_sigma_is_legal_and_its_noise_is_zero(sigma: float) -> None:
    # P(noise != 0) is 1e-21 at σ = 2e-4: one threshold pair or none, and no draw will ever reach it.
    images = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(fill(GridSampler(sigma), images, [1])[0], images / np.float32(255))


def test_the_largest_sigma_fits_in_int16() -> None:
    thresholds, lowest = grid_thresholds(noise.LARGEST_GRID_SIGMA)
    assert lowest >= -32768
    assert lowest + len(thresholds) <= 32767
    sample = grid_noise(noise.LARGEST_GRID_SIGMA, 100_000).astype(np.float64) / 255
    assert sample.std() == pytest.approx(noise.LARGEST_GRID_SIGMA, rel=0.01)


@pytest.mark.parametrize(
    ("sigma", "pixels"), [(0.002, 2_000_000), (0.01, 2_000_000), (0.25, 4_000_000), (1.0, 4_000_000)]
)
def test_grid_noise_has_the_exact_cell_probabilities(sigma: float, pixels: int) -> None:
    sample = np.concatenate([grid_noise(sigma, pixels // 4, draw=d) for d in range(4)])
    reach = int(6 * 255 * sigma) + 2
    cells = np.arange(-reach, reach + 1)
    edges = [float(reference.cumulative(i, sigma)) for i in range(-reach - 1, reach + 1)]
    expected = np.diff(edges) * pixels
    observed = np.bincount(sample.astype(np.int64) + reach, minlength=cells.size).astype(np.float64)
    assert observed.size == cells.size  # nothing beyond six sigma in so small a sample
    usual = expected >= 10
    lower, upper = np.flatnonzero(usual)[[0, -1]]
    pool = [slice(None, lower + 1), *range(lower + 1, upper), slice(upper, None)]  # tails pooled with their last cell
    counts = np.array([observed[part].sum() for part in pool])
    means = np.array([expected[part].sum() for part in pool])
    statistic = float(((counts - means) ** 2 / means).sum())
    assert stats.chi2.sf(statistic, len(counts) - 1) > FALSE_ALARM
    assert stats.chi2.cdf(statistic, len(counts) - 1) > FALSE_ALARM  # a fit too good is not random either
    variance = float(sum((e * i * i for e, i in zip(expected, cells, strict=True)))) / pixels
    assert abs(sample.mean()) < 5 * np.sqrt(variance / pixels)
    assert sample.astype(np.float64).var() == pytest.approx(variance, rel=5 * np.sqrt(2 / pixels))


def test_rounding_half_of_a_pixel_step_is_in_the_right_cell() -> None:
    # One cell of the law by hand: P(0) = 2 Φ(1 / 510σ) − 1.
    sigma, pixels = 0.004, 1_000_000
    zero = float(mpmath.erf(1 / (510 * sigma) / mpmath.sqrt(2)))
    hits = int((grid_noise(sigma, pixels) == 0).sum())
    assert stats.binomtest(hits, pixels, zero).pvalue > FALSE_ALARM


# ---- the bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.001, 0.05, 0.25, 1.0, 2.5])
def test_grid_noise_equals_the_slow_reference_to_the_bit(sigma: float) -> None:
    thresholds, lowest = reference.grid_thresholds(sigma)
    pixels = 1700
    got = grid_noise(sigma, pixels).tolist()
    assert got == reference.grid_noise(thresholds, lowest, pixels, **NAME)
    leading = [reference.uniform64(j, **NAME) >> 48 for j in range(pixels)]
    undecided = {t >> 48 for t in thresholds}
    assert sigma < 0.01 or any(h in undecided for h in leading)  # the second block was needed somewhere


@pytest.mark.parametrize("pixels", [0, 1, 7, 8, 9, 63, 64, 65, 127, 200])
def test_grid_noise_of_any_length(pixels: int) -> None:
    longest = grid_noise(0.25, 200)
    np.testing.assert_array_equal(grid_noise(0.25, pixels), longest[:pixels])


def test_many_thresholds_within_one_table_entry() -> None:
    # 300 thresholds share each of two leading words, some of them equal: the table decides nothing there.
    rng = np.random.default_rng(1)
    low = np.concatenate([np.sort(rng.integers(0, 2**48, 298)), [2**48 - 1, 2**48 - 1]]).astype(np.uint64)
    leading = sorted({reference.uniform64(j, **NAME) >> 48 for j in range(400)})[5:200:100]
    thresholds = np.concatenate([(np.uint64(h) << np.uint64(48)) | low for h in leading])
    got = _C.GridNoise(thresholds, -300).noise(pixels=400, **NAME)
    expected = reference.grid_noise(tuple(thresholds.tolist()), -300, 400, **NAME)
    assert got.tolist() == expected
    assert any(-300 < e < 300 and e != 0 for e in expected)


def test_a_threshold_belongs_to_the_upper_side() -> None:
    u = reference.uniform64(11, **NAME)
    for threshold, above in ((u, 1), (u + 1, 0), (u - 1, 1)):
        got = _C.GridNoise(np.array([threshold], dtype=np.uint64), 0).noise(pixels=12, **NAME)
        assert got[11] == above


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**56 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(1, 80),
)
def test_any_name_equals_the_reference(seed: int, image_id: int, draw: int, stream: int, pixels: int) -> None:
    name = {"seed": seed, "image_id": image_id, "draw": draw, "stream": stream}
    thresholds, lowest = reference.grid_thresholds(0.25)
    assert grid_noise(0.25, pixels, **name).tolist() == reference.grid_noise(thresholds, lowest, pixels, **name)
    image = np.zeros((1, pixels), dtype=np.float32)
    got = fill(GaussianSampler(1.0), image, [image_id], first_draw=draw, seed=seed, stream=stream)[0, 0]
    np.testing.assert_allclose(got, reference.normals(pixels, **name), rtol=2**-23, atol=1e-15)


def test_fill_is_pixel_plus_noise_over_255_in_float32() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 100), dtype=np.uint8)
    ids = [5, 2**56 - 1, 0]
    got = fill(GridSampler(0.5), images, ids, first_draw=9, draws=4, seed=3, stream=1)
    for b, image_id in enumerate(ids):
        for d in range(4):
            added = grid_noise(0.5, 100, seed=3, image_id=image_id, draw=9 + d, stream=1)
            expected = (images[b].astype(np.int32) + added).astype(np.float32) / np.float32(255)
            assert got[b, d].tobytes() == expected.tobytes()


def test_gaussian_fill_adds_float32_noise_in_float32() -> None:
    images = np.random.default_rng(3).random((2, 130), dtype=np.float32)
    sampler = GaussianSampler(0.3)
    epsilon = fill(sampler, np.zeros_like(images), [4, 5], draws=3)
    got = fill(sampler, images, [4, 5], draws=3)
    assert got.tobytes() == (images[:, None] + epsilon).tobytes()
    exact = 0.3 * np.array(reference.normals(130, seed=7, image_id=4, draw=2, stream=0))
    assert (epsilon[0, 2] == exact.astype(np.float32)).mean() > 0.99
    np.testing.assert_allclose(epsilon[0, 2], exact, rtol=2**-23)


def test_gaussian_noise_is_normal() -> None:
    pixels = 1_000_000
    sample = (
        fill(GaussianSampler(1.0), np.zeros((1, pixels // 4), dtype=np.float32), [8], draws=4).ravel().astype(float)
    )
    assert stats.kstest(sample, "norm").pvalue > FALSE_ALARM
    assert abs(sample.mean()) < 5 / np.sqrt(pixels)
    assert sample.var() == pytest.approx(1.0, rel=5 * np.sqrt(2 / pixels))
    for z in (3.0, 4.0):
        for side in (sample > z, sample < -z):
            assert stats.binomtest(int(side.sum()), pixels, stats.norm.sf(z)).pvalue > FALSE_ALARM
    pairs = sample.reshape(-1, 2)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / np.sqrt(pixels / 2)
    assert abs(np.corrcoef((pairs**2).T)[0, 1]) < 5 / np.sqrt(pixels / 2)


# ---- noise depends on its name alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid", "gaussian"])
def test_no_order_batch_or_split_of_calls_changes_the_noise(kind: str) -> None:
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (6, 77), dtype=np.uint8)
    if kind == "gaussian":
        images = (images / np.float32(255)).astype(np.float32)
    ids = [3, 1, 4, 15, 9, 2]
    whole = fill(make_sampler(kind, 0.25), images, ids, draws=10)
    for i in rng.permutation(6):
        for first, draws in ((7, 3), (0, 1), (1, 6)):
            part = fill(make_sampler(kind, 0.25), images[i : i + 1], [ids[i]], first_draw=first, draws=draws)
            assert part.tobytes() == whole[i, first : first + draws].tobytes()
    order = rng.permutation(6)
    assert (
        fill(make_sampler(kind, 0.25), images[order], [ids[i] for i in order], draws=10).tobytes()
        == whole[order].tobytes()
    )
    shorter = fill(make_sampler(kind, 0.25), np.ascontiguousarray(images[:, :41]), ids, draws=10)
    assert shorter.tobytes() == np.ascontiguousarray(whole[:, :, :41]).tobytes()


@pytest.mark.parametrize("kind", ["grid", "gaussian"])
def test_seed_stream_id_and_draw_name_different_noise(kind: str) -> None:
    pixels = 4000
    blank = np.zeros((1, pixels), dtype=np.uint8 if kind == "grid" else np.float32)
    names = [
        {"seed": 0, "ids": [0], "first_draw": 0, "stream": 0},
        {"seed": 1, "ids": [0], "first_draw": 0, "stream": 0},
        {"seed": 2**32, "ids": [0], "first_draw": 0, "stream": 0},
        {"seed": 0, "ids": [1], "first_draw": 0, "stream": 0},
        {"seed": 0, "ids": [2**32], "first_draw": 0, "stream": 0},
        {"seed": 0, "ids": [2**55], "first_draw": 0, "stream": 0},
        {"seed": 0, "ids": [0], "first_draw": 1, "stream": 0},
        *(
            {"seed": 0, "ids": [0], "first_draw": 0, "stream": s}
            for s in (noise.SELECTION, noise.ESTIMATION, noise.REFERENCE)
        ),
    ]
    assert len({noise.TARGETS, noise.SELECTION, noise.ESTIMATION, noise.REFERENCE, noise.EXTRA}) == 5
    samples = [fill(make_sampler(kind, 0.25), blank, **name).ravel().astype(float) for name in names]  # type: ignore[arg-type]
    for a, b in combinations(samples, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5.5 / np.sqrt(pixels)
    shifted = np.corrcoef(samples[0][1:], samples[0][:-1])[0, 1]
    assert abs(shifted) < 5.5 / np.sqrt(pixels)


def test_every_stream_has_a_number_and_a_name_of_its_own() -> None:
    """Two that shared one would share their draws: the class would be picked on the draws that bound it, say."""
    streams = {name.lower(): n for name, n in vars(noise).items() if name.isupper() and type(n) is int}
    assert len(set(streams.values())) == len(streams) > len(noise.STREAMS)  # an audit's has no name
    assert max(streams.values()) < 2**8
    assert noise.STREAMS.items() < streams.items()


def test_grid_noise_is_translation_equivariant() -> None:
    x = np.random.default_rng(5).integers(0, 200, (1, 500), dtype=np.uint8)
    sampler = GridSampler(0.5)
    low, high = (fill(sampler, (x + c).astype(np.uint8), [6], draws=5) for c in (0, 55))
    units = [np.rint(v.astype(np.float64) * 255).astype(int) for v in (low, high)]
    np.testing.assert_array_equal(units[1] - units[0], 55)
    for values, integers in zip((low, high), units, strict=True):
        assert values.tobytes() == (integers.astype(np.float32) / np.float32(255)).tobytes()


def test_threads_get_the_same_noise() -> None:
    sampler, images = GridSampler(0.25), np.full((1, 784), 9, dtype=np.uint8)
    expected = fill(sampler, images, [1], draws=50).tobytes()
    results: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(fill(sampler, images, [1], draws=50).tobytes() for _ in range(5))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 20


# ---- float noise is not a shifted distribution ---------------------------------------------------------------------


def test_the_false_certificate_of_float_noise() -> None:
    """Float32 noise makes f constant at x and not within its certified radius; the grid sampler cannot be given x'."""
    d, sigma, draws = 10, 0.5, 100_000

    def frequency(value: float) -> float:
        image = np.full((1, d), value, dtype=np.float32)
        z = fill(GaussianSampler(sigma), image, [10], draws=draws)[0].astype(np.float64)
        scaled = z * 2.0**24
        return float((scaled == np.rint(scaled)).all(axis=1).mean())  # f(z) = 1 iff all z_i are multiples of 2^-24

    hits = frequency(1.0) * draws
    assert hits == draws
    p_lower = 0.001 ** (1 / draws)  # Clopper-Pearson for n of n
    radius = _C.radius(np.array([p_lower]), sigma)[0]
    distance = 0.4 * np.sqrt(d)
    assert radius == pytest.approx(1.906, abs=5e-4)
    assert distance == pytest.approx(1.265, abs=5e-4)
    assert distance < radius  # so P[f = 1] > 1/2 is "certified" at x' = (0.6, …), where it is
    assert frequency(0.6) == pytest.approx(0.327, abs=0.01)
    with pytest.raises(
        TypeError, match=r"images: expected uint8 for the grid sampler, got float32\..*sampler='gaussian'"
    ):
        fill(GridSampler(sigma), np.full((1, d), 0.6, dtype=np.float32), [10])


# ---- refusals ------------------------------------------------------------------------------------------------------

IMAGES = np.zeros((2, 6), dtype=np.uint8)
IDS = np.arange(2, dtype=np.uint64)
OUT = np.zeros((2, 3, 6), dtype=np.float32)
READ_ONLY = OUT.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES.tolist()}, TypeError, "images: expected an array of uint8"),
        ({"images": IMAGES.astype(np.int8)}, TypeError, "images: expected uint8 for the grid sampler, got int8"),
        ({"images": IMAGES[0]}, ValueError, "images: expected shape of uint8"),
        ({"images": IMAGES[:, ::-1]}, ValueError, "images: expected C-contiguous"),
        ({"images": IMAGES[:1]}, ValueError, r"out: expected images\[B, P\].*got \(1, 6\), \(2,\) and \(2, 3, 6\)"),
        ({"ids": IDS[:1]}, ValueError, r"out: expected images\[B, P\]"),
        ({"ids": IDS.astype(np.int64)}, TypeError, "ids: expected uint64.*got int64"),
        ({"ids": np.array([0, 2**56], dtype=np.uint64)}, ValueError, "ids: expected numbers below 2.56"),
        ({"out": OUT.astype(np.float64)}, TypeError, "out: expected float32"),
        ({"out": OUT[:, :2]}, ValueError, r"out: expected shape \(B, 3, P\), got \(2, 2, 6\)"),
        ({"out": OUT[0]}, ValueError, "out: expected shape"),
        ({"out": np.zeros((2, 3, 12), dtype=np.float32)[:, :, ::2]}, ValueError, "out: expected C-contiguous"),
        ({"out": np.zeros((2, 3, 5), dtype=np.float32)}, ValueError, r"out: expected images\[B, P\]"),
        ({"out": READ_ONLY}, ValueError, "out: expected a writable array"),
        ({"seed": -1}, ValueError, "seed: expected an integer from 0 to 18446744073709551615, got -1"),
        ({"seed": 2**64}, ValueError, "seed: expected an integer"),
        ({"seed": 1.0}, TypeError, "seed: expected an integer, got 1.0"),
        ({"stream": 256}, ValueError, "stream: expected an integer from 0 to 255, got 256"),
        ({"first_draw": 2**32}, ValueError, "first_draw: expected an integer from 0 to 4294967295"),
        ({"first_draw": 2**32 - 2}, ValueError, r"first_draw: expected draws below 2\^32, got 4294967294 \+ 3"),
    ],
)
def test_fill_refuses_by_name(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "images": IMAGES,
        "ids": IDS,
        "first_draw": 0,
        "draws": 3,
        "seed": 0,
        "stream": 0,
        "out": OUT.copy(),
    }
    GridSampler(0.25).fill(**arguments)
    with pytest.raises(error, match=message) as caught:
        GridSampler(0.25).fill(**{**arguments, **change})
    assert "\n" not in str(caught.value)


def test_other_refusals() -> None:
    with pytest.raises(
        TypeError, match=r"images: expected float32 for the gaussian sampler, got uint8.*sampler='grid'"
    ):
        fill(GaussianSampler(0.25), IMAGES, [0, 1])
    with pytest.raises(ValueError, match="sampler: expected 'grid' or 'gaussian', got 'uniform'"):
        make_sampler("uniform", 0.25)
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma: expected a finite number above 0"):
            GaussianSampler(sigma)
    with pytest.raises(ValueError, match="thresholds: expected numbers that never fall, got a fall at index 1"):
        _C.GridNoise(np.array([2, 1], dtype=np.uint64), 0)
    with pytest.raises(ValueError, match="lowest: expected noise within int16, got 32767 to 32768"):
        _C.GridNoise(np.array([5], dtype=np.uint64), 32767)
    with pytest.raises(TypeError, match="thresholds: expected uint64"):
        _C.GridNoise(np.array([5]), 0)
    with pytest.raises(ValueError, match="counter and key: expected 4 and 2 words"):
        _C.philox4x32(np.zeros(3, dtype=np.uint32), np.zeros(2, dtype=np.uint32))
