"""Leads a language model along answers that are given, and notes what it would have chosen, and how long it took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engines.base import EmbeddingSegment, Floats, LanguageModel, Segment, TokenSegment
from ..runtime.scheduler import Job, run_alone
from .llama_reference import reference_logits, token_embeddings
from .llama_weights import LlamaSource

SEQUENCE = 1  # of the language model's; which one does not matter


@dataclass(frozen=True, eq=False)
class Course:
    """A prompt with a picture's embeddings (queries, n_embd) in its middle, and the answer to be led along."""

    before: tuple[int, ...]
    embeds: Floats
    after: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def prompt_items(self) -> int:
        return len(self.before) + len(self.embeds) + len(self.after)


@dataclass(frozen=True, eq=False)
class Led:
    """What came of a course."""

    logits: Floats
    """(answer, n_vocab): from which each token of the answer would have been chosen."""
    prompt_seconds: float
    token_seconds: tuple[float, ...]


def lead(model: LanguageModel, course: Course) -> Led:
    """Raises EngineError."""
    model.rewind(SEQUENCE, 0)
    begun = time.perf_counter()
    run_alone(model, _evaluated(TokenSegment(SEQUENCE, 0, course.before)))
    rest = np.concatenate((course.embeds, model.embed(course.after)))
    rows = [run_alone(model, _evaluated(EmbeddingSegment(SEQUENCE, len(course.before), rest)))]
    times = [time.perf_counter()]
    for number, token in enumerate(course.answer[:-1]):
        segment = TokenSegment(SEQUENCE, course.prompt_items + number, (token,))
        rows.append(model.evaluate([segment])[0].copy())
        times.append(time.perf_counter())
    return Led(np.stack(rows), times[0] - begun, tuple(np.diff(times).tolist()))


def _evaluated(segment: Segment) -> Job[Floats]:
    """In chunks of the model's batch."""
    logits = yield segment
    return logits.copy()


def original_logits(llama: LlamaSource, courses: Sequence[Course]) -> list[Floats]:
    """The original's in torch float32, as `Led.logits`."""
    sequences = []
    for course in courses:
        text = token_embeddings(llama, [*course.after, *course.answer[:-1]])
        sequences.append(torch.cat((token_embeddings(llama, course.before), torch.from_numpy(course.embeds), text)))
    found = reference_logits(llama, sequences, [len(course.answer) for course in courses])
    return [rows.numpy() for rows in found]


def agreeing(expected: Floats, found: Floats) -> int:
    """Positions at which both would choose the same token."""
    return int((expected.argmax(-1) == found.argmax(-1)).sum())


def divergence(expected: Floats, found: Floats) -> float:
    """Kullback-Leibler divergence of the distributions at temperature 1, in nats, summed over positions."""
    p, q = (torch.from_numpy(rows).double().log_softmax(-1) for rows in (expected, found))
    total: Tensor = (p.exp() * (p - q)).sum()
    return float(total)
