"""The surrogate: a network fitted, on clean images, to the class frequencies of a base classifier under noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rrise.training.cross_validation import Setting, best, cross_validate, folds
from rrise.training.fit_config import FitConfig
from rrise.views import Views

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from rrise.training.architectures import NetworkSpec
    from rrise.training.checkpoint import Checkpoint
    from rrise.training.examples import Counts, Examples
    from rrise.training.networks import Network
    from rrise.training.strategies import Learner

    Rows = npt.NDArray[np.int64]

__all__ = ["FitConfig", "Surrogate", "fit_surrogate", "surrogate_spec"]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted surrogate.

    Parameters
    ----------
    spec : NetworkSpec
        The classifier's, unless the settings name a network.
    module : torch.nn.Module
        On the CPU, in evaluation mode, frozen.
    training_ids : uint64[M]
        Sorted ids of the images that trained the classifier or this.
    facts : dict
        fit (the settings asked for), views, cross_validation (a row a setting), chosen, training_loss (of the chosen
        loss, over the last pass), and, as soft cross-entropy on the images that judge: held_out_loss,
        classifier_loss (the classifier itself as a surrogate) and target_entropy (which no surrogate can go below on
        these targets). held_out is None if no image was held out of the fit, else it says how many were
        (``images``), what their loss was after each pass (``curve``, of the images themselves), and the result's
        ``agreement`` and ``probit_error`` (see :class:`rrise.training.held_out.Judgement`). What judges are the
        held-out images in every view, and where there are none all images themselves.
    """

    spec: NetworkSpec
    module: nn.Module
    training_ids: npt.NDArray[np.uint64]
    facts: dict[str, Any]

    def save(self, folder: str | Path, *, overwrite: bool = False, **facts: Any) -> str:
        """Return the sha256 of the surrogate now saved as :func:`rrise.training.networks.save_network` does."""
        from rrise.training.networks import save_network

        every = {"kind": "surrogate", **self.facts, **facts}
        return save_network(folder, self.spec, self.module, self.training_ids, overwrite=overwrite, **every)

    def network(self, **facts: Any) -> Network:
        """Return it as a network that can be exported without being saved first."""
        from rrise.training.networks import Network

        return Network.of(self.spec, self.module, self.training_ids, {"kind": "surrogate", **self.facts, **facts})

    def summary(self) -> str:
        """Return what was chosen, and its held-out loss between the classifier's and the least possible."""
        chosen, facts = self.facts["chosen"], self.facts
        views, passes = facts["views"]["count"], chosen["epochs"]
        seen = f" over {min(views, passes)} of {views} views" if views > 1 else ""
        held = facts["held_out"]
        loss = "not held out" if facts["held_out_loss"] is None else f"held-out loss {facts['held_out_loss']:.4f}"
        better = (
            f"; on the {held['images']} images held out, agreement {held['agreement']:.1%}, probit error "
            f"{held['probit_error']:.3f}"
            if held
            else ""
        )
        return (
            f"lr {chosen['lr']:g}, weight decay {chosen['weight_decay']:g}, {passes} epochs{seen}, {loss} (classifier "
            f"{facts['classifier_loss']:.4f}, entropy of the targets {facts['target_entropy']:.4f}){better}"
        )


def fit_surrogate(
    classifier: Network,
    images: npt.NDArray[np.uint8],
    counts: Counts | Callable[[int], Counts],
    config: FitConfig,
    *,
    training_ids: npt.NDArray[np.uint64],
    views: Views | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Surrogate:
    """Return a network q(x) = softmax(logits) near the class frequencies counts/n, a function of the arguments.

    Pass e over the images is one over their view e (and so on from view 0), whose pixels are made when they are needed.
    Of several settings that of least held-out soft cross-entropy, over the folds, is fitted once more to all images;
    without cross-validation some images are held out and only judge. On the CPU, the same number of threads and the
    same torch give the same weights to the bit, interrupted or not. The classifier is not changed.

    Parameters
    ----------
    classifier : Network
        The base classifier that was sampled.
    images : uint8[N, H, W] or uint8[N, H, W, C]
        Clean images.
    counts : int[N, K], or a callable that gives them of each view
        How often the classifier gave each class to each image; every image weighs the same, whatever its draws.
    config : FitConfig
    training_ids : uint64[N]
        Ids of the images, held-out ones included.
    views : Views, optional
        How the views were made that counts are of. Default: the images themselves.
    checkpoint : Checkpoint, optional
        Where the last fit, not the cross-validation, goes on if it was interrupted.
    progress : bool
        Show bars of folds and of passes on a terminal.

    Raises
    ------
    ValueError
        If the arrays do not fit each other or the classifier, the head cannot be trained alone, or all settings
        diverge.
    """
    from tqdm import tqdm

    from rrise.training.descent import reproducible
    from rrise.training.examples import Examples
    from rrise.training.held_out import held_out_rows, judge
    from rrise.training.networks import OnnxNetwork
    from rrise.training.pixels import image_tensor, unit
    from rrise.training.strategies import learner

    ids = np.asarray(training_ids, dtype=np.uint64)
    if len(ids) != len(images):
        raise ValueError(f"training_ids: expected one an image, got {len(ids)} of {len(images)} images.")
    made, spec = views or Views(), surrogate_spec(config, classifier)
    settings = config.settings(made.count)
    k = config.folds_for(len(settings))
    every = np.arange(len(images))
    held = held_out_rows(ids, 0 if k else config.held_out)
    parts = folds(len(images), k, config.seed) if k else []
    pixels = image_tensor(images, classifier.spec.input_shape)
    read: Callable[[int], Counts] = counts if callable(counts) else lambda view: counts
    with reproducible(config.seed, config.device, config.threads):
        student = learner(config.strategy, classifier, spec, config.device, config.seed)
        on_device = pixels.to(config.device)
        examples = Examples(on_device, ids, made, read, classifier.spec.num_classes, student.prepare)

        def held_out_loss(setting: Setting, training: Rows, held_out: Rows) -> float:
            return _fitted(student, examples, training, held_out, setting, config)[2]

        shown = None if progress else True
        with tqdm(total=len(settings) * len(parts), desc="choose", unit="fit", disable=shown) as bar:
            trials = cross_validate(settings, parts, held_out_loss, bar.update) if parts else []
        chosen = best(trials).setting if trials else settings[0]
        history = checkpoint.history if checkpoint else []
        with tqdm(total=chosen.epochs, desc="fit", unit="epoch", disable=shown) as bar:

            def show(loss: float, held_out: float) -> None:
                history.append((loss, held_out))
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held_out:.4f}", refresh=False)
                bar.update(len(history) - bar.n)

            training = np.setdiff1d(every, held)
            part, training_loss, _ = _fitted(student, examples, training, held, chosen, config, show, checkpoint)
        if not math.isfinite(training_loss):
            raise ValueError(f"lr: training diverged with lr={chosen.lr}. Lower it.")
        whole = student.whole(part)
        own = classifier.module  # an ONNX file stays on the CPU
        own = own if isinstance(own, OnnxNetwork) else copy.deepcopy(own).to(config.device)
        judging, seen = (held, range(made.count)) if len(held) else (every, range(1))
        found = judge(lambda x: whole(unit(x)), lambda x: own(unit(x)), examples, judging, seen)
    facts = {
        "fit": asdict(config),
        "views": asdict(made),
        "cross_validation": [trial.row() for trial in trials],
        "chosen": asdict(chosen),
        "training_loss": training_loss,
        "held_out_loss": best(trials).loss if trials else found.loss if len(held) else None,
        "classifier_loss": found.classifier_loss,
        "target_entropy": found.entropy,
        "held_out": {
            "images": len(held),
            "curve": [loss for _, loss in history],
            "agreement": found.agreement,
            "probit_error": found.probit_error,
        }
        if len(held)
        else None,
    }
    module = whole.cpu().eval().requires_grad_(False)
    return Surrogate(spec, module, np.union1d(classifier.training_ids, ids), facts)


def surrogate_spec(config: FitConfig, classifier: Network) -> NetworkSpec:
    """Return the specification of the surrogate: the classifier's, or that of the network that is named.

    Raises
    ------
    ValueError
        If none is named and the classifier is an ONNX file, or what is named does not fit the images.
    """
    from rrise.training.networks import NetworkSpec, OnnxNetwork

    own = classifier.spec
    if not config.network:
        if isinstance(classifier.module, OnnxNetwork):
            raise ValueError(
                "network: expected the surrogate's own network, since an ONNX classifier has no weights to start from, "
                "got none. Give --strategy scratch --network NAME."
            )
        return own
    channels = own.input_shape[0]
    mean, std = (values * channels if len(values) == 1 else values for values in (config.mean, config.std))
    return NetworkSpec(config.network, dict(config.options), own.num_classes, own.input_shape, mean, std)


def _fitted(
    student: Learner,
    examples: Examples,
    training: Rows,
    held_out: Rows,
    setting: Setting,
    config: FitConfig,
    show: Callable[[float, float], object] = lambda loss, held_out: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, float, float]:
    """Return a trained part, its mean loss over the last pass, and its soft cross-entropy on held-out images.

    ``show`` gets both losses after each pass; the second is that of the held-out images themselves, NaN without any.
    """
    import torch

    from rrise.training.descent import Descent, outputs, reproducible
    from rrise.training.losses import jensen_shannon, soft_cross_entropy

    loss = soft_cross_entropy if config.loss == "ce" else jensen_shannon
    part, device = student.fresh(), examples.pixels.device
    mode = part.training
    rows, judging = (torch.from_numpy(part).to(device) for part in (training, held_out))
    examples.select(0)
    goal = examples.targets[judging].double()
    inputs = examples.inputs(judging) if len(judging) else None

    def of_batch(batch: torch.Tensor) -> torch.Tensor:
        these = rows[batch]
        return loss(part(examples.inputs(these)), examples.targets[these])

    def after(mean: float) -> None:
        show(mean, now())

    def now() -> float:
        if inputs is None:
            return math.nan
        part.eval()
        found = float(soft_cross_entropy(outputs(part, inputs).double(), goal))
        part.train(mode)
        return found

    descent = Descent(setting.lr, setting.weight_decay, setting.epochs, config.batch_size)
    with reproducible(config.seed, config.device, config.threads) as generator:
        found = descent.run(
            part,
            of_batch,
            len(rows),
            generator,
            after,
            before_epoch=lambda epoch: examples.select(epoch % examples.views.count),
            checkpoint=checkpoint,
        )
    held_out_loss = now()
    return part.eval(), found, held_out_loss
