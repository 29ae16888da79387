"""Is the smoothed classifier any good: how often its first class is the label, and what it answers, from counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SmoothedAccuracy:
    """What g, the class of most draws, is worth on labelled images.

    Parameters
    ----------
    images : int
    accuracy : float
        Share of images whose label is g's class.
    answer, answered : str, float
        The class that g gives most often, and its share of the images.
    label, labelled : str, float
        The most frequent label, and its share: the accuracy of that class for all images.
    """

    images: int
    accuracy: float
    answer: str
    answered: float
    label: str
    labelled: float

    @classmethod
    def of(cls, counts: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]) -> SmoothedAccuracy:
        """Return it of counts int[N, K] and labels int[N]."""
        top, truth = np.asarray(counts).argmax(axis=1), np.asarray(labels)
        answers, true = (np.bincount(each, minlength=len(classes)) for each in (top, truth))
        most, commonest = int(answers.argmax()), int(true.argmax())
        return cls(
            len(truth),
            float(np.mean(top == truth)),
            classes[most],
            float(answers[most]) / len(truth),
            classes[commonest],
            float(true[commonest]) / len(truth),
        )

    @property
    def near_chance(self) -> bool:
        """Whether so few images are right that one class for all may be as good (three standard errors)."""
        spread = math.sqrt(self.labelled * (1 - self.labelled) / self.images)
        return self.accuracy <= self.labelled + 3 * spread

    @property
    def one_sided(self) -> bool:
        """Whether one class is answered for most images, much more often than any label occurs, and few are right."""
        return self.answered >= max(0.5, 1.5 * self.labelled) and self.accuracy <= 2 * self.labelled

    def words(self) -> str:
        """Return a clause: g's accuracy, its commonest answer, and a warning if it is worth little.

        >>> SmoothedAccuracy.of([[9, 1], [8, 2], [3, 7]], [0, 0, 1], ["cat", "dog"]).words()
        'smoothed accuracy 100.0%, commonest answer cat (66.7%)'
        """
        said = f"smoothed accuracy {self.accuracy:.1%}, commonest answer {self.answer} ({self.answered:.1%})"
        if self.one_sided:
            said += (
                f". Warning: one class is answered for most images, and no label has more than {self.labelled:.1%}; "
                "certificates of such a classifier are worthless. Was it trained under this noise, on pixels in [0, 1]?"
            )
        elif self.near_chance and self.images >= 20:
            said += (
                f". Warning: no better than {self.label} for all ({self.labelled:.1%}); certificates of such a "
                "classifier are worth little. Was it trained under this noise, on pixels in [0, 1]?"
            )
        return said
