"""What a bundle's own language model gives in float32: its GGUF weights made float32, computed by torch.

Two devices that differ can then be told apart. The weights are those of the file, quantised or not, so that only the
arithmetic differs.
"""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from ...engines.base import Floats
from ...export.llama_reference import reference_logits, token_embeddings
from ...export.llama_weights import LAYER_NAMES, LlamaConfig
from ..measure.model_sizes import gguf_settings

OTHER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
"""Hugging Face's name of a tensor and GGUF's."""


class GgufWeights:
    """A Llama's tensors by their Hugging Face names, float32, from a GGUF file; one is held at a time."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.folder = path.parent
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        vocabulary = reader.fields["llama.vocab_size"].contents()
        self.config = LlamaConfig(vocabulary=vocabulary, **gguf_settings(reader))

    def tensor(self, name: str) -> Tensor:
        found = self._tensors[gguf_name(name)]
        values = torch.from_numpy(np.array(gguf.quants.dequantize(found.data, found.tensor_type), np.float32))
        heads = {"attn_q": self.config.heads, "attn_k": self.config.kv_heads}.get(found.name.split(".")[-2])
        return split_heads(values, heads) if heads else values


def gguf_name(name: str) -> str:
    """`blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj.weight`."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    number, _, inside = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{LAYER_NAMES[inside.removesuffix('.weight')]}.weight"


def split_heads(weight: Tensor, heads: int) -> Tensor:
    """Undo `interleave_heads` of `export/llama_weights.py`."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def true_logits(
    path: Path, segments: Sequence[tuple[Sequence[int], Sequence[int]]], images: Sequence[Floats],
    answers: Sequence[Sequence[int]],
) -> list[Floats]:  # fmt: skip
    """Logits (tokens, n_vocab) from which each answer's tokens are chosen, all after the same tokens.

    `segments` are the token ids before and after a picture, `images` its embeddings (n, n_embd).
    """
    source = GgufWeights(path)
    prompts = []
    for (before, after), image, answer in zip(segments, images, answers, strict=True):
        rows = token_embeddings(source, [*before, *after, *answer[:-1]])
        picture = torch.from_numpy(np.array(image, np.float32))
        prompts.append(torch.cat((rows[: len(before)], picture, rows[len(before) :])))
    found = reference_logits(source, prompts, [len(answer) for answer in answers])
    return [logits.numpy() for logits in found]
