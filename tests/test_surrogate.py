"""The surrogate's losses have the gradients they should, and the fit trains what it should, chosen by held-out loss."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom
from torch import nn

from rrise.training.cross_validation import Setting, best, cross_validate, folds, grid
from rrise.training.losses import jensen_shannon, soft_cross_entropy
from rrise.training.networks import Network, NetworkSpec, build_network, head, load_network
from rrise.training.surrogate import FitConfig, Surrogate, fit_surrogate

K, N, DRAWS = 4, 120, 400
MIXER = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_blocks": 1, "drop_rate": 0.1}
CONV = {"dim": 12, "depth": 1, "kernel_size": 3, "patch_size": 2}
CONFIG = FitConfig(
    strategy="head",
    lr=(3e-2,),
    weight_decay=(0.0,),
    epochs=(20,),
    folds=3,
    held_out=0,
    batch_size=32,
    threads=1,
)


# Losses


def gradient(loss: Any, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each row's loss by its logits."""
    logits = logits.clone().requires_grad_(True)
    (loss(logits, target) * len(logits)).backward()
    assert logits.grad is not None
    return logits.grad


def js_logit_gradient(q: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return the gradient by the logits that a derivative g by q makes: the softmax's Jacobian times g."""
    return q * (g - (q * g).sum(-1, keepdim=True))


def random_rows(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, 2, (rows, K))), torch.from_numpy(rng.dirichlet(np.full(K, 0.5), rows))


def test_cross_entropy_against_its_formula() -> None:
    logits, target = random_rows(50)
    expected = -np.mean(np.sum(target.numpy() * np.log(torch.softmax(logits, 1).numpy()), axis=1))
    assert soft_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_jensen_shannon_against_scipy() -> None:
    logits, target = random_rows(50)
    target[:10, 0] = 0
    target[:10] /= target[:10].sum(1, keepdim=True)
    q = torch.softmax(logits, 1).numpy()
    expected = [jensenshannon(p_row, q_row) ** 2 for p_row, q_row in zip(target.numpy(), q, strict=True)]
    assert jensen_shannon(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-10)


def test_jensen_shannon_derivative_is_half_log_q_over_m() -> None:
    logits, target = random_rows(50)
    q = torch.softmax(logits, 1)
    g = 0.5 * torch.log(q / ((target + q) / 2))
    torch.testing.assert_close(gradient(jensen_shannon, logits, target), js_logit_gradient(q, g), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [soft_cross_entropy, jensen_shannon])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_where_probabilities_vanish(loss: Any, dtype: torch.dtype) -> None:
    sharp = torch.tensor([[0.0, 3000.0, -3000.0], [3000.0, 0.0, 0.0], [-0.0, 0.0, 0.0], [-3e4, 3e4, 0]], dtype=dtype)
    target = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]], dtype=dtype)
    assert math.isfinite(loss(sharp, target).item())
    assert torch.isfinite(gradient(loss, sharp, target)).all()
    hit, miss = loss(sharp[1:2], target[1:2]).item(), loss(sharp[:1], target[:1]).item()
    assert hit == 0
    assert miss == pytest.approx(math.log(2) if loss is jensen_shannon else 3000)


def test_cross_entropy_gradient_is_unbiased_in_the_frequencies() -> None:
    n, draws = 7, 200_000
    logits, target = random_rows(1)
    p, q = target[0], torch.softmax(logits, 1)[0]
    frequencies = torch.from_numpy(np.random.default_rng(1).multinomial(n, p.numpy(), draws) / n)
    found = gradient(soft_cross_entropy, logits.expand(draws, K), frequencies)
    torch.testing.assert_close(found, q - frequencies, rtol=0, atol=1e-12)
    standard_error = (p * (1 - p) / (n * draws)).sqrt()
    assert ((found.mean(0) - (q - p)).abs() < 5.5 * standard_error).all()


def bias_by_simulation(n: int, draws: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (mean excess of the JS gradient over the one at p, its standard error, what the formula predicts)."""
    logits, target = torch.tensor([[1.0, 0.5, 0.0, -0.5]], dtype=torch.float64), torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    p, q = target[0].double(), torch.softmax(logits, 1)[0]
    frequencies = torch.from_numpy(np.random.default_rng(2).multinomial(n, p.numpy() / p.sum().item(), draws) / n)
    found = gradient(jensen_shannon, logits.expand(draws, K), frequencies)
    excess = found - gradient(jensen_shannon, logits, p[None])
    predicted = js_logit_gradient(q, p * (1 - p) / (4 * n * (p + q) ** 2))
    return excess.mean(0), excess.std(0) / draws**0.5, predicted


def test_jensen_shannon_gradient_is_biased_as_predicted() -> None:
    mean, error, predicted = bias_by_simulation(n=40, draws=400_000)
    assert (predicted.abs() > 8 * error).any()  # the simulation can see the bias ...
    assert ((mean - predicted).abs() < 5.5 * error + 0.05 * predicted.abs()).all()  # ... and it is this one


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_jensen_shannon_bias_exactly_for_two_classes(n: int) -> None:
    p, logits = torch.tensor([0.7, 0.3]).double(), torch.tensor([[0.3, -0.2]]).double()
    q = torch.softmax(logits, 1)[0]
    k = np.arange(n + 1)
    frequencies = torch.from_numpy(np.stack([k, n - k], axis=1) / n)
    weights = torch.from_numpy(binom.pmf(k, n, 0.7))[:, None]
    each = gradient(jensen_shannon, logits.expand(n + 1, 2), frequencies)
    bias = (weights * each).sum(0) - gradient(jensen_shannon, logits, p[None])[0]
    predicted = js_logit_gradient(q, p * (1 - p) / (4 * n * (p + q) ** 2))
    assert (bias.sign() == predicted.sign()).all()
    # The next term of the expansion is of order 1/n relative to this one.
    assert ((bias / predicted - 1).abs() < 2 / n**0.5 * 0.5).all()


# Fit


def make_classifier(network: str = "timm.models.mlp_mixer:MlpMixer", options: dict[str, Any] | None = None) -> Network:
    spec = NetworkSpec(network, MIXER if options is None else options, K, (1, 8, 8), (0.5,), (0.5,))
    module = build_network(spec, seed=1)
    nn.init.normal_(head(module).weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return Network.of(spec, module, np.array([1000, 2000], dtype=np.uint64), {})


def make_counts(classifier: Network, images: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """Return counts that a good head can explain: a softmax of other weights on the classifier's features."""
    network = classifier.module.network
    pixels = torch.from_numpy(images)[:, None] / 255
    with torch.no_grad():
        features = network.forward_head(network.forward_features((pixels - 0.5) / 0.5), pre_logits=True)
    features = (features - features.mean(0)) / features.std(0)
    other = torch.randn(features.shape[1], K, generator=torch.Generator().manual_seed(9))
    p = torch.softmax(features @ other, 1).double()
    return np.random.default_rng(0).multinomial(draws, (p / p.sum(1, keepdim=True)).numpy())


@pytest.fixture(scope="module")
def classifier() -> Network:
    return make_classifier()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (N, 2, 2)).repeat(4, 1).repeat(4, 2) // 2 + rng.integers(0, 128, (N, 8, 8))).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def counts(classifier: Network, images: np.ndarray) -> np.ndarray:
    return make_counts(classifier, images)


IDS = np.arange(N, dtype=np.uint64)


def fit(classifier: Network, images: np.ndarray, counts: np.ndarray, **changes: Any) -> Surrogate:
    return fit_surrogate(classifier, images, counts, replace(CONFIG, **changes), training_ids=IDS)


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    a, b = before.state_dict(), after.state_dict()
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize("loss", ["ce", "js"])
def test_head_changes_the_head_alone(classifier: Network, images: np.ndarray, counts: np.ndarray, loss: str) -> None:
    found = fit(classifier, images, counts, loss=loss)
    assert changed(classifier.module, found.module) == {"network.head.weight", "network.head.bias"}
    assert not found.module.training
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


@pytest.mark.parametrize("strategy", ["head", "full", "scratch"])
@pytest.mark.parametrize("options", [MIXER, CONV], ids=["dropout", "batch norm"])
def test_equal_seeds_give_equal_bits_and_leave_the_classifier_alone(
    images: np.ndarray, strategy: str, options: dict[str, Any]
) -> None:
    network = "timm.models.mlp_mixer:MlpMixer" if options is MIXER else "timm.models.convmixer:ConvMixer"
    classifier = make_classifier(network, options)
    counts = make_counts(classifier, images)
    before = {name: tensor.clone() for name, tensor in classifier.module.state_dict().items()}
    threads = torch.get_num_threads()
    fits = []
    for state, seed in enumerate((0, 0, 1)):
        torch.manual_seed(state)  # which must not matter: dropout has a seed of its own
        fits.append(fit(classifier, images, counts, strategy=strategy, epochs=(3,), seed=seed))
    one, two, other = fits
    assert changed(one.module, two.module) == set()
    assert one.facts == two.facts
    assert changed(one.module, other.module)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.module.state_dict().items())
    assert torch.get_num_threads() == threads


def test_full_starts_from_the_classifier_and_scratch_anew(
    classifier: Network, images: np.ndarray, counts: np.ndarray
) -> None:
    still = {"lr": (1e-12,), "epochs": (1,), "folds": 0}
    fresh = build_network(classifier.spec, seed=7)
    for strategy, start in (("full", classifier.module), ("scratch", fresh)):
        found = fit(classifier, images, counts, strategy=strategy, seed=7, **still).module
        torch.testing.assert_close(dict(found.state_dict()), dict(start.state_dict()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("strategy", "moves"), [("full", False), ("scratch", True)])
def test_full_trains_all_weights_and_keeps_batch_statistics(images: np.ndarray, strategy: str, moves: bool) -> None:
    convolutional = make_classifier("timm.models.convmixer:ConvMixer", CONV)
    counts = make_counts(convolutional, images)
    found = fit(convolutional, images, counts, strategy=strategy, epochs=(3,), folds=0, lr=(1e-3,))
    moved = changed(convolutional.module, found.module)
    assert {name for name, _ in found.module.named_parameters()} <= moved
    running = {name for name, _ in found.module.named_buffers() if "running" in name}
    assert len(running) == 6
    assert (running <= moved) is moves
    assert running.isdisjoint(moved) is not moves


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "js"])
@pytest.mark.parametrize("strategy", ["head", "full", "scratch"])
def test_fit_explains_held_out_images_better_than_the_classifier(
    classifier: Network, images: np.ndarray, counts: np.ndarray, strategy: str, loss: str
) -> None:
    facts = fit(classifier, images, counts, strategy=strategy, loss=loss, lr=(1e-2,), epochs=(60,)).facts
    excess, untrained = (facts[name] - facts["target_entropy"] for name in ("held_out_loss", "classifier_loss"))
    assert 0 < excess < (1 if strategy == "scratch" else 0.5) * untrained  # from scratch, 80 images teach little


def test_held_out_loss_is_that_of_images_not_fitted(
    classifier: Network, images: np.ndarray, counts: np.ndarray
) -> None:
    # Counts that no image explains: whoever looked at the held-out ones would seem better than their entropy allows.
    noise = np.random.default_rng(3).multinomial(1, np.full(K, 1 / K), N)
    facts = fit(classifier, images, noise, strategy="full", lr=(1e-2,), epochs=(60,)).facts
    assert facts["training_loss"] < 0.5 * math.log(K)
    assert facts["held_out_loss"] > math.log(K)


def test_cross_validation_table_holds_every_setting_and_the_chosen_is_least(
    classifier: Network, images: np.ndarray, counts: np.ndarray
) -> None:
    # Planted: of these learning rates one learns; one stands still, one destroys.
    found = fit(classifier, images, counts, lr=(1e-9, 3e-2, 1e4), epochs=(2, 20), weight_decay=(0.0, 1e-3))
    table = found.facts["cross_validation"]
    assert [(row["lr"], row["weight_decay"], row["epochs"]) for row in table] == [
        (lr, decay, epochs) for lr in (1e-9, 3e-2, 1e4) for decay in (0.0, 1e-3) for epochs in (2, 20)
    ]
    chosen = min(table, key=lambda row: row["held_out_loss"])
    assert found.facts["chosen"] == {name: chosen[name] for name in ("lr", "weight_decay", "epochs")}
    assert (chosen["lr"], chosen["epochs"]) == (3e-2, 20)
    assert found.facts["held_out_loss"] == chosen["held_out_loss"]
    assert all(len(row["fold_losses"]) == 3 for row in table)
    for row in table[:4]:
        assert row["held_out_loss"] == pytest.approx(found.facts["classifier_loss"], rel=1e-4)


def test_classifier_loss_and_entropy_are_exact(classifier: Network, images: np.ndarray, counts: np.ndarray) -> None:
    facts = fit(classifier, images, counts, folds=0).facts
    p = (counts / DRAWS).astype(np.float32).astype(np.float64)
    log_q = torch.log_softmax(classifier.module(torch.from_numpy(images)[:, None] / 255).double(), 1).numpy()
    assert facts["classifier_loss"] == pytest.approx(-(p * log_q).sum(1).mean(), rel=1e-6)
    assert facts["target_entropy"] == pytest.approx(-(p * np.log(np.where(p > 0, p, 1))).sum(1).mean(), rel=1e-12)
    assert facts["cross_validation"] == []
    assert facts["held_out_loss"] is None


def test_images_weigh_the_same_whatever_their_draws(
    classifier: Network, images: np.ndarray, counts: np.ndarray
) -> None:
    uneven = counts.copy()
    uneven[::2] *= 2
    even = fit(classifier, images, counts, folds=0)
    assert changed(even.module, fit(classifier, images, uneven, folds=0).module) == set()


def test_training_ids_are_those_of_both_networks(
    classifier: Network, images: np.ndarray, counts: np.ndarray, tmp_path: Any
) -> None:
    found = fit(classifier, images, counts, folds=0)
    assert found.training_ids.tolist() == [*range(N), 1000, 2000]
    identity = found.save(tmp_path / "surrogate", classes=list("abcd"), sigma=0.25)
    read = load_network(tmp_path / "surrogate")
    assert read.training_ids.tolist() == [*range(N), 1000, 2000]
    assert identity == read.sha256 == found.network().sha256
    assert (read.facts["kind"], read.facts["sigma"], read.facts["chosen"]["lr"]) == ("surrogate", 0.25, 3e-2)
    assert changed(read.module, found.module) == set()


def test_summary_names_choice_and_losses(classifier: Network, images: np.ndarray, counts: np.ndarray) -> None:
    found = fit(classifier, images, counts)
    for part in ("lr 0.03, weight decay 0, 20 epochs", f"held-out loss {found.facts['held_out_loss']:.4f}", "entropy"):
        assert part in found.summary()
    assert "not held out" in fit(classifier, images, counts, folds=0).summary()


def goes_on(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.Tanh())


def test_head_that_does_not_give_the_logits_is_refused(images: np.ndarray, counts: np.ndarray) -> None:
    network = make_classifier(f"{__name__}:goes_on", {})
    with pytest.raises(ValueError, match=r"got one that goes on after it\. Use strategy full"):
        fit(network, images, counts)
    assert fit(network, images, counts, strategy="full", folds=0).facts["training_loss"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c[:-1], "got 119 rows of counts and 120 images", id="rows"),
        pytest.param(lambda c: c[:, :-1], "4 columns, the classifier's classes, got 3", id="K"),
        pytest.param(lambda c: c / DRAWS, "expected integers", id="probabilities"),
        pytest.param(lambda c: c * (np.arange(N) > 0)[:, None], "at least one draw each", id="no draws"),
        pytest.param(lambda c: c - 1000, "at least one draw each", id="negative"),
    ],
)
def test_counts_must_fit(
    classifier: Network, images: np.ndarray, counts: np.ndarray, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(classifier, images, change(counts))


def test_misfit_images_and_divergence_are_refused(classifier: Network, images: np.ndarray, counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(C, H, W\) = \(1, 8, 8\), the network's, got \(1, 4, 8\)"):
        fit(classifier, images[:, ::2], counts)
    with pytest.raises(TypeError, match="expected uint8 pixels"):
        fit(classifier, images / np.float32(255), counts)
    with pytest.raises(ValueError, match="lr: training diverged with every one of 2 settings"):
        fit(classifier, images, counts, strategy="full", lr=(1e30, 1e31))
    with pytest.raises(ValueError, match="lr: training diverged with lr="):
        fit(classifier, images, counts, strategy="full", lr=(1e30,), folds=0)
    with pytest.raises(ValueError, match="folds: expected at most 120, the number of images, got 121"):
        fit(classifier, images, counts, folds=121)


def test_what_is_tried_where_nothing_is_set() -> None:
    one = FitConfig()
    assert (one.strategy, one.settings(1), one.settings(60)) == (
        "full",
        [Setting(1e-3, 0.01, 30)],
        [Setting(1e-3, 0.01, 60)],
    )
    assert FitConfig(epochs=(7,)).settings(60) == [Setting(1e-3, 0.01, 7)]
    assert len(FitConfig(strategy="head").settings(60)) == 8
    assert [FitConfig().folds_for(count) for count in (1, 2)] == [0, 5]
    assert [FitConfig(folds=3).folds_for(count) for count in (1, 2)] == [3, 3]
    with pytest.raises(ValueError, match="folds: expected 2 or more to choose among 8 settings, got 0"):
        FitConfig(strategy="head", folds=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "body"),
        ("loss", "mse"),
        ("lr", (0.0,)),
        ("weight_decay", (-1.0,)),
        ("weight_decay", (math.inf,)),
        ("epochs", (0,)),
        ("folds", 1),
        ("folds", -2),
        ("held_out", -1),
        ("batch_size", 0),
        ("threads", -1),
        ("seed", -1),
    ],
)
def test_config_names_the_field_it_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        FitConfig(**{field: value})  # type: ignore[arg-type]


# Cross-validation


def test_folds_hold_out_each_example_once() -> None:
    parts = folds(23, 5, seed=0)
    assert sorted(np.concatenate([held_out for _, held_out in parts])) == list(range(23))
    for training, held_out in parts:
        assert sorted([*training, *held_out]) == list(range(23))
        assert len(held_out) in (4, 5)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(parts, folds(23, 5, seed=1), strict=True))


def test_planted_best_setting_is_found() -> None:
    settings = grid((0.1, 0.2), (0.0,), (1, 5))
    planted = {Setting(0.1, 0.0, 1): 3.0, Setting(0.1, 0.0, 5): 1.0, Setting(0.2, 0.0, 1): math.nan}
    trials = cross_validate(settings, folds(10, 3, 0), lambda setting, *_: planted.get(setting, 1.0))
    assert best(trials).setting == Setting(0.1, 0.0, 5)  # the first among equals
    assert [trial.row()["held_out_loss"] for trial in trials] == [3.0, 1.0, None, 1.0]
    with pytest.raises(ValueError, match="diverged with every one of 4 settings"):
        best(cross_validate(settings, folds(10, 3, 0), lambda *_: math.nan))


def test_held_out_loss_is_a_mean_over_examples() -> None:
    [trial] = cross_validate(grid((1.0,), (0.0,), (1,)), folds(5, 2, 0), lambda _, __, held_out: float(len(held_out)))
    assert sorted(trial.losses) == [2.0, 3.0]
    assert trial.loss == pytest.approx((3 * 3 + 2 * 2) / 5)
