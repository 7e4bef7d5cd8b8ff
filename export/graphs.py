"""Exports vision encoder and Q-Former to ONNX graphs, without ever holding all weights in memory.

The weights stay memory-mapped until they are written, one by one. torch's own exporter makes the graph; Optimum's
wraps the older one, which holds the weights three times.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from .progress import bar, step
from .quantise import PRECISIONS, add_weight, drop_unused_weights
from .vision_model import IMAGE_SIZE, VisionConfig, VisionModel

OPSET = 20  # the first with Gelu


class EncoderGraph(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode(pixels)


class QFormerGraph(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_features: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.query(image_features)


def export_graphs(model: VisionModel, config: VisionConfig, precision: str, folder: Path) -> None:
    """Write `vision_encoder.onnx` and `qformer.onnx` in `folder`, each with a `.data` file of weights.

    Raises ExportError if a weight does not fit the precision.
    """
    pixels = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    features = torch.zeros(2, config.patches + 1, config.width)
    work = (
        ("vision_encoder", EncoderGraph(model), pixels, ["pixels"], ["image_features"]),
        ("qformer", QFormerGraph(model), features, ["image_features"], ["query_output", "image_embeds"]),
    )
    for name, module, example, inputs, outputs in work:
        step(f"{name}: tracing the graph")
        graph = trace(module.eval(), example, inputs, outputs)
        if change := PRECISIONS[precision]:
            change(graph)
        save(graph, folder / f"{name}.onnx")


def trace(module: nn.Module, example: Tensor, inputs: list[str], outputs: list[str]) -> ir.Model:
    """The module's graph with a dynamic batch and every weight transposed as MatMul wants it."""
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch's, about its own tree utilities
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        program = torch.onnx.export(
            module,
            (example,),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    fold_weight_transposes(program.model)
    forget_source(program.model)
    return program.model


def forget_source(model: ir.Model) -> None:
    """Remove the exporter's notes on where each node comes from: they name files of the exporting machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter logs: that torchvision is missing, and each node it simplifies."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def fold_weight_transposes(model: ir.Model) -> None:
    """Turn Transpose(weight) into a weight: the exporter folds small ones only, quantisers need all."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.const_value is None:
            continue
        tensor, order = source.const_value, tuple(node.attributes["perm"].as_ints())
        name = f"{source.name}.T{''.join(map(str, order))}"
        shape = tuple(tensor.shape.numpy()[axis] for axis in order)
        weight = add_weight(graph, name, tensor.dtype, shape, tensor, partial(np.transpose, axes=order))
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node)
    drop_unused_weights(graph)


def save(model: ir.Model, path: Path) -> None:
    """Write a graph and, beside it, its weights in one `.data` file; shapes and other small ones stay inside."""
    with bar(f"writing {path.name}", unit=" tensors") as move:
        ir.save(
            model,
            path,
            external_data=f"{path.name}.data",
            size_threshold_bytes=256,
            callback=lambda _, info: move(info.index + 1, info.total),
        )
