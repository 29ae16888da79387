"""How the classifier is run: its precision and torch.compile change few labels, and are facts of the counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.convmixer import ConvMixer

from rrise.targets.passes import noisy_copies, prepare_classifier
from rrise.targets.sampling import sample_counts

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
IDS = np.arange(6, dtype=np.uint64)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=2, num_classes=10, in_chans=1)
    made(torch.rand(64, 1, 8, 8))
    made.eval()
    with torch.no_grad():  # no class is favoured, so labels vary under noise
        noisy = torch.from_numpy(IMAGES).float()[:, None] / 255 + 0.5 * torch.randn(200, 6, 1, 8, 8)
        made.head.bias -= made(noisy.flatten(0, 1)).mean(0)
    return made


def counts(classifier) -> np.ndarray:
    return sample_counts(classifier, IMAGES, IDS, sigma=0.5, n=200, seed=0, batch_size=100, threads=1)


def test_float32_is_the_module_itself(network) -> None:
    assert prepare_classifier(network, "cpu") is network


def test_training_mode_is_refused(network) -> None:
    with pytest.raises(ValueError, match="classifier: expected evaluation mode"):
        prepare_classifier(ConvMixer(dim=8, depth=1, in_chans=1), "cpu")


def test_bfloat16_gives_float32_logits_and_other_counts(network) -> None:
    classifier = prepare_classifier(network, "cpu", "bfloat16")
    pixels = torch.rand(32, 1, 8, 8)
    with torch.inference_mode():
        logits, exact = classifier(pixels), network(pixels)
    assert logits.dtype == torch.float32
    assert 1e-6 < (logits - exact).abs().max() < 0.1
    full, short = counts(network), counts(classifier)
    assert (full > 0).sum() > 12
    assert (
        0 < np.abs(full.astype(int) - short.astype(int)).sum() < 0.2 * full.sum()
    )  # a net without favourites: many near ties


@pytest.mark.slow
def test_a_compiled_classifier_counts_the_same_but_for_rounding(network) -> None:
    compiled = counts(prepare_classifier(network, "cpu", compiled=True))
    full = counts(network)
    assert np.abs(full.astype(int) - compiled.astype(int)).sum() <= 0.01 * full.sum()


def test_noisy_copies_are_the_sampler_s(network) -> None:
    rows = IMAGES.reshape(6, -1)
    make = noisy_copies("grid", 0.25, rows, IDS, (1, 8, 8), 4, seed=3, stream=1, device=torch.device("cpu"))
    first, again = make(np.array([2]), 10).clone(), make(np.array([2]), 12).clone()
    assert first.shape == (4, 1, 8, 8)
    torch.testing.assert_close(first[2:], again[:2], rtol=0, atol=0)  # draws are numbered
