"""What a worker needs to know to open the classifier and the images by itself, wherever it runs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrise.images import DataConfig, ImageSet, Splits
    from rrise.targets.evaluator import ShardEvaluator
    from rrise.targets.manifest import Manifest
    from rrise.targets.settings import ExecutionConfig, SampleConfig
    from rrise.training.networks import Network


@dataclass(frozen=True)
class WorkerSpec:
    """Names of a classifier and images, pinned by the manifest's sha256; small, and called in an actor.

    Parameters
    ----------
    classifier : str
        Folder or ONNX file, or a URI of one.
    data : DataConfig or None
        None: the images did not come from a source that a worker could open.
    split : str
    manifest : Manifest
        Of the store.
    device : str
    threads : int
        Images evaluated at a time on a CPU, one thread each; 0: one a core.
    folder : str
        Working folder of the driver, from which relative paths are tried if the worker's own does not hold them.
    """

    classifier: str
    data: DataConfig | None
    split: str
    manifest: Manifest
    device: str
    threads: int
    folder: str

    @classmethod
    def of(
        cls,
        splits: Splits,
        split: str,
        config: SampleConfig,
        execution: ExecutionConfig,
        classifier: str | Path,
        manifest: Manifest,
    ) -> WorkerSpec:
        """Return the spec of sampling a split as configured."""
        threads = execution.worker_threads if execution.executor == "ray" else execution.threads
        return cls(str(classifier), splits.config, split, manifest, config.device, threads, os.getcwd())

    def __call__(self) -> ShardEvaluator:
        """Open both here and return the evaluator.

        Raises
        ------
        FileNotFoundError
            If one is not there.
        ValueError
            If it is another one than the driver's.
        """
        from rrise.images import load_splits

        if self.data is None:
            raise ValueError("data: expected images from a source that workers can open, got images from memory.")
        if any(not os.path.exists(name) and os.path.exists(os.path.join(self.folder, name)) for name in self._names()):
            os.chdir(self.folder)  # an actor of a cluster on the driver's machine may start elsewhere
        network = local_network(self.classifier)
        if network.sha256 != self.manifest.classifier_sha256:
            raise ValueError(
                f"classifier: expected sha256 {self.manifest.classifier_sha256[:12]} as on the driver, got "
                f"{network.sha256[:12]} in {self.classifier} on this node. Give every node the same files."
            )
        return self.evaluator(network, getattr(load_splits(self.data).named_as(network.classes), self.split))

    def _names(self) -> list[str]:
        """Return the local paths that are opened here: classifier and images, without a source's prefix or part."""
        from rrise.images.arrays import source_part

        sources = [self.data.source, self.data.calibration_source, self.data.test_source] if self.data else []
        files = [source_part(source) for source in sources]
        names = [self.classifier, *(file if part else file.rpartition(":")[2] for file, part in files)]
        return [name for name in names if name and "://" not in name]

    def evaluator(self, network: Network, images: ImageSet) -> ShardEvaluator:
        """Return the evaluator of an opened classifier and images."""
        from rrise.targets.evaluator import ShardEvaluator
        from rrise.targets.passes import prepare_classifier

        deterministic()
        facts = self.manifest
        classifier = prepare_classifier(network.module, self.device, facts.precision, facts.compile)
        return ShardEvaluator(facts, classifier, images, self.device, self.threads)


def local_network(classifier: str | Path) -> Network:
    """Return the network of a folder or ONNX file, or of a URI that ``pyarrow.fs`` knows, by way of a copy."""
    from rrise.training.networks import open_classifier

    if "://" not in str(classifier):
        return open_classifier(classifier)
    from rrise.targets.copies import local_copy

    with tempfile.TemporaryDirectory(prefix="rrise-") as room:
        return open_classifier(local_copy(str(classifier), Path(room) / "classifier"))


def deterministic() -> None:
    """Make a GPU give the same counts each time: no search for algorithms, no shortened arithmetic."""
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
