"""Training under noise: a function of its seed, whose noise has the level that was asked for."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rrise.images import DataConfig, ImageSet, load_images, load_splits
from rrise.training.classifier import TrainConfig, train_classifier
from rrise.training.descent import Descent, reproducible, schedule
from rrise.training.pixels import image_tensor, moved_at_random, unit

QUICK = TrainConfig(
    options={"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 2},
    network="timm.models.convmixer:ConvMixer",
    epochs=3,
    weight_decay=0.05,
    threads=1,
)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits").take(np.arange(300))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return module.state_dict()


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def noisy_accuracy(module: nn.Module, images: ImageSet, sigma: float, draws: int = 1) -> float:
    pixels, generator = unit(image_tensor(images.images, images.input_shape)), torch.Generator().manual_seed(1)
    right = 0
    with torch.inference_mode():
        for _ in range(draws):
            label = module(pixels + sigma * torch.randn(pixels.shape, generator=generator)).argmax(1).numpy()
            right += (label == images.labels).sum()
    return float(right / (draws * len(images)))


def test_equal_seeds_give_equal_bits(digits: ImageSet) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    _, one, facts = train_classifier(digits, QUICK, 10)
    assert torch.equal(torch.rand(2), expected)  # torch's own random state is where it was
    assert torch.get_num_threads() == threads
    _, two, again = train_classifier(digits, QUICK, 10)
    _, other, _ = train_classifier(digits, replace(QUICK, seed=1), 10)
    assert equal(one, two)
    assert facts == again
    assert not equal(one, other)


@pytest.mark.parametrize("change", [{"sigma": 0.1}, {"shift": 1}, {"flip": True}, {"weight_decay": 1.0}, {"lr": 1e-3}])
def test_every_setting_has_an_effect(digits: ImageSet, change: dict[str, Any]) -> None:
    few = digits.take(np.arange(50))
    assert not equal(train_classifier(few, QUICK, 10)[1], train_classifier(few, replace(QUICK, **change), 10)[1])


def test_classifier_comes_frozen_with_its_spec(digits: ImageSet) -> None:
    spec, module, facts = train_classifier(digits, replace(QUICK, mean=(0.3,), epochs=10), 10)
    assert (spec.network, spec.num_classes, spec.input_shape, spec.mean) == (QUICK.network, 10, (1, 8, 8), (0.3,))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert facts["training"]["sigma"] == 0.5
    assert 0 < facts["training_loss"] < np.log(10)


def test_training_beats_chance_by_far(digits: ImageSet) -> None:
    config = replace(QUICK, sigma=0.25, epochs=40, lr=1e-2)
    _, module, _ = train_classifier(digits, config, 10)
    assert noisy_accuracy(module, digits, 0.25) > 0.7


def test_network_sees_noise_of_the_level_asked_for(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def record(num_classes: int) -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
        network.register_forward_pre_hook(lambda it, given: seen.append(given[0]) if it.training else None)
        return network

    monkeypatch.setitem(globals(), "record", record)
    grey = ImageSet.from_arrays(np.arange(100, dtype=np.uint8).repeat(64).reshape(-1, 8, 8), np.arange(100) % 10)
    config = replace(QUICK, network=f"{__name__}:record", options={}, epochs=20, mean=(0.0,), std=(1.0,), sigma=0.3)
    train_classifier(grey, config, 10)
    noise = torch.cat([batch - batch.mean((1, 2, 3), keepdim=True) for batch in seen])
    assert noise.shape == (20 * 100, 1, 8, 8)
    degrees = 63 * len(noise)
    variance = float((noise.double() ** 2).sum() / degrees)
    assert abs(variance / 0.09 - 1) < 5 * (2 / degrees) ** 0.5
    assert len(noise.unique()) > 0.99 * noise.numel()  # fresh noise at every epoch


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", ""),
        ("sigma", -0.1),
        ("sigma", float("nan")),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("weight_decay", -1.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("shift", -1),
        ("threads", -1),
        ("seed", -1),
    ],
)
def test_config_names_the_field_it_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_what_cannot_be_trained_is_refused(digits: ImageSet) -> None:
    with pytest.raises(ValueError, match="labels: expected 0 to 4, one of the 5 classes, got 0 to 9"):
        train_classifier(digits, QUICK, 5)
    with pytest.raises(ValueError, match=r"lr: training diverged with lr=1e\+30"):
        train_classifier(digits, replace(QUICK, lr=1e30), 10)
    with pytest.raises(ValueError, match="mean: expected 1 finite numbers, one a channel"):
        train_classifier(digits, replace(QUICK, mean=(0.5, 0.5)), 10)


@pytest.mark.parametrize("module", ["classifier", "surrogate", "export"])
def test_settings_load_without_torch(module: str) -> None:
    probe = (
        f"import sys, rrise.training.{module}; print(sorted({{'torch', 'timm', 'onnx', 'scipy'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The loop and the augmentation


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
def test_schedule_climbs_then_falls(total: int) -> None:
    rates = np.array([schedule(step, total) for step in range(total)])
    assert ((rates > 0) & (rates <= 1)).all()
    peak = int(rates.argmax())
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert total < 100 or (rates[peak] == 1 and rates[-1] < 1e-4 and peak <= 0.1 * total)


def test_vectors_are_not_decayed() -> None:
    module = nn.Linear(3, 2)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    with reproducible(0, "cpu") as generator:
        # A loss without a gradient: what moves is moved by the decay.
        Descent(0.1, 1.0, 4, 2).run(module, lambda _: 0.0 * (module.weight.sum() + module.bias.sum()), 4, generator)
    assert (module.weight < 0.9).all()
    assert (module.bias == 1).all()


def test_every_example_is_seen_once_an_epoch_in_near_equal_batches() -> None:
    module, seen = nn.Linear(1, 1), []

    def loss(indices: torch.Tensor) -> torch.Tensor:
        seen.append(indices.clone())
        return module.weight.sum() * 0

    with reproducible(0, "cpu") as generator:
        Descent(0.1, 0.0, 2, 10).run(module, loss, 21, generator)
    assert [len(batch) for batch in seen] == [7] * 6
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(21))
    assert not torch.equal(first, second)


def test_diverging_descent_gives_nan_at_once() -> None:
    module, epochs = nn.Linear(1, 1), []
    with reproducible(0, "cpu") as generator:
        found = Descent(0.1, 0.0, 9, 4).run(
            module, lambda _: module.weight.sum() * torch.inf, 4, generator, epochs.append
        )
    assert np.isnan(found)
    assert len(epochs) == 1


def test_shifts_move_whole_images_by_whole_pixels() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (400, 3, 5, 6), dtype=np.uint8))
    moved = moved_at_random(pixels, 1, False, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    padded = nn.functional.pad(pixels, (1, 1, 1, 1))
    choices = torch.stack([padded[:, :, a : a + 5, b : b + 6] for a in range(3) for b in range(3)])
    matches = (choices == moved).flatten(2).all(2)
    assert (matches.sum(0) == 1).all()  # each image is one of its nine translates ...
    assert (matches.sum(1) > 400 / 9 / 3).all()  # ... and each translate is used
    assert torch.equal(moved_at_random(pixels, 0, False, torch.Generator()), pixels)


def test_flips_mirror_half_the_images() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (400, 1, 3, 4), dtype=np.uint8))
    result = moved_at_random(pixels, 0, True, torch.Generator().manual_seed(0))
    mirrored = (result == pixels.flip(3)).flatten(1).all(1)
    kept = (result == pixels).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert abs(int(mirrored.sum()) - 200) < 50  # 5 standard deviations


def test_pixels_of_grey_and_colour_images() -> None:
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    colour = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert torch.equal(image_tensor(grey, (1, 3, 4)), torch.from_numpy(grey)[:, None])
    assert torch.equal(image_tensor(colour, (3, 3, 4)), torch.from_numpy(colour).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(unit(image_tensor(grey, (1, 3, 4)))[:, 0], grey / np.float32(255))
    with pytest.raises(ValueError, match=r"images: expected \(C, H, W\) = \(1, 3, 4\), the network's, got \(3, 3, 4\)"):
        image_tensor(colour, (1, 3, 4))


@pytest.mark.slow
def test_default_settings_make_a_good_smoothed_classifier_of_digits() -> None:
    splits = load_splits(DataConfig())
    _, module, _ = train_classifier(splits.train, TrainConfig(threads=1), 10)
    assert noisy_accuracy(module, splits.test, 0.0) > 0.95
    assert noisy_accuracy(module, splits.test, 0.25, draws=20) > 0.92
