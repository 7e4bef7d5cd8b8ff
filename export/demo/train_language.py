"""Trains the projection and the language model to describe what the Q-Former found.

Prompts are built by the runtime's own code, so that training and use see the same text.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from ...runtime.manifest import SpecialTokens
from ...runtime.prompt import build_prompt
from ..templates import SKINGPT4
from .answers import conversation
from .conditions import Findings, draw_findings
from .labelled_drawings import UNKNOWN
from .train_vision import CONFIG, Point, fast_arithmetic, learning_rate, make_optimiser

VOCABULARY = 1024
SPECIAL_TOKENS = SpecialTokens(unk=0, bos=1, eos=2)
STEPS, BATCH, PEAK = 700, 32, 2e-3
STEPS_A_POINT = 50  # of the learning curve


def llama_config() -> LlamaConfig:
    """A Llama whose widths are multiples of 256, as llama.cpp's K-quants need."""
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=CONFIG.n_embd, intermediate_size=768, num_hidden_layers=3,
        num_attention_heads=4, rms_norm_eps=1e-5, max_position_embeddings=2048,
        bos_token_id=SPECIAL_TOKENS.bos, eos_token_id=SPECIAL_TOKENS.eos, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip


def train_tokenizer(target: Path, conversations: int = 6000) -> None:
    """Write `tokenizer.model`: SentencePiece BPE with byte fallback, as a Llama's, of the conversations' own words."""
    random = np.random.default_rng(0)
    texts = []
    for number in range(conversations):
        findings = None if number % 25 == 0 else draw_findings(random, hard=True)
        turns = conversation(findings, random)
        before, after = whole_text(turns)
        texts += [before] if number % 10 == 0 else []
        texts.append(after)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(target.with_suffix("")), model_type="bpe",
        vocab_size=VOCABULARY, byte_fallback=True, character_coverage=1.0, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        num_threads=1, minloglevel=2, pad_id=-1,
        unk_id=SPECIAL_TOKENS.unk, bos_id=SPECIAL_TOKENS.bos, eos_id=SPECIAL_TOKENS.eos, max_sentence_length=20000,
        hard_vocab_limit=False,
    )  # fmt: skip
    target.with_suffix(".vocab").unlink()


def whole_text(turns: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The text before and after the picture of a finished conversation, up to the `###` that ends the last answer."""
    prompt = build_prompt(SKINGPT4, SPECIAL_TOKENS, turns, "?")
    after = "".join(part for part in prompt.after if isinstance(part, str))
    return prompt.before, after.removesuffix(SKINGPT4.next.replace("{question}", "?")) + SKINGPT4.stop[0]


class ProjectedLlama(nn.Module):
    """The projection and the Llama behind it."""

    def __init__(self, tokenizer: Path) -> None:
        super().__init__()
        self.projection = nn.Linear(CONFIG.qformer_width, CONFIG.n_embd)
        self.llama = LlamaForCausalLM(llama_config())
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))

    def loss(self, query_output: Tensor, talks: Sequence[Sequence[tuple[str, str]]]) -> Tensor:
        """Mean cross entropy of all tokens after the picture; query_output is (b, queries, width)."""
        texts = [whole_text(talk) for talk in talks]
        before = [1, *self._tokenizer.encode(texts[0][0])]
        after = [torch.tensor(self._tokenizer.encode(text)) for _, text in texts]
        tokens = nn.utils.rnn.pad_sequence(after, batch_first=True, padding_value=UNKNOWN)
        embed = self.llama.get_input_embeddings()
        count = len(tokens)
        parts = (
            embed(torch.tensor(before)).expand(count, -1, -1),
            self.projection(query_output),
            embed(tokens.clamp(min=0)),
        )
        states = self.llama.model(inputs_embeds=torch.cat(parts, dim=1), use_cache=False).last_hidden_state
        logits = self.llama.lm_head(states[:, -tokens.shape[1] - 1 : -1])
        return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), ignore_index=UNKNOWN)


@dataclass(frozen=True)
class QueryOutputs:
    """Drawings as the trained Q-Former sees them."""

    query_output: Tensor
    """(n, queries, width)"""
    findings: Sequence[Findings | None]


def train(language: ProjectedLlama, training: QueryOutputs, tell: Callable[[Point], None], steps: int = STEPS) -> None:
    """Train in place; `tell` hears of the learning curve's points."""
    random = np.random.default_rng(0)
    optimiser = make_optimiser(language, PEAK)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, steps))
    every = min(STEPS_A_POINT, steps // 2)
    begun, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        chosen = random.integers(len(training.findings), size=BATCH)
        talks = [conversation(training.findings[i], random) for i in chosen]
        losses.append(_step(language, training.query_output[chosen], talks, optimiser))
        schedule.step()
        if step % every == 0:
            minutes = (time.monotonic() - begun) / 60
            tell(Point("language", step * BATCH, minutes, float(np.mean(losses[-every:]))))
    language.eval()


def _step(language: ProjectedLlama, query_output: Tensor, talks: Sequence[Any], optimiser: Any) -> float:
    with fast_arithmetic():
        loss = language.loss(query_output, talks)
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(language.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())
