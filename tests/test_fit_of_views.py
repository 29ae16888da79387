"""A fit sees each view once, never an image that it holds out, and ends the same however often it is interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from rrise.training import checkpoint as checkpoint_module
from rrise.training import losses
from rrise.training.checkpoint import Checkpoint
from rrise.training.held_out import held_out_rows, probit_errors
from rrise.training.networks import Network, NetworkSpec, build_network, head
from rrise.training.surrogate import FitConfig, Surrogate, fit_surrogate
from rrise.views import Views

K, N, V, DRAWS = 4, 60, 5, 4
VIEWS = Views(V, 1, True, 3)
CONV = {"dim": 12, "depth": 1, "kernel_size": 3, "patch_size": 2}
MIXER = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_blocks": 1, "drop_rate": 0.3}
IMAGES = np.random.default_rng(0).integers(1, 256, (N, 8, 8), dtype=np.uint8)
IDS = np.random.default_rng(1).permutation(N).astype(np.uint64)
COUNTS = [np.random.default_rng(2 + v).multinomial(DRAWS, np.full(K, 1 / K), N) for v in range(V)]
CONFIG = FitConfig(batch_size=16, held_out=3, threads=1)


def counts_of(view: int) -> np.ndarray:
    return COUNTS[view]


def classifier(network: str = "timm.models.convmixer:ConvMixer", options: dict[str, Any] = CONV) -> Network:
    spec = NetworkSpec(network, options, K, (1, 8, 8), (0.5,), (0.5,))
    module = build_network(spec, seed=1)
    nn.init.normal_(head(module).weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return Network.of(spec, module, np.array([1000], dtype=np.uint64), {})


def fit(
    network: Network, counts: Callable[[int], np.ndarray] = counts_of, views: Views = VIEWS, **how: Any
) -> Surrogate:
    own = {name: how.pop(name) for name in ("checkpoint",) if name in how}
    return fit_surrogate(network, IMAGES, counts, replace(CONFIG, **how), training_ids=IDS, views=views, **own)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SEEN: list[tuple[bool, torch.Tensor]] = []


class Noting(nn.Module):
    """A linear network that notes what it is shown, and whether it is in training mode."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        SEEN.append((self.training, pixels.detach().clone()))
        return self.head(pixels.flatten(1))


def as_bytes(pixels: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in np.rint((pixels.numpy() * 0.5 + 0.5) * 255).astype(np.uint8)]


@pytest.mark.parametrize("epochs", [(), (7,)])
def test_each_pass_is_over_the_next_view_of_the_images_that_train(
    monkeypatch: pytest.MonkeyPatch, epochs: tuple[int, ...]
) -> None:
    SEEN.clear()
    network = classifier(f"{__name__}:Noting", {})
    fitted_to: list[np.ndarray] = []
    real = losses.soft_cross_entropy

    def noted(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        fitted_to.extend(target.numpy() if logits.requires_grad else ())
        return real(logits, target)

    monkeypatch.setattr(losses, "soft_cross_entropy", noted)
    found = fit(network, strategy="scratch", epochs=epochs)
    passes = (*epochs, V)[0]
    assert found.facts["chosen"]["epochs"] == passes
    training = np.argsort(IDS)[3:]  # the images of the three smallest ids are held out
    shown = [row for training_mode, pixels in SEEN if training_mode for row in as_bytes(pixels)]
    assert len(shown) == len(fitted_to) == passes * len(training)
    for number in range(passes):
        here = slice(number * len(training), (number + 1) * len(training))
        view = VIEWS.images(IMAGES, IDS, number % V)[training]
        expected = dict(zip([image.tobytes() for image in view], COUNTS[number % V][training] / DRAWS, strict=True))
        assert sorted(shown[here]) == sorted(expected)
        assert shown[here] != list(expected)  # in an order of its own
        for image, target in zip(shown[here], fitted_to[here], strict=True):
            assert target.tolist() == expected[image].tolist()
    held = {image.tobytes() for image in IMAGES[np.argsort(IDS)[:3]]}
    assert held.isdisjoint(shown)


def test_held_out_images_are_a_twentieth_of_the_smallest_ids() -> None:
    ids = np.array([5, 3, 9, *range(100, 197)], dtype=np.uint64)
    assert held_out_rows(ids, 2000).tolist() == [0, 1, 2, 3, 4]
    assert held_out_rows(ids, 2).tolist() == [0, 1]
    assert held_out_rows(ids, 0).tolist() == []
    assert held_out_rows(ids[:19], 2000).tolist() == []


def test_what_held_out_images_say_against_numpy() -> None:
    network = classifier()
    found = fit(network, epochs=(4,))
    rows = np.argsort(IDS)[:3]
    sums = np.zeros(5)
    for view in range(V):
        pixels = torch.from_numpy(VIEWS.images(IMAGES, IDS, view)[rows])[:, None] / 255
        counts = COUNTS[view][rows]
        p = (counts / DRAWS).astype(np.float32).astype(np.float64)
        with torch.no_grad():
            logits, own = (torch.log_softmax(m.module(pixels).double(), 1).numpy() for m in (found, network))
        label, each = logits.argmax(1), np.arange(3)
        k = counts[each, label]
        q = np.clip(np.exp(logits[each, label]), 0.5 / (DRAWS + 1), (DRAWS + 0.5) / (DRAWS + 1))
        sums += [
            -(p * logits).sum(1).mean(),
            -(p * own).sum(1).mean(),
            -(p * np.log(np.where(p > 0, p, 1))).sum(1).mean(),
            np.mean(k == counts.max(1)),
            np.abs(norm.ppf(q) - norm.ppf((k + 0.5) / (DRAWS + 1))).mean(),
        ]
    facts, held = found.facts, found.facts["held_out"]
    said = [
        facts["held_out_loss"],
        facts["classifier_loss"],
        facts["target_entropy"],
        held["agreement"],
        held["probit_error"],
    ]
    np.testing.assert_allclose(said, sums / V, rtol=2e-5)
    assert held["images"] == 3
    assert len(held["curve"]) == 4
    itself = torch.from_numpy(IMAGES[rows])[:, None] / 255
    with torch.no_grad():
        logits = torch.log_softmax(found.module(itself).double(), 1).numpy()
    assert held["curve"][-1] == pytest.approx(-(COUNTS[0][rows] / DRAWS * logits).sum(1).mean(), rel=1e-5)
    for part in (
        "4 epochs over 4 of 5 views",
        f"held-out loss {facts['held_out_loss']:.4f}",
        "on the 3 images held out",
    ):
        assert part in found.summary()
    assert f"agreement {held['agreement']:.1%}, probit error {held['probit_error']:.3f}" in found.summary()
    assert found.training_ids.tolist() == [*range(N), 1000]  # held-out images are no calibration images either


def test_probit_errors_are_finite_at_the_ends_and_zero_at_what_was_drawn() -> None:
    logits = torch.tensor([[900.0, 0.0], [-900.0, 0.0], [0.0, 0.0], [math.log(8.5 / 2.5), 0.0]], dtype=torch.float64)
    counts = torch.tensor([[10.0, 0.0], [10.0, 0.0], [5.0, 5.0], [8.0, 2.0]], dtype=torch.float64)
    end = norm.ppf(10.5 / 11)
    np.testing.assert_allclose(probit_errors(logits, counts).numpy(), [0, 2 * end, 0, 0], atol=1e-9)


def test_without_images_to_spare_nothing_is_held_out() -> None:
    found = fit(classifier(), held_out=0, epochs=(1,))
    assert (found.facts["held_out"], found.facts["held_out_loss"]) == (None, None)
    assert "not held out" in found.summary()
    few = fit_surrogate(classifier(), IMAGES[:19], COUNTS[0][:19], CONFIG, training_ids=IDS[:19])
    assert few.facts["held_out"] is None


def test_head_and_cross_validation_take_views_too() -> None:
    network = classifier()
    found = fit(network, strategy="head", epochs=(6,))
    moved = {
        name
        for name, value in found.module.state_dict().items()
        if not torch.equal(value, network.module.state_dict()[name])
    }
    assert len(moved) == 2  # weight and bias of the head
    chosen = fit(network, lr=(1e-12, 1e-2), epochs=(5,), folds=2)
    assert len(chosen.facts["cross_validation"]) == 2
    assert chosen.facts["held_out"] is None


# -- interruptions


class Interruption(Exception):  # noqa: N818  (it is no error)
    pass


def stopping_at(view: int, asked: list[int]) -> Callable[[int], np.ndarray]:
    """Counts that fail when this view is asked for: in the middle of a fit."""

    def read(number: int) -> np.ndarray:
        asked.append(number)
        if number == view:
            raise Interruption
        return counts_of(number)

    return read


@pytest.mark.parametrize(
    ("strategy", "network", "options"),
    [("full", "timm.models.convmixer:ConvMixer", CONV), ("scratch", "timm.models.mlp_mixer:MlpMixer", MIXER)],
    ids=["full", "scratch, with dropout"],
)
def test_a_fit_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, network: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY", 0.0)
    made, key = classifier(network, options), {"fit": 1}
    whole = fit(made, strategy=strategy)
    for stop in (2, 4):
        asked: list[int] = []
        with pytest.raises(Interruption):
            fit(made, stopping_at(stop, asked), strategy=strategy, checkpoint=Checkpoint(tmp_path / "surrogate", key))
        assert (tmp_path / ".surrogate.partial" / "state.safetensors").is_file()
    again = Checkpoint(tmp_path / "surrogate", key)
    asked = []
    found = fit(made, stopping_at(-1, asked), strategy=strategy, checkpoint=again)
    assert asked[:2] == [0, 4]  # of the passes only the last was left
    assert same(found.module, whole.module)
    assert found.facts == whole.facts
    done = fit(made, strategy=strategy, checkpoint=Checkpoint(tmp_path / "surrogate", key))
    assert same(done.module, whole.module)  # interrupted after the last pass
    again.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["key", "byte", "cut"])
def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY", 0.0)
    made = classifier()
    with pytest.raises(Interruption):
        fit(made, stopping_at(3, []), lr=(0.1,), checkpoint=Checkpoint(tmp_path / "surrogate", {"lr": 0.1}))
    path = tmp_path / ".surrogate.partial" / "state.safetensors"
    content = bytearray(path.read_bytes())
    if fault != "key":
        content[len(content) // 2] ^= 1
        path.write_bytes(content if fault == "byte" else content[:100])
    key = {"lr": 1e-3 if fault == "key" else 0.1}
    with pytest.warns(RuntimeWarning, match=r"state\.safetensors is of other settings or inputs, or damaged"):
        found = fit(made, lr=(key["lr"],), checkpoint=Checkpoint(tmp_path / "surrogate", key))
    assert same(found.module, fit(made, lr=(key["lr"],)).module)


def test_checkpoints_are_not_written_more_often_than_they_are_worth(tmp_path: Path) -> None:
    fit(classifier(), checkpoint=Checkpoint(tmp_path / "surrogate", {}))
    assert list(tmp_path.iterdir()) == []
