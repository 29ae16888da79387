from __future__ import annotations

import math
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rrise.images import image_ids
from rrise.targets.noise import TARGETS, make_sampler
from rrise.targets.sampling import sample_counts
from rrise.targets.settings import ExecutionConfig, SampleConfig, batch_geometry

torch.set_num_threads(1)
NORMAL = NormalDist()
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
IDS = image_ids(IMAGES)
SETTINGS = {"sigma": 0.25, "n": 60, "seed": 3, "batch_size": 25}


def network(classes: int = 3, pixels: int = 16) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(pixels, 32), torch.nn.ReLU(), torch.nn.Linear(32, classes)
    )
    with torch.no_grad():
        layers[1].weight *= 5  # so that labels vary under noise
    return layers.eval()


def linear(w: torch.Tensor, b: float):
    """f(x) = 1[w·x + b > 0] in float64, so that the classifier itself adds no rounding worth naming."""

    def classifier(x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1).double() @ w + b
        return torch.stack([-score, score], dim=1)

    return classifier


def assert_binomial(count: int, n: int, p: float, false_alarm: float = 1e-7) -> None:
    """Refuse a count whose exact two-sided binomial tail under p is below the false alarm rate."""
    low, high = binom.ppf(false_alarm / 2, n, p), binom.ppf(1 - false_alarm / 2, n, p)
    assert low <= count <= high, (count, n, p, low, high)


# -- the linear classifier, whose smoothed probability is known without sampling


@pytest.mark.parametrize("threshold", [90, 128, 160, 250])
def test_one_pixel_threshold_has_exactly_its_gaussian_probability(threshold):
    # f reads one pixel and cuts half way between two grid levels: z >= threshold - 1/2. Then round(z) >= threshold says
    # the same, so the grid sampler's probability is Phi(|w·x + b| / (sigma ||w||)) with no discretisation at all.
    image = np.full((1, 2, 2), 128, dtype=np.uint8)
    image[0, 1, 0] = 140
    w = torch.tensor([0.0, 0.0, 255.0, 0.0], dtype=torch.float64)
    sigma, n, b = 0.1, 100_000, -(threshold - 0.5)
    counts = sample_counts(linear(w, b), image, image_ids(image), sigma=sigma, n=n, seed=1, batch_size=5_000)
    margin = 140 + b
    assert_binomial(int(counts[0, 1]), n, NORMAL.cdf(margin / (sigma * 255)))


@pytest.mark.parametrize("sampler", ["grid", "gaussian"])
@pytest.mark.parametrize("shift", [-0.9, -0.2, 0.4, 1.3])
def test_linear_classifier_is_its_own_smoothing(sampler, shift):
    # f cuts along all pixels with generic weights. The grid's noise is round(255 eps)/255, of variance
    # sigma^2 + 1/(12·255^2) a pixel: at sigma = 0.25 that is 1e-5 of sigma, so Phi moves by < 3e-6, a thousandth of
    # the binomial slack at n = 100,000; and the weights make w·noise far finer than one grid step.
    image = np.random.default_rng(5).integers(0, 256, (1, 4, 4), dtype=np.uint8)
    w = torch.from_numpy(np.random.default_rng(6).normal(size=16))
    sigma, n = 0.25, 100_000
    margin = shift * sigma * float(w.norm())
    b = margin - float(torch.from_numpy(image.ravel() / 255) @ w)
    counts = sample_counts(
        linear(w, b), image, image_ids(image), sigma=sigma, n=n, seed=2, sampler=sampler, batch_size=5_000
    )
    assert_binomial(int(counts[0, 1]), n, NORMAL.cdf(margin / (sigma * float(w.norm()))))


def test_the_linear_oracle_can_fail():
    # The check above would notice noise 5% too strong.
    with pytest.raises(AssertionError):
        assert_binomial(round(100_000 * NORMAL.cdf(1.3 / 1.05)), 100_000, NORMAL.cdf(1.3))


def test_channels_are_smoothed_in_place():
    # Each channel of an RGB picture must reach the network as that channel: cut on the blue one.
    image = np.zeros((1, 3, 2, 3), dtype=np.uint8)
    image[0, 1, 1] = (10, 20, 200)

    def classifier(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 3, 2)
        score = x[:, 2, 1, 1] - 0.5
        return torch.stack([-score, score], dim=1)

    counts = sample_counts(classifier, image, image_ids(image), sigma=0.01, n=50, seed=0)
    assert counts.tolist() == [[0, 50]]


# -- counts are a function of the named things and of nothing else


def test_counts_are_those_of_the_named_noise():
    # The definition, one draw at a time: batch size 1 and no code of sample_counts.
    classifier, draws = network(), 40
    noise = make_sampler("grid", 0.25)
    expected = np.zeros((5, 3), dtype=int)
    for row, image in enumerate(IMAGES):
        noisy = np.empty((1, draws, 16), dtype=np.float32)
        noise.fill(
            image.reshape(1, 16), IDS[row : row + 1], first_draw=7, draws=draws, seed=3, stream=TARGETS, out=noisy
        )
        with torch.no_grad():
            for draw in noisy[0]:
                expected[row, int(classifier(torch.from_numpy(draw).reshape(1, 1, 4, 4)).argmax())] += 1
    found = sample_counts(classifier, IMAGES, IDS, sigma=0.25, n=draws, seed=3, first_draw=7, batch_size=16)
    assert found.dtype == np.uint32
    assert np.array_equal(found, expected)
    assert (np.count_nonzero(expected, axis=1) > 1).any()


def test_counts_do_not_depend_on_order_subset_or_company():
    classifier = network()
    whole = sample_counts(classifier, IMAGES, IDS, **SETTINGS)
    order = np.array([3, 0, 4])
    assert np.array_equal(sample_counts(classifier, IMAGES[order], IDS[order], **SETTINGS), whole[order])
    for row in range(5):
        one = slice(row, row + 1)
        assert np.array_equal(sample_counts(classifier, IMAGES[one], IDS[one], **SETTINGS), whole[one])
    assert len({tuple(row) for row in whole.tolist()}) > 1


def test_the_ids_seed_and_stream_name_the_noise():
    classifier = network()
    base = {"sigma": 0.25, "n": 400, "seed": 3}
    whole = sample_counts(classifier, IMAGES, IDS, **base)
    assert np.array_equal(whole, sample_counts(classifier, IMAGES, IDS, **base))
    for change in ({"seed": 4}, {"stream": 1}, {"first_draw": 400}, {"sigma": 0.5}, {"sampler": "gaussian"}):
        assert not np.array_equal(whole, sample_counts(classifier, IMAGES, IDS, **base | change)), change
    assert not np.array_equal(whole, sample_counts(classifier, IMAGES, IDS[::-1].copy(), **base))


@settings(max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_draws_add_up(first, more, batch_size):
    # Counts of draws 0..a-1 and a..a+b-1 are the counts of 0..a+b-1; each row sums to n, at any batch and padding.
    classifier = network()
    keep = {"sigma": 0.25, "seed": 1, "batch_size": batch_size}
    one = sample_counts(classifier, IMAGES[:2], IDS[:2], n=first, **keep)
    two = sample_counts(classifier, IMAGES[:2], IDS[:2], n=more, first_draw=first, **keep)
    both = sample_counts(classifier, IMAGES[:2], IDS[:2], n=first + more, **keep)
    assert one.sum(axis=1).tolist() == [first, first]
    assert np.array_equal(one + two, both)


@given(st.integers(1, 2**31 - 1), st.integers(1, 10_000))
def test_batches_are_equal_fewest_and_enough(n, batch_size):
    batch, batches = batch_geometry(n, batch_size)
    assert batch <= batch_size
    assert batch * batches >= n > batch * (batches - 1)
    assert batches == -(-n // batch_size)
    assert batch_geometry(n, batch) == (batch, batches)  # a manifest's batch gives itself back


def test_every_forward_pass_has_one_shape_and_no_gradient():
    shapes = []

    def classifier(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        assert torch.is_inference_mode_enabled()
        return x.flatten(1)[:, :2].clone()

    sample_counts(classifier, IMAGES[:2], IDS[:2], sigma=0.25, n=70, seed=0, batch_size=32)
    assert shapes == [(24, 1, 4, 4)] * 6  # 70 draws are 3 batches of 24, the last padded by 2


def test_gaussian_sampler_takes_8_bit_images_as_their_float32():
    floats = (IMAGES.astype(np.float32) / np.float32(255))[:, None]
    classifier = network()
    one = sample_counts(classifier, IMAGES, IDS, **SETTINGS, sampler="gaussian")
    assert np.array_equal(one, sample_counts(classifier, floats, IDS, **SETTINGS, sampler="gaussian"))


# -- float noise carries fingerprints (the reason the grid sampler exists)


def multiples(z: torch.Tensor) -> torch.Tensor:
    """f(z) = 1 iff every pixel is a multiple of 2^-24."""
    scaled = z.flatten(1).double() * 2**24
    inside = (scaled == scaled.round()).all(dim=1)
    return torch.stack([~inside, inside], dim=1).float()


def test_float_noise_yields_a_false_certificate_and_the_grid_refuses_to_try():
    n, sigma, alpha = 100_000, 0.5, 0.001
    ones = np.ones((1, 1, 1, 10), dtype=np.float32)
    near = np.full((1, 1, 1, 10), 0.6, dtype=np.float32)
    keep = {"sigma": sigma, "n": n, "seed": 0, "batch_size": 10_000}
    at_ones = sample_counts(multiples, ones, np.array([1], np.uint64), sampler="gaussian", **keep)
    at_near = sample_counts(multiples, near, np.array([2], np.uint64), sampler="gaussian", **keep)
    assert at_ones[0, 1] == n
    radius = sigma * NORMAL.inv_cdf(alpha ** (1 / n))  # Clopper-Pearson of n out of n
    distance = float(np.linalg.norm(ones.astype(float) - near))
    assert radius == pytest.approx(1.906, abs=5e-4)
    assert distance < radius  # so the certificate says P[f = 1] > 1/2 at `near` too ...
    assert 0.30 < at_near[0, 1] / n < 0.36  # ... which is false
    for images in (ones, near):
        with pytest.raises(TypeError, match=r"expected uint8 for the grid sampler, got float32"):
            sample_counts(multiples, images, np.array([1], np.uint64), sampler="grid", **keep)


def test_the_grid_sampler_counts_that_classifier_at_its_true_probability():
    # On the grid the same f is a function of whole numbers k (f32(k/255) a multiple of 2^-24 or not), so its smoothed
    # probability can be summed exactly; no image start leaves a trace, and nothing is certified falsely at 255.
    sigma, n = 0.5, 20_000
    grid = np.arange(-1200, 1500)
    inside = multiples(torch.from_numpy(grid.astype(np.float32) / np.float32(255))[:, None]).argmax(1).numpy()
    images = np.array([[[255] * 10], [[153] * 10]], dtype=np.uint8)
    counts = sample_counts(multiples, images, image_ids(images), sigma=sigma, n=n, seed=0, batch_size=10_000)
    for start, row in zip((255, 153), counts, strict=True):
        step = [NORMAL.cdf((2 * (k - start) + 1) / (510 * sigma)) for k in (grid[0] - 1, *grid)]
        assert_binomial(int(row[1]), n, float(np.diff(step) @ inside) ** 10)
    assert counts[0, 1] < n / 2


# -- what is refused


def call(classifier=None, images=IMAGES, ids=IDS, **changes: object):
    return sample_counts(classifier or network(), images, ids, **SETTINGS | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, r"sigma: expected a finite number above 0.*got 0\.0"),
        ({"sigma": -1.0}, r"sigma: expected"),
        ({"sigma": math.nan}, r"sigma: expected.*nan"),
        ({"sigma": math.inf}, r"sigma: expected.*inf"),
        ({"sigma": 15.0}, r"sigma: expected.*at most 14.*got 15"),
        ({"n": 0}, r"n: expected 1 to 2\^31 - 1 draws, got 0"),
        ({"n": 2**31}, r"n: expected"),
        ({"batch_size": 0}, r"batch_size: expected at least 1 draw, got 0"),
        ({"seed": -1}, r"seed: expected 0 to"),
        ({"seed": 2**64}, r"seed: expected 0 to"),
        ({"stream": 256}, r"stream: expected 0 to 255, got 256"),
        ({"first_draw": -1}, r"first_draw: expected"),
        ({"first_draw": 2**32 - 59}, r"first_draw: expected draws, padding included, within 0 to 2\^32 - 1"),
        ({"sampler": "uniform"}, r"sampler: expected one of grid, gaussian, got 'uniform'"),
        ({"images": IMAGES[0]}, r"images: expected shape \(N, H, W\)"),
        ({"images": IMAGES[:0], "ids": IDS[:0]}, r"at least one image"),
        ({"ids": IDS[:4]}, r"ids: expected uint64\[5\], one an image, got uint64\[4\]"),
        ({"ids": IDS.astype(np.int64)}, r"ids: expected uint64\[5\], one an image, got int64\[5\]"),
        ({"ids": IDS + np.uint64(2**56)}, r"ids: expected ids below 2\^56"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        call(**change)


def test_the_last_draws_of_all_can_be_used():
    assert call(n=60, batch_size=20, first_draw=2**32 - 60).sum() == 300


def test_normalised_or_misshapen_float_images_are_refused():
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got -1\.0 to 1\.0\. Normalise in the classifier"):
        call(images=np.linspace(-1, 1, 80, dtype=np.float32).reshape(5, 1, 4, 4), sampler="gaussian")
    with pytest.raises(ValueError, match=r"got nan to nan"):
        call(images=np.full((5, 1, 4, 4), np.nan, np.float32), sampler="gaussian")
    with pytest.raises(ValueError, match=r"float32 of shape \(B, C, H, W\), got \(5, 4, 4\)"):
        call(images=np.zeros((5, 4, 4), np.float32), sampler="gaussian")
    with pytest.raises(TypeError, match=r"expected uint8 pixels in 0\.\.255, got float64"):
        call(images=IMAGES / 255, sampler="gaussian")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_are_refused_naming_image_and_number(bad):
    network_ = network()
    target = torch.from_numpy(IMAGES[3] / np.float32(255))

    def classifier(x: torch.Tensor) -> torch.Tensor:
        logits = network_(x).clone()
        if (x.mean(dim=0)[0] - target).abs().mean() < 0.08:  # draws of image 3
            logits[:4, 1] = bad
        return logits

    # 60 draws are 3 batches of 20: 4 bad rows in each.
    with pytest.raises(ValueError, match=rf"got NaN or inf in 12 of 60 draws of image {IDS[3]}\.$"):
        call(classifier)
    with pytest.raises(ValueError, match=rf"in 60 of 60 draws of image {IDS[0]}"):
        call(lambda x: torch.full((len(x), 3), bad))


def test_padding_is_not_counted_even_when_it_is_not_finite():
    def classifier(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 3)
        logits[19:] = math.nan
        return logits

    # 58 draws are 3 batches of 20 of which the last holds 18: its last two rows are padding.
    with pytest.raises(ValueError, match=r"in 2 of 58 draws"):
        call(classifier, n=58)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: torch.zeros(len(x)), r"logits \[M, K\] with K >= 2, got shape \(20,\)"),
        (lambda x: torch.zeros(len(x), 1), r"with K >= 2, got shape \(20, 1\)"),
        (lambda x: torch.zeros(len(x) - 1, 3), r"expected logits \(20, 3\), got shape \(19, 3\)"),
        (lambda x: torch.zeros(len(x), 3, 2, 2), r"got shape \(20, 3, 2, 2\)"),
    ],
)
def test_classifiers_that_give_another_shape_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        call(answer)


def test_a_classifier_that_changes_its_mind_on_k_is_refused():
    sizes = iter([3, 3, 4])
    with pytest.raises(ValueError, match=r"expected logits \(20, 3\), got shape \(20, 4\)"):
        call(lambda x: torch.zeros(len(x), next(sizes)))


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"expected evaluation mode.*classifier\.eval\(\)"):
        call(network().train())


def test_ties_go_to_the_first_class():
    assert call(lambda x: torch.zeros(len(x), 3)).tolist() == [[60, 0, 0]] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0}, "sigma: "),
        ({"n": 0}, "n: "),
        ({"batch_size": 0}, "batch_size: "),
        ({"sampler": "normal"}, "sampler: "),
        ({"shard_size": 0}, "shard_size: expected at least 1 image, got 0"),
        ({"seed": -1}, "seed: "),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16, got 'float16'"),
    ],
)
def test_config_names_the_field_that_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "dask"}, "executor: expected one of local, ray, got 'dask'"),
        ({"threads": -1}, "threads: expected 0 or more, got -1"),
        ({"workers": -2}, "workers: expected 0 or more, got -2"),
        ({"cpus_per_worker": 0.0}, "cpus_per_worker: expected a finite number above 0"),
        ({"cpus_per_worker": 1.5}, "cpus_per_worker: expected a whole number, or a share below 1, got 1.5"),
        ({"gpus_per_worker": -0.5}, "gpus_per_worker: "),
        ({"patience": float("nan")}, "patience: "),
        ({"address": "auto"}, "address: expected none with executor='local'"),
    ],
)
def test_execution_names_the_field_that_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        ExecutionConfig(**change)


def test_execution_chooses_gpus_and_threads():
    assert [ExecutionConfig().gpus(device) for device in ("cpu", "cuda", "cuda:1")] == [0.0, 1.0, 1.0]
    assert ExecutionConfig(gpus_per_worker=0.25).gpus("cuda") == 0.25
    assert ExecutionConfig(gpus_per_worker=0.0).gpus("cuda") == 0.0
    assert [ExecutionConfig(cpus_per_worker=cpus).worker_threads for cpus in (0.5, 1.0, 4.0)] == [1, 1, 4]


def test_importing_the_config_loads_no_torch():
    script = "import sys, rrise.targets.sampling; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "tqdm", "scipy", "pyarrow"} & set(loaded)
