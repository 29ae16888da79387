"""A network as an ONNX graph in float32, float16 or int8; its input and output stay float32."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, final

from torch import nn

if TYPE_CHECKING:
    import onnx
    import torch

    from rrise.training.architectures import PixelNormalised

INPUT, OUTPUT = "images", "logits"


@final
class HalfPrecision(nn.Module):
    """A copy of a network that computes in float16 between float32 pixels and float32 logits.

    Pixels are normalised in float32 first: float16 holds 8-bit pixels exactly to 11 bits only.
    """

    def __init__(self, module: PixelNormalised) -> None:
        super().__init__()
        self.mean, self.std = module.mean, module.std
        self.network = copy.deepcopy(module.network).half()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [N, K] of pixels [N, C, H, W]."""
        logits: torch.Tensor = self.network(((pixels - self.mean) / self.std).half())
        return logits.float()


def half_precision(module: nn.Module) -> nn.Module:
    """Return a copy in float16 of a network, or of each of several that stand side by side, in evaluation mode."""
    from rrise.training.joined import SideBySide

    if isinstance(module, SideBySide):
        return SideBySide([half_precision(part) for part in module.networks]).eval()
    return HalfPrecision(module).eval()  # type: ignore[arg-type]


def onnx_bytes(module: nn.Module, input_shape: tuple[int, int, int], opset: int) -> bytes:
    """Return the ONNX file of a network: ``images`` float32[N, C, H, W], N free, to ``logits`` float32[N, K].

    Raises
    ------
    ValueError
        If torch cannot export it; the message holds torch's reason.
    """
    import torch

    example = torch.rand((2, *input_shape), generator=torch.Generator().manual_seed(0))  # of 1, torch would fix N = 1
    try:
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:_REASON].rstrip(".")
        raise ValueError(
            f"export: expected a network that torch can export, got {reason}. Rewrite that part of the network."
        ) from error
    assert program is not None  # dynamo=True returns the program
    return bytes(_without_traces(program.model_proto).SerializeToString(deterministic=True))


_REASON = 400
"""Characters of torch's reason that a message repeats: its first line alone often ends before the reason."""


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what torch adds for its own debugging: source paths of this machine among it."""
    _clear(model)
    for function in model.functions:
        _clear(function)
        for node in function.node:
            _clear_node(node)
    _clear_graph(model.graph)
    return model


def _clear_graph(graph: onnx.GraphProto) -> None:
    _clear(graph)
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _clear(entry)
    for node in graph.node:
        _clear_node(node)


def _clear_node(node: onnx.NodeProto) -> None:
    _clear(node)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            _clear_graph(graph)


def _clear(entry: Any) -> None:
    for name in ("metadata_props", "doc_string"):
        entry.ClearField(name)
