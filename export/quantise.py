"""Converts a graph to a smaller arithmetic and its weights to smaller types, one tensor at a time.

The whole model is never in memory. ONNX Runtime's and Optimum's own quantisers need 16 GB for the full-size encoder.
For int8 ours gives the same graph as theirs, and a test compares the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..engines.errors import ExportError

BLOCK = 128  # weights that share a scale in int8-block
PRODUCTS = {"Conv", "MatMul", "MultiHeadAttention"}
BETWEEN = {"Add", "Gelu", "Split"}  # computed in float16 where they stand between two products

FLOAT, FLOAT16, INT8, UINT8 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8
Array = npt.NDArray[Any]


def compute_float16(model: ir.Model) -> None:
    """Multiply matrices in float16; keep the residual stream and LayerNorm in float32.

    Products, attention, and what lies between two of them take and give float16. Their weights are stored as float16
    and used as they are. Everything else stays float32, as in the original on a GPU, which runs under torch's autocast:
    the residual stream grows from block to block and could pass float16's largest value, 65504. Raises ExportError when
    written, if a weight passes it.
    """
    graph = model.graph
    half = float16_nodes(graph)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        kind = FLOAT16 if node in half else FLOAT
        for position, value in enumerate(node.inputs):
            if value is None or value.dtype not in (FLOAT, FLOAT16) or value.dtype == kind:
                continue
            if value.const_value is not None:
                found = half_weight(graph, value)
            elif (value, kind) not in casts:
                cast = ir.node("Cast", [value], attributes={"to": kind.value})
                found = casts[value, kind] = cast.outputs[0]
                found.name, found.shape, found.type = f"{value.name}.{kind.name}", value.shape, ir.TensorType(kind)
                graph.insert_before(node, cast)
            else:
                found = casts[value, kind]
            node.replace_input_with(position, found)
        if node in half:
            for output in node.outputs:
                output.type = ir.TensorType(FLOAT16)
    drop_unused_weights(graph)


def float16_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The products, and the nodes whose results only other float16 nodes use."""
    half: set[ir.Node] = set()
    for node in reversed(graph):
        users = {user for output in node.outputs for user in output.consumers()}
        between = node.op_type in BETWEEN and not any(output.is_graph_output() for output in node.outputs)
        if node.op_type in PRODUCTS or (between and users <= half):
            half.add(node)
    return half


def half_weight(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The float16 weight made of a float32 one."""
    tensor, name = value.const_value, f"{value.name}.f16"
    assert tensor is not None
    return add_weight(graph, name, FLOAT16, tuple(tensor.shape.numpy()), tensor, partial(to_float16, name=name))


def to_float16(values: Array, name: str) -> Array:
    """Round to float16. Raises ExportError if a finite value would become infinite."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(f"{name}: holds values beyond float16's range ({np.abs(values).max():.3g})")
    return half


def quantise_int8(model: ir.Model) -> None:
    """Dynamic int8, as ONNX Runtime's `quantize_dynamic` does it per channel.

    Weights are symmetric int8 with a scale per output channel; activations become uint8 as they come.
    Attention's products of two activations stay float32. ONNX Runtime fuses the nodes into one per product.
    """
    graph = model.graph
    quantised: dict[ir.Value, list[ir.Value]] = {}  # activations, by the value they are of
    for node, source, weight in weight_products(graph):
        if source not in quantised:
            dynamic = ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
            graph.insert_before(node, dynamic)
            quantised[source] = list(dynamic.outputs)
        values, scale, zero = quantised[source]
        name, shape = weight.name, tuple(weight.shape.numpy())
        scales = add_weight(graph, f"{name}.scale", FLOAT, shape[1:], weight, int8_scales)
        matrix = add_weight(graph, f"{name}.int8", INT8, shape, weight, int8_values)
        none = add_weight(graph, f"{name}.zero", INT8, shape[1:], weight, int8_zeros)
        product = ir.node("MatMulInteger", [values, matrix, zero, none])
        cast = ir.node("Cast", product.outputs, attributes={"to": FLOAT.value})
        both = ir.node("Mul", [scale, scales])
        result = ir.node("Mul", [cast.outputs[0], both.outputs[0]])
        replace(graph, node, [product, cast, both, result])
    drop_unused_weights(graph)


def int8_scales(weight: Array) -> Array:
    """The scale (n,) of each column of (k, n) for symmetric int8."""
    scale: Array = np.abs(weight).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return scale


def int8_values(weight: Array) -> Array:
    """Symmetric int8 (k, n) with a scale per column."""
    return np.clip(np.rint(weight / int8_scales(weight)), -127, 127).astype(np.int8)


def int8_zeros(weight: Array) -> Array:
    """The zero points (n,), which symmetric int8 does not need but MatMulInteger asks for."""
    return np.zeros(weight.shape[1], np.int8)


def quantise_int8_blocks(model: ir.Model) -> None:
    """8-bit blocks with a scale each (ONNX Runtime's MatMulNBits): finer, for weights of wide ranges."""
    graph = model.graph
    for node, source, weight in weight_products(graph):
        name, (k, n) = weight.name, weight.shape.numpy()
        blocks = -(-k // BLOCK)
        packed = add_weight(graph, f"{name}.int8", UINT8, (n, blocks, BLOCK), weight, block_values)
        scales = add_weight(graph, f"{name}.scale", FLOAT, (n, blocks), weight, block_scales)
        settings = {"K": int(k), "N": int(n), "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        product = ir.node("MatMulNBits", [source, packed, scales], attributes=settings, domain="com.microsoft")
        replace(graph, node, [product])
    model.opset_imports["com.microsoft"] = 1
    drop_unused_weights(graph)


def int8_blocks(weight: Array) -> tuple[Array, Array]:
    """Packed blocks (n, blocks, BLOCK) and their scales (n, blocks) of a weight (k, n), by ONNX Runtime."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    settings = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=8)
    packed, scales, _ = DefaultWeightOnlyQuantizer(settings).qbits_block_quant(np.ascontiguousarray(weight))
    return packed, scales


def block_values(weight: Array) -> Array:
    return int8_blocks(weight)[0]


def block_scales(weight: Array) -> Array:
    return int8_blocks(weight)[1]


PRECISIONS: dict[str, Callable[[ir.Model], None] | None] = {
    "f32": None,
    "f16": compute_float16,
    "int8": quantise_int8,
    "int8-block": quantise_int8_blocks,
}


def weight_products(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value, ir.TensorProtocol]]:
    """MatMul nodes whose second operand is a weight (k, n), with their first operand and the weight."""
    return [
        (node, node.inputs[0], node.inputs[1].const_value)
        for node in graph
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None
    ]


def replace(graph: ir.Graph, node: ir.Node, others: list[ir.Node]) -> None:
    """Put `others` in a node's place; the last one's output is the node's."""
    old, new = node.outputs[0], others[-1].outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(node, others)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def add_weight(
    graph: ir.Graph,
    name: str,
    kind: ir.DataType,
    shape: tuple[int, ...],
    source: ir.TensorProtocol,
    change: Callable[[Array], Array],
) -> ir.Value:
    """A weight made by `change` from another one at the time it is written."""
    if name in graph.initializers:
        return graph.initializers[name]
    lazy = ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(change(source.numpy())), name=name),
        dtype=kind,
        shape=ir.Shape(shape),
        name=name,
    )
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind), const_value=lazy)
    graph.initializers.add(value)
    return value


def drop_unused_weights(graph: ir.Graph) -> None:
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
