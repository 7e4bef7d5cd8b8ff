"""Bundles of a full shape with random weights: for measuring speed and memory without checkpoints.

Nothing is ever held or stored at full precision: the language model is made and quantised tensor by tensor.
"""

import io
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
import torch
from torch import Tensor

from ..engines.gguf_header import read_gguf_header
from .gguf_file import F16, F32, TypeOf, plain_types, quantise, write_gguf
from .llama_weights import LlamaConfig
from .vision_model import VisionConfig

PIECES = 32000
NARROW = 256  # the least width K-quants take


@dataclass(frozen=True)
class Shape:
    vision: VisionConfig
    llama: LlamaConfig


def _vision(width: int, depth: int, mlp: int, qformer: int, layers: int, n_embd: int) -> VisionConfig:
    cross = tuple(range(0, layers, 2))
    return VisionConfig(width, depth, mlp, 14, 32, qformer, layers, 4 * qformer, cross, n_embd)


SHAPES = {
    "tiny": Shape(_vision(176, 2, 768, 128, 2, 256), LlamaConfig(PIECES, 256, 2, 4, 4, 768)),
    "7b": Shape(_vision(1408, 39, 6144, 768, 12, 4096), LlamaConfig(PIECES, 4096, 32, 32, 32, 11008)),
    "13b": Shape(_vision(1408, 39, 6144, 768, 12, 5120), LlamaConfig(PIECES, 5120, 40, 40, 40, 13824)),
}
"""EVA ViT-g and BLIP-2's Q-Former, before a Llama of 7 or 13 billion; and all of it small."""


class RandomTensors:
    """Random weights by name: the same name and shape give the same values."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def tensor(self, name: str) -> Tensor:
        shape = self._shapes[name]
        random_source = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(shape, generator=random_source).mul_(0.02)
        is_norm_scale = len(shape) == 1 and "norm" in name.lower() and name.endswith("weight")
        return values.add_(1) if is_norm_scale or name == "ln_vision.weight" else values


class RandomLlama:
    """A Llama source of random weights."""

    def __init__(self, config: LlamaConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self._tensors = RandomTensors(config.shapes())

    def tensor(self, name: str) -> Tensor:
        return self._tensors.tensor(name)


def write_tokenizer(folder: Path, pieces: int = PIECES) -> None:
    """Train a SentencePiece model of `pieces` pieces, as a Llama's, on made-up words."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def _sentences() -> Iterator[str]:
    chance = random.Random(0)  # noqa: S311 - words, not secrets
    consonants = list("bcdfghjklmnprstvw")
    onsets = [*consonants, *(a + b for a in "bcfgps" for b in "lr"), "ch", "sh", "th", "st", "str", "tr", "dr", "qu"]
    vowels = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "oa", "oo", "ou"]
    codas = ["", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ck", "x", "ng"]
    syllables = [onset + vowel + coda for onset in onsets for vowel in vowels for coda in codas]
    chance.shuffle(syllables)
    for _ in range(6000):
        words = ("".join(chance.choices(syllables[:2500], k=chance.choice((1, 2, 2, 3)))) for _ in range(10))
        yield " ".join(words)


def tensor_types(config: LlamaConfig, kind: str, work: Path) -> TypeOf:
    """The type llama.cpp's quantiser gives each tensor of a Llama of this depth.

    It is asked with a narrow model of the same depth, so that its choices need not be known here.
    """
    if kind in ("f32", "f16"):
        return plain_types(F32 if kind == "f32" else F16)
    small = work / "narrow"
    small.mkdir()
    write_tokenizer(small, 512)
    narrow = replace(config, vocabulary=512, width=NARROW, heads=4, kv_heads=4, hidden=NARROW)
    write_gguf(RandomLlama(narrow, small), small / "f16.gguf", plain_types(F16), 1, "narrow", _silent)
    quantise(small / "f16.gguf", small / "q.gguf", kind, _silent)
    types = {tensor.name: tensor.type for tensor in read_gguf_header(small / "q.gguf").tensors}
    return lambda name, _: gguf.GGMLQuantizationType(types[name])


def _silent(done: int, total: int) -> None:
    pass


def random_llm(config: LlamaConfig, kind: str, file_type: int, work: Path, target: Path, progress: Any) -> RandomLlama:
    """Write a random Llama in the type asked for, without a copy at another precision."""
    write_tokenizer(work)
    source = RandomLlama(config, work)
    write_gguf(source, target, tensor_types(config, kind, work), file_type, "synthetic", progress)
    return source
