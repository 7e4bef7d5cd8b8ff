"""Which part of a language model lies in a GPU's memory, and which in the machine's."""

import re

from ..engines.base import LanguageModelSetup
from ..engines.gguf_header import GgufHeader

EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"


def layers_on_gpu(header: GgufHeader, setup: LanguageModelSetup) -> int:
    """The last ones; the output matrix counts as one more."""
    return max(0, header.n_layer - _first(header, setup)) if setup.device != "cpu" else 0


def weights_on_gpu(header: GgufHeader, setup: LanguageModelSetup) -> int:
    """Bytes. Without an output matrix of its own, the embeddings are copied for it."""
    if setup.device == "cpu" or not setup.gpu_layers:
        return 0
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    return _layers(header, setup, sizes) + sizes.get(OUTPUT, sizes.get(EMBEDDINGS, 0))


def weights_in_memory(header: GgufHeader, setup: LanguageModelSetup) -> int:
    """Bytes of the machine's memory. The embeddings are always looked up on the processor."""
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    if setup.device == "cpu" or not setup.gpu_layers:
        return sum(sizes.values())
    return sum(sizes.values()) - _layers(header, setup, sizes) - sizes.get(OUTPUT, 0)


def _layers(header: GgufHeader, setup: LanguageModelSetup, sizes: dict[str, int]) -> int:
    first = _first(header, setup)
    return sum(size for name, size in sizes.items() if (layer := _layer(name)) is not None and layer >= first)


def _first(header: GgufHeader, setup: LanguageModelSetup) -> int:
    """The number of the first layer on the GPU."""
    return header.n_layer + 1 - min(setup.gpu_layers, header.n_layer + 1)


def _layer(name: str) -> int | None:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else None
