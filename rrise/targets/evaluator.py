"""One worker's share of the work: a classifier and its images, opened once, from which shards are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rrise.targets.counts import CountTable
from rrise.targets.manifest import Manifest
from rrise.targets.sampling import sample_counts

if TYPE_CHECKING:
    from rrise.images.image_set import ImageSet
    from rrise.targets.passes import Classifier


@dataclass(frozen=True, eq=False)
class ShardEvaluator:
    """Counts the shards of a store; the same in this process and in an actor.

    Parameters
    ----------
    manifest : Manifest
        Of the store.
    classifier : callable
        As for :func:`rrise.targets.sampling.sample_counts`; its sha256 stands in the manifest.
    images : ImageSet
        The images of the manifest's ``data_sha256``, in that order.
    device : str, optional
        Where the classifier is; of the manifest's kind. Default: that kind itself.
    threads : int, optional
        As for :func:`rrise.targets.sampling.sample_counts`.

    Raises
    ------
    ValueError
        If images or device do not fit the manifest.
    """

    manifest: Manifest
    classifier: Classifier
    images: ImageSet
    device: str = ""
    threads: int | None = None

    def __post_init__(self) -> None:
        facts = self.manifest
        if self.images.sha256 != facts.data_sha256:
            raise ValueError(
                f"images: expected those of the store's manifest, data_sha256={facts.data_sha256}, got "
                f"{self.images.sha256}. Give every worker the same images."
            )
        if self.device and self.device.partition(":")[0] != facts.device:
            raise ValueError(f"device: expected {facts.device!r} as in the store's manifest, got {self.device!r}.")

    def counts(self, shard: int) -> npt.NDArray[np.uint32]:
        """Return the class counts of a shard's images: uint32[B, K]; as :meth:`counts_of`."""
        return self.counts_of(images_of(self.images, self.manifest, shard), self.manifest.view(shard))

    def counts_of(self, part: ImageSet, view: int = 0) -> npt.NDArray[np.uint32]:
        """Return the class counts of a view of some images, sampled as the manifest says: uint32[B, K].

        View v has draws v n to v n + n - 1 of its image's noise, so that no two views share any.

        Raises
        ------
        ValueError
            If the classifier gives something else than finite logits, K an image.
        """
        facts = self.manifest
        return sample_counts(
            self.classifier,
            facts.made.images(part.images, part.ids, view),
            part.ids,
            sigma=facts.sigma,
            n=facts.n,
            seed=facts.seed,
            sampler=facts.sampler,
            stream=facts.stream,
            batch_size=facts.batch,
            first_draw=view * facts.n,
            images_per_pass=facts.images_per_pass,
            device=self.device or facts.device,
            threads=self.threads,
        )


def images_of(images: ImageSet, manifest: Manifest, shard: int) -> ImageSet:
    """Return the images of a shard."""
    first = manifest.first(shard)
    return images.take(np.arange(first, first + manifest.size(shard)))


def shard_table(images: ImageSet, manifest: Manifest, shard: int, counts: npt.NDArray[np.uint32]) -> CountTable:
    """Return a shard's counts, uint32[B, K], as the table that a store takes."""
    first = manifest.first(shard)
    rows = slice(first, first + manifest.size(shard))
    return CountTable(
        images.ids[rows], images.labels[rows], counts.sum(axis=1, dtype=np.int64), counts.astype(np.int32)
    )
