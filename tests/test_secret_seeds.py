"""Random numbers in service: secret from whoever sends inputs unless a seed is given, and never used twice."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest
from fake_certifier import FakeCertifier, evaluate, stream
from test_passes_served import FRAMES, saved

from rrise import Auditor, MultiPass
from rrise.runtime.bundle import load_bundle
from rrise.stages.service import ClassifierCounts, MonteCarloCertifier, noisy_source

# All but grey, where the classes are close: 500 draws of each of 16, or 8 of each of 64, agree with a probability below
# 1e-20 under another seed.
GREY = FRAMES // 16 + 120
MORE = np.concatenate([GREY + np.uint8(step) for step in range(4)])


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bits were asked of the operating system, in order."""
    asked: list[int] = []
    genuine = secrets.randbits

    def randbits(k: int) -> int:
        asked.append(k)
        return genuine(k)

    monkeypatch.setattr(secrets, "randbits", randbits)
    return asked


def counts_of_an_audit(folder: Path, seed: int | None) -> list[list[int]]:
    bundle, classifier = saved(folder)
    count = ClassifierCounts(noisy_source(load_bundle(bundle), classifier, seed=seed))
    return [count(image, 500, name).tolist() for name, image in enumerate(GREY)]


def certificates_of_monte_carlo(folder: Path, seed: int | None) -> list[list[float]]:
    bundle, classifier = saved(folder)
    certify = MonteCarloCertifier(noisy_source(load_bundle(bundle), classifier, seed=seed), n=500)
    return [certify(GREY).q.tolist()]


def certificates_of_more_passes(folder: Path, seed: int | None) -> list[list[float]]:
    return [MultiPass.load(*saved(folder), seed=seed)(MORE).q.tolist()]


@pytest.mark.parametrize(
    "drawn", [counts_of_an_audit, certificates_of_monte_carlo, certificates_of_more_passes], ids=lambda d: d.__name__
)
def test_served_noise_is_secret_unless_a_seed_is_given(drawn, bits: list[int], tmp_path: Path) -> None:
    known = [drawn(tmp_path / f"known-{i}", 3) for i in range(2)]
    assert known[0] == known[1]
    assert not bits
    unknown = [drawn(tmp_path / f"unknown-{i}", None) for i in range(3)]
    assert bits == [64, 64, 64]
    assert unknown[0] != unknown[1] != unknown[2] != unknown[0]


def test_every_answer_in_service_has_noise_of_its_own(tmp_path: Path) -> None:
    """The same image is drawn anew at each audit and each call: errors of two certificates do not go together."""
    bundle, classifier = saved(tmp_path)
    source = noisy_source(load_bundle(bundle), classifier, seed=3)
    count, certify = ClassifierCounts(source), MonteCarloCertifier(source, n=500)
    audits = [[count(image, 500, 16 * again + i).tolist() for i, image in enumerate(GREY)] for again in range(2)]
    calls = [certify(GREY).q.tolist() for _ in range(2)]
    rows = certify(np.repeat(GREY[:1], 16, axis=0)).q.tolist()
    assert audits[0] != audits[1]
    assert calls[0] != calls[1]
    assert len(set(rows)) > 1


def chosen_of(seed: int | None) -> list[bytes]:
    """The inputs that an auditor chose of 100, each with probability 1/2."""
    found: list[bytes] = []

    def count(image: np.ndarray, n: int, name: int) -> np.ndarray:
        found.append(image.tobytes())
        return evaluate(image, n, name)

    with Auditor(FakeCertifier(), count, rate=0.5, n=200, seed=seed) as auditor:
        auditor(stream(100))
    return found


def test_an_auditor_s_choice_is_secret_unless_a_seed_is_given(bits: list[int]) -> None:
    assert chosen_of(3) == chosen_of(3)
    assert not bits
    unknown = [chosen_of(None) for _ in range(3)]
    assert bits == [128, 128, 128]
    assert unknown[0] != unknown[1] != unknown[2] != unknown[0]
    assert all(20 < len(chosen) < 80 for chosen in unknown)
