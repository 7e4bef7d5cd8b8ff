"""The sizes of a bundle's models, and the work of each stage: operations, and bytes of weights that are read.

The operations are those that the function needs, not those that its graph happens to do. So a limit stays the same
when a graph is optimised. One multiplication with its addition counts as two operations.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ...engines.errors import BundleError
from ...runtime.bundle import Bundle

LAYER = "Qformer.bert.encoder.layer."
# Tensors whose length is a size. Exported matrices may have lost the checkpoint's names, but biases keep them.
MLP_BIAS = "visual_encoder.blocks.0.mlp.fc1.bias"
QFORMER_MLP_BIAS = LAYER + "0.intermediate_query.dense.bias"
PATCH_WEIGHT = "visual_encoder.patch_embed.proj.weight"


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of vision encoder, Q-Former and projection, named as in export's `VisionConfig`."""

    width: int
    depth: int
    mlp: int
    patch: int
    queries: int
    qformer_width: int
    qformer_layers: int
    qformer_mlp: int
    cross_layers: tuple[int, ...]
    n_embd: int
    positions: int
    """Patches and the class token."""

    @property
    def parameters(self) -> int:
        """Weights of all matrices, from which the memory of torch is estimated."""
        own = self.qformer_width * (4 * self.qformer_width + 2 * self.qformer_mlp)
        cross = 2 * self.qformer_width * (self.qformer_width + self.width)
        block = self.width * (4 * self.width + 2 * self.mlp)
        projection = self.qformer_width * self.n_embd
        return self.depth * block + self.qformer_layers * own + len(self.cross_layers) * cross + projection

    @property
    def encoder_operations(self) -> int:
        """Operations of the matrix products for one picture, attention's included."""
        n, width = self.positions, self.width
        block = 2 * n * width * (4 * width + 2 * self.mlp) + _attention(n, n, width)
        return self.depth * block + 2 * (n - 1) * 3 * self.patch**2 * width

    @property
    def qformer_operations(self) -> int:
        """Operations of the Q-Former's matrix products and the projection's for one picture."""
        n, width = self.queries, self.qformer_width
        own = 2 * n * width * (4 * width + 2 * self.qformer_mlp) + _attention(n, n, width)
        cross = 4 * n * width * width + 4 * self.positions * self.width * width + _attention(n, self.positions, width)
        return self.qformer_layers * own + len(self.cross_layers) * cross + 2 * n * width * self.n_embd


def _attention(queries: int, keys: int, width: int) -> int:
    return 2 * 2 * queries * keys * width  # scores, and the weighted sum of values


@dataclass(frozen=True)
class LlamaSizes:
    """Sizes of the language model and of its weights in the file."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int
    norm_eps: float
    rope_theta: float
    matrix_parameters: int
    """Weights that each evaluated token is multiplied by. Embeddings and norms do not count."""
    bytes_read: int
    """Bytes of weights in the file that computing one token reads."""
    parameters: int
    """All weights, from which the memory of a model without quantisation is estimated."""

    @property
    def kv_width(self) -> int:
        """Numbers in a key, or in a value, of one layer and cell of the KV cache."""
        return self.width // self.heads * self.kv_heads

    def prefill_operations(self, tokens: int) -> int:
        """Operations of the weights' matrix products for a prompt; only the last token needs the output matrix."""
        return 2 * (self.matrix_parameters * tokens - self.vocabulary * self.width * (tokens - 1))

    @property
    def shape(self) -> str | None:
        """`7b` or `13b` for a model of that size, else None."""
        return {(4096, 32): "7b", (5120, 40): "13b"}.get((self.width, self.layers))


def vision_sizes(bundle: Bundle) -> VisionSizes:
    """Read the sizes from the graphs and the manifest. Raises BundleError if a graph does not tell them."""
    part, shapes = bundle.manifest.vision, bundle.manifest.shapes
    tensors = _initializers(bundle.file(name) for name in dict.fromkeys((part.encoder, part.qformer)))

    def shape(name: str) -> tuple[int, ...]:
        found = next((size for full, size in tensors.items() if full.removesuffix(".f16").endswith(name)), None)
        if found is None:
            raise BundleError(f"{part.encoder}, {part.qformer}: no tensor {name}, so the operations cannot be counted")
        return found

    def numbers(pattern: str) -> set[int]:
        return {int(match[1]) for name in tensors if (match := re.search(pattern, name))}

    layer = re.escape(LAYER) + r"(\d+)\."
    return VisionSizes(
        width=shapes.image_features[-1],
        depth=max(numbers(r"visual_encoder\.blocks\.(\d+)\."), default=-1) + 1,
        mlp=shape(MLP_BIAS)[0],
        patch=shape(PATCH_WEIGHT)[-1],
        queries=shapes.query_output[0],
        qformer_width=shapes.query_output[-1],
        qformer_layers=max(numbers(layer), default=-1) + 1,
        qformer_mlp=shape(QFORMER_MLP_BIAS)[0],
        cross_layers=tuple(sorted(numbers(layer + r"crossattention\."))),
        n_embd=shapes.image_embeds[-1],
        positions=shapes.image_features[0],
    )


def _initializers(paths: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    import onnx

    graphs = (onnx.load(path, load_external_data=False).graph for path in paths)
    return {tensor.name: tuple(tensor.dims) for graph in graphs for tensor in graph.initializer}


def llama_sizes(bundle: Bundle) -> LlamaSizes:
    """Read the sizes from the GGUF file's header."""
    from gguf import GGUFReader

    reader = GGUFReader(bundle.file(bundle.manifest.llm.file))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # Only some rows of the embeddings are read, unless the same tensor is the output matrix, too.
    looked_up = {"token_embd.weight"} if "output.weight" in tensors else set()
    read = [tensor for name, tensor in tensors.items() if name not in looked_up]
    return LlamaSizes(
        vocabulary=bundle.manifest.shapes.vocabulary,
        **gguf_settings(reader),
        matrix_parameters=sum(int(prod(tensor.shape)) for tensor in read if len(tensor.shape) > 1),
        bytes_read=sum(int(tensor.n_bytes) for tensor in read),
        parameters=sum(int(prod(tensor.shape)) for tensor in tensors.values()),
    )


def gguf_settings(reader: Any) -> dict[str, Any]:
    """A Llama's sizes and constants as a `gguf.GGUFReader` finds them, by the names of `LlamaConfig`."""
    names = {
        "width": "embedding_length",
        "layers": "block_count",
        "heads": "attention.head_count",
        "kv_heads": "attention.head_count_kv",
        "hidden": "feed_forward_length",
        "context": "context_length",
        "norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    }
    return {name: reader.fields[f"llama.{key}"].contents() for name, key in names.items()}
