"""Whose class names a certificate carries, and what the smoothed classifier is said to be worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rrise import stages
from rrise.images import DataConfig, ImageSet, Splits, load_splits
from rrise.targets.accuracy import SmoothedAccuracy
from rrise.targets.noise import TARGETS
from rrise.targets.settings import ExecutionConfig, SampleConfig
from rrise.targets.store import CountStore
from rrise.training.classifier import TrainConfig
from rrise.training.networks import load_network
from rrise.training.surrogate import FitConfig

GREY = np.random.default_rng(0).integers(0, 256, (60, 4, 5), dtype=np.uint8)
NAMES = ("ant", "bee", "cat")


def images(classes: tuple[str, ...] | None = NAMES, turn: int = 0) -> ImageSet:
    return ImageSet.from_arrays(GREY, (np.arange(60) + turn) % 3, classes)


def test_names_in_another_order_are_mapped_with_their_labels() -> None:
    found = images(("bee", "cat", "ant"), turn=2).named_as(NAMES)  # label 0 is a bee there, 2 an ant
    assert found.classes == NAMES
    own = images(("bee", "cat", "ant"), turn=2)
    assert [found.classes[label] for label in found.labels] == [own.classes[label] for label in own.labels]
    assert found.labels.tolist() == images(NAMES).labels.tolist()


def test_numbers_take_the_other_sides_names() -> None:
    assert images(None).named_as(NAMES).classes == NAMES
    assert images(None).named_as(NAMES).labels.tolist() == images(None).labels.tolist()
    assert images(NAMES).named_as(("0", "1", "2")).classes == NAMES
    same = images(NAMES)
    assert same.named_as(None) is same is same.named_as(list(NAMES))


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the classifier's, ant, bee, cow, got cat in the images"):
        images(NAMES).named_as(("ant", "bee", "cow"))


def test_a_class_is_called_what_the_classifier_calls_it(tmp_path: Path) -> None:
    """From a source whose classes stand in another order to the surrogate: labels and names go together."""
    splits = load_splits(DataConfig(train=60, calibration=20, test=10))
    names = tuple(f"digit {number}" for number in range(10))

    def named(splits: Splits, order: np.ndarray) -> Splits:
        """The same images, whose class ``order[k]`` is now number k."""
        where = np.argsort(order)
        parts = {
            part: ImageSet(found.ids, found.images, where[found.labels], tuple(names[k] for k in order))
            for part, found in ((part, getattr(splits, part)) for part in ("train", "calibration", "test"))
        }
        return Splits(**parts)

    own, other = named(splits, np.arange(10)), named(splits, np.arange(10)[::-1])
    classifier, counts = tmp_path / "classifier", tmp_path / "counts"
    stages.train(own.train, TrainConfig(epochs=1), classifier, progress=False)
    settings = ("targets", SampleConfig(n=10), ExecutionConfig(threads=1), classifier, counts)
    said = stages.sample(other, *settings, stream=TARGETS, progress=False)
    table = CountStore.open(counts).table().rows(own.train.ids)
    assert table.labels.tolist() == own.train.labels.tolist()
    right = np.mean(table.counts.argmax(1) == own.train.labels)
    assert f"smoothed accuracy {right:.1%}" in said
    stages.fit(other.targets, FitConfig(epochs=(1,)), classifier, counts, tmp_path / "surrogate", progress=False)
    assert load_network(tmp_path / "surrogate").classes == list(names)
    strange = Splits(*(ImageSet(s.ids, s.images, s.labels, tuple("abcdefghij")) for s in (own.train,) * 3))
    with pytest.raises(ValueError, match="expected the classifier's, digit 0"):
        stages.sample(strange, *settings, stream=TARGETS, progress=False)


# What g is worth


def counts_of(answers: list[int], classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=int)[answers] * 7 + 1


def test_accuracy_is_that_of_the_most_frequent_class() -> None:
    found = SmoothedAccuracy.of(counts_of([0, 1, 2, 3, 3, 3] * 10), [0, 1, 2, 3, 0, 3] * 10, "wxyz")
    assert found.accuracy == pytest.approx(5 / 6)
    assert (found.answer, found.answered) == ("z", 0.5)
    assert found.words() == "smoothed accuracy 83.3%, commonest answer z (50.0%)"


def test_one_answer_for_nearly_all_is_warned_of() -> None:
    labels = np.arange(200) % 4
    found = SmoothedAccuracy.of(counts_of([1] * 190 + [0] * 10), labels, "wxyz")
    assert found.one_sided
    assert "Warning: one class is answered for most images, and no label has more than 25.0%" in found.words()


def test_no_better_than_one_class_for_all_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    guess = SmoothedAccuracy.of(counts_of(rng.integers(0, 4, 200).tolist()), np.arange(200) % 4, "wxyz")
    assert "Warning: no better than w for all (25.0%)" in guess.words()
    rare = SmoothedAccuracy.of(counts_of([0] * 200), [0] * 190 + [1] * 10, "wxyz")
    assert rare.near_chance
    assert not rare.one_sided  # that many images have that label


def test_a_good_classifier_of_rare_classes_is_not_warned_of() -> None:
    labels = [0] * 150 + [1] * 50
    assert "Warning" not in SmoothedAccuracy.of(counts_of(labels), labels, "wxyz").words()
