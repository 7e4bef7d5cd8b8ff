"""The original's language model in torch float32, one layer in memory at a time.

The layers are transformers' own. A whole 13B model in float32 would need 52 GB; here every sequence passes
through one layer before the next is read, so that a checkpoint of any size can be compared with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import LlamaConfig as HfLlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from .llama_weights import LAYER_NAMES, LlamaSource
from .progress import bar

Watch = Callable[[str, Tensor], None]
"""Called with a matrix's Hugging Face name and what it is multiplied with, (n, columns)."""


def reference_logits(source: LlamaSource, sequences: Sequence[Tensor], last: Sequence[int]) -> list[Tensor]:
    """Logits (last, vocabulary) of the last positions of each sequence of embeddings (n, width)."""
    states = final_states(source, sequences)
    with torch.no_grad():
        head = source.tensor("lm_head.weight").float()
        return [state[-count:] @ head.T for state, count in zip(states, last, strict=True)]


def final_states(source: LlamaSource, sequences: Sequence[Tensor], watch: Watch | None = None) -> list[Tensor]:
    """What the output matrix is multiplied with, (n, width), for each sequence of embeddings (n, width)."""
    config = hf_config(source)
    states = [sequence[None].float() for sequence in sequences]
    rotary = LlamaRotaryEmbedding(config)
    with torch.no_grad(), bar("reference language model", unit=" layers") as move:
        for i in range(config.num_hidden_layers):
            layer = _layer(source, config, i)
            if watch:
                _watch_matrices(layer, i, watch)
            states = [_apply(layer, state, rotary) for state in states]
            move(i + 1, config.num_hidden_layers)
        norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        norm.weight.copy_(source.tensor("model.norm.weight"))
        return [norm(state[0]) for state in states]


def _watch_matrices(layer: LlamaDecoderLayer, index: int, watch: Watch) -> None:
    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear):
            full = f"model.layers.{index}.{name}.weight"
            module.register_forward_pre_hook(lambda _, given, full=full: watch(full, given[0].flatten(0, -2)))


def hf_config(source: LlamaSource) -> HfLlamaConfig:
    config = source.config
    return HfLlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.context,
        attn_implementation="eager",
    )


def _layer(source: LlamaSource, config: HfLlamaConfig, index: int) -> LlamaDecoderLayer:
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, index)
    weights = {f"{name}.weight": source.tensor(f"model.layers.{index}.{name}.weight").float() for name in LAYER_NAMES}
    layer.load_state_dict(weights, assign=True)
    return layer.eval()


def _apply(layer: LlamaDecoderLayer, state: Tensor, rotary: LlamaRotaryEmbedding) -> Tensor:
    length = state.shape[1]
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    out: Tensor = layer(state, attention_mask=mask, position_embeddings=rotary(state, positions))
    return out


def token_embeddings(source: LlamaSource, tokens: Sequence[int]) -> Tensor:
    """Embeddings (n, width) of token ids, float32."""
    return source.tensor("model.embed_tokens.weight")[list(tokens)].float()


def reference_tokens(folder: Path, before: str, after: str) -> tuple[list[int], list[int]]:
    """The two text segments as the original's tokenizer cuts them, BOS before the first."""
    tokenizer = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [tokenizer.bos_id(), *tokenizer.encode(before)], tokenizer.encode(after)
