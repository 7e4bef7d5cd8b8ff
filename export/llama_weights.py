"""The configuration and tensors of a Llama, read from a checkpoint or filled with random numbers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..engines.errors import ExportError
from ..runtime.manifest import MIN_CONTEXT
from .checkpoints import LlamaFolder, check_shapes

LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""A layer's tensors: Hugging Face's name and GGUF's."""


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama; `hidden` is the feed-forward width."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's Hugging Face name and shape."""
        kv = self.kv_heads * self.head_width
        layer = {
            "self_attn.q_proj": (self.width, self.width),
            "self_attn.k_proj": (kv, self.width),
            "self_attn.v_proj": (kv, self.width),
            "self_attn.o_proj": (self.width, self.width),
            "mlp.gate_proj": (self.hidden, self.width),
            "mlp.up_proj": (self.hidden, self.width),
            "mlp.down_proj": (self.width, self.hidden),
            "input_layernorm": (self.width,),
            "post_attention_layernorm": (self.width,),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for i in range(self.layers):
            shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.width,)
        shapes["lm_head.weight"] = (self.vocabulary, self.width)
        return shapes


class LlamaSource(Protocol):
    """Where a Llama's tensors come from, one at a time."""

    @property
    def config(self) -> LlamaConfig: ...
    @property
    def folder(self) -> Path:
        """Holds `tokenizer.model`, and `added_tokens.json` if there are any."""
        ...

    def tensor(self, name: str) -> Tensor:
        """One tensor by its Hugging Face name."""
        ...


class LlamaCheckpoint:
    """A Llama from a Hugging Face folder whose names, sizes and settings have been checked."""

    def __init__(self, files: LlamaFolder) -> None:
        """Raises ExportError if it is no plain Llama, or tensors are missing or misshapen."""
        self.folder = files.folder
        self.config = read_config(files.config, files.folder / "config.json")
        self._files = files
        names = files.names()
        # Tied: the output matrix is the embedding.
        self._tied = bool(files.config.get("tie_word_embeddings")) and "lm_head.weight" not in names
        expected = self.config.shapes()
        if self._tied:
            del expected["lm_head.weight"]
        check_shapes(expected, {name: files.shape(name) for name in names})

    def tensor(self, name: str) -> Tensor:
        if self._tied and name == "lm_head.weight":
            name = "model.embed_tokens.weight"
        return self._files.tensor(name)


def read_config(data: dict[str, Any], path: Path) -> LlamaConfig:
    """Sizes from a `config.json`. Raises ExportError for anything but a plain Llama."""
    if data.get("model_type") != "llama":
        raise ExportError(f"{path}: model_type is {data.get('model_type')!r}, expected 'llama'")
    if data.get("rope_scaling") is not None:
        raise ExportError(f"{path}: rope_scaling is {data['rope_scaling']!r}; only plain Llama positions are known")
    rope = data.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ExportError(f"{path}: rope_parameters are {rope!r}; only plain Llama positions are known")
    if data.get("hidden_act", "silu") != "silu":
        raise ExportError(f"{path}: hidden_act is {data['hidden_act']!r}; a Llama's is 'silu'")
    if data.get("attention_bias") or data.get("mlp_bias"):
        raise ExportError(f"{path}: layers with biases are not a plain Llama's")
    try:
        config = LlamaConfig(
            vocabulary=int(data["vocab_size"]),
            width=int(data["hidden_size"]),
            layers=int(data["num_hidden_layers"]),
            heads=int(data["num_attention_heads"]),
            kv_heads=int(data.get("num_key_value_heads") or data["num_attention_heads"]),
            hidden=int(data["intermediate_size"]),
            context=int(data.get("max_position_embeddings", 2048)),
            norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            rope_theta=float(data.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        )
    except KeyError as error:
        raise ExportError(f"{path}: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise ExportError(f"{path}: a size is not a number: {error}") from None
    if min(config.heads, config.kv_heads, config.layers) < 1 or config.width % config.heads:
        raise ExportError(f"{path}: width {config.width} is not a multiple of {config.heads} heads")
    if data.get("head_dim") not in (None, config.head_width):
        raise ExportError(f"{path}: head_dim is {data['head_dim']!r}, a plain Llama's would be {config.head_width}")
    if not (0 < config.norm_eps < 1 and 0 < config.rope_theta < math.inf):
        raise ExportError(f"{path}: rms_norm_eps {config.norm_eps} or rope_theta {config.rope_theta} is out of range")
    if config.context < MIN_CONTEXT:
        raise ExportError(f"{path}: max_position_embeddings is {config.context}, expected at least {MIN_CONTEXT}")
    return config


def gguf_tensors(source: LlamaSource) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """GGUF name, shape and content of each tensor, in GGUF's order."""
    config, shapes = source.config, source.config.shapes()

    def entry(gguf: str, name: str, heads: int = 0) -> tuple[str, tuple[int, ...], Callable[[], Tensor]]:
        def content() -> Tensor:
            tensor = source.tensor(name)
            return interleave_heads(tensor, heads) if heads else tensor

        return gguf, shapes[name], content

    yield entry("token_embd.weight", "model.embed_tokens.weight")
    for i in range(config.layers):
        for name, gguf in LAYER_NAMES.items():
            heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(gguf, 0)
            yield entry(f"blk.{i}.{gguf}.weight", f"model.layers.{i}.{name}.weight", heads)
    yield entry("output_norm.weight", "model.norm.weight")
    yield entry("output.weight", "lm_head.weight")


def interleave_heads(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix in the order of llama.cpp's rotary embedding.

    Hugging Face rotates the first half of a head with the second, llama.cpp neighbours with each other.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
