"""What one certificate costs in time, by the deployed bundle and by every Monte Carlo certifier beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rrise.stages.contenders import ADAPTIVE, SPECIFIC, unit_of
from rrise.stages.pass_contenders import timed_passes
from rrise.stages.workers import deterministic

if TYPE_CHECKING:
    from rrise.evaluation.latency import Latency
    from rrise.evaluation.settings import EvaluateConfig
    from rrise.images import ImageSet
    from rrise.stages.contenders import Certifiers
    from rrise.stages.monte_carlo import NoisyImages
    from rrise.stages.more_passes import MultiPass
    from rrise.targets.settings import SampleConfig
    from rrise.training.networks import Network


def latency(
    certifiers: Certifiers,
    network: Network,
    images: ImageSet,
    base: SampleConfig,
    config: EvaluateConfig,
    *,
    fit_seconds: float | None,
    offline: int,
    passes: Mapping[str, MultiPass],
) -> Latency:
    """Time one certificate of the deployed bundle and of each Monte Carlo certifier, by turns on one thread.

    With the seconds that fit, export and calibration took, the offline work gets a time too: the noisy evaluations of
    targets and calibration at the price that Monte Carlo pays for one, on the same thread.
    """
    from dataclasses import replace

    from rrise.evaluation.latency import measure_latency
    from rrise.stages.monte_carlo import NoisyImages, certify_adaptive, certify_fixed, certify_input_specific
    from rrise.targets.passes import prepare_classifier

    certifier, (unit, most) = certifiers.stated, unit_of(base)
    classifier = prepare_classifier(network.module, base.device, base.precision, base.compile)
    alpha, n_selection = config.alpha or certifiers.error, config.n_selection

    def noisy(index: int) -> NoisyImages:
        one = slice(index, index + 1)
        return NoisyImages(
            classifier,
            images.images[one],
            images.ids[one],
            base.sigma,
            seed=base.seed,
            sampler=base.sampler,
            batch=unit,
            device=base.device,
            threads=1,
        )

    def fixed(index: int) -> object:
        return certify_fixed(
            replace(noisy(index), batch=base.batch_size), n=base.n, alpha=alpha, n_selection=n_selection
        )

    def specific(index: int) -> object:
        return certify_input_specific(
            noisy(index), n_max=most, alpha=alpha, n_selection=n_selection, decline=config.decline
        )

    def adaptive(index: int) -> object:
        return certify_adaptive(
            noisy(index), n_max=most, alpha=alpha, n_selection=n_selection, tolerance=config.tolerance
        )

    deterministic()
    found = measure_latency(
        lambda index: certifier(images.images[index]),
        fixed,
        images=min(config.latency_images, len(images)),
        repeats=config.latency_repeats,
        others={SPECIFIC: specific, ADAPTIVE: adaptive}
        | timed_passes(passes, noisy, most=base.n, n_selection=n_selection, alpha=alpha),
    )
    if fit_seconds is None:
        return found
    each = found.monte_carlo_ms[1] / 1e3 / (base.n + config.n_selection)
    return replace(found, offline_seconds=offline * each + fit_seconds)
