"""From a surrogate to the engine of one runtime, in one precision, checked where it can run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrise.images import ImageSet
    from rrise.runtime.engines.tensorrt_build import PlanConfig
    from rrise.training.export import ExportConfig, Logits
    from rrise.training.networks import Network

CHECKED_IMAGES = 256
"""Training images on which an exported engine is compared with torch."""
PLANS = ("tensorrt", "tensorrt-rtx")
"""Runtimes whose engine is a plan, built from the ONNX graph for a GPU."""


@dataclass(frozen=True)
class EngineRuntime:
    """One of rrise's engines as the runtime that `rrise.training.export.export_engine` asks for."""

    kind: str
    input_shape: tuple[int, int, int]
    plan: PlanConfig

    @property
    def signed_int8(self) -> bool:
        """Whether its int8 has no zero points."""
        return self.kind in PLANS

    def build(self, onnx: bytes, precision: str) -> tuple[str, bytes, dict[str, Any]]:
        """Return the engine file's name and bytes, and facts of it: the ONNX graph itself, or a plan."""
        if self.kind not in PLANS:
            return "engine.onnx", onnx, {}
        from rrise.runtime.engines.tensorrt_build import build_plan

        plan = build_plan(self.kind, onnx, input_shape=self.input_shape, config=self.plan)
        facts = dict(plan.facts)
        gpu, settings = facts.pop("gpu"), asdict(self.plan)
        del settings["timing_cache"]  # a path of this machine
        return "engine.plan", plan.data, {"gpu": gpu, "plan": facts | {"settings": settings}}

    def open(self, engine: bytes, onnx: bytes, precision: str) -> tuple[Logits, str]:
        """Return what computes logits, and its name: the engine, or ONNX Runtime where no GPU can run the plan."""
        from rrise.runtime.engines.opening import open_engine_bytes

        if self.kind in PLANS and not _has_gpu():
            opened = open_engine_bytes(onnx, "onnxruntime", precision=precision)
            return opened, f"onnxruntime {opened.version}, on the plan's ONNX graph: no GPU here runs the plan"
        opened = open_engine_bytes(engine, self.kind, precision=precision)
        return opened, f"{opened.kind} {opened.version}"


def export(images: ImageSet, config: ExportConfig, plan: PlanConfig, surrogate: Path, out: Path, *more: Path) -> str:
    """Export the surrogate, or those of several sigma to one engine, and check it against torch on training images."""
    from rrise.training.export import export_engine
    from rrise.training.joined import joined

    networks = [_surrogate(folder) for folder in (surrogate, *more)]
    network = joined(networks) if more else networks[0]
    runtime = EngineRuntime(config.engine, network.spec.input_shape, plan)
    used = max(CHECKED_IMAGES, config.quantise_images if config.precision == "int8" else 0)
    spec = export_engine(network, out, config, images.images[:used], runtime)
    return (
        f"{spec['precision']} for {spec['kind']}, probabilities within {spec['max_probability_error']:.1e} of torch's "
        f"(mean {spec['mean_probability_error']:.1e}), the same label for {spec['same_labels']:.1%}, by "
        f"{spec['checked_with']}{_levels(network)}, in {out}"
    )


def _surrogate(folder: Path) -> Network:
    from rrise.training.networks import load_network

    network = load_network(folder)
    if network.facts.get("kind") != "surrogate":
        raise ValueError(
            f"surrogate: expected a folder written by `rrise fit`, got a {network.facts.get('kind')} in {folder}. "
            "Fit a surrogate to its counts first."
        )
    return network


def _levels(network: Network) -> str:
    """Return what an engine of several noise levels computes for each, or nothing."""
    if "sigmas" not in network.facts:
        return ""
    sigmas = ", ".join(f"{sigma:g}" for sigma in network.facts["sigmas"])
    how = "heads on one network" if network.facts["shared"] else "whole networks side by side"
    return f"; sigma = {sigmas}: {how}"


def _has_gpu() -> bool:
    from rrise.runtime.engines.cuda import find_gpu

    try:
        find_gpu()
    except RuntimeError:
        return False
    return True
