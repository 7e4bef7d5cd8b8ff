"""The part of the KV cache that one answer in the making uses, and what of its prompt must be computed.

What must be computed is yielded to a `Scheduler`, so that one answer can be generated alone or many together.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..engines.base import EmbeddingSegment, Floats, LanguageModel, Segment, TokenSegment
from ..engines.errors import EngineError
from .kv_cache import SYSTEM, ImageRow, Item, KvCache, Release, content_of
from .vision import ImageEmbedding


@dataclass(frozen=True)
class Prefill:
    """How much of a prompt was computed and how much was found in the KV cache, with seconds by kind."""

    evaluated: int
    reused: int
    seconds: Mapping[str, float]
    """Of `system`, `image` and `text`. Picture and text are evaluated together; each is given its part of the items."""


class Lease:
    """The part of the KV cache that one answer in the making uses. Its generators are for a `Scheduler`'s job."""

    def __init__(self, model: LanguageModel, cache: KvCache) -> None:
        self._model = model
        self._cache = cache
        self._sequence = -1
        self._evaluating = False
        self.prompt_in_part = False
        """Some chunks of what was yielded last were evaluated, and some not."""
        self._called = 0.0
        self._evaluated = 0
        self._seconds = {"system": 0.0, "image": 0.0, "text": 0.0}

    def hold_picture(self, before: Sequence[int], image: ImageEmbedding) -> Generator[Segment, Floats, None]:
        """Make a sequence begin with this text and picture, unless one does."""
        if not self._cache.begins(_items(before, image, ())):
            yield from self.prefill(before, image, ())

    def hold_system(self, tokens: Sequence[int]) -> Generator[Segment, Floats, bool]:
        """Evaluate the text before the image, unless the cache holds it; whether anything was computed."""
        begun = self._cache.begin_system(self, tokens)
        if begun:
            yield from self._evaluate_system(tokens)
        return begun

    def prefill(
        self, before: Sequence[int], image: ImageEmbedding, after: Sequence[int], room: int = 1
    ) -> Generator[Segment, Floats, tuple[Floats, Prefill]]:
        """Make the cache hold exactly this prompt with room for an answer; logits (n_vocab,) after it and the counts.

        Raises EngineError if another answer takes this one's place.
        """
        begun = time.perf_counter()
        yield from self.hold_system(before)
        self._seconds["system"] = time.perf_counter() - begun
        items = _items(before, image, after)
        self._sequence = self._cache.choose_sequence(self, items, room)
        done = self._cache.reuse(self._sequence, items)
        # What was evaluated just now as the text before the image does not count as reused.
        reused = done - min(self._evaluated, done)
        begun = time.perf_counter()
        rest = items[done:]
        logits = yield from self._evaluate(self._segment(done, rest, image))
        self._cache.append(self._sequence, rest)
        self._evaluated += len(rest)
        seconds = (time.perf_counter() - begun) / len(rest)
        rows = sum(isinstance(item, ImageRow) for item in rest)
        self._seconds |= {"image": seconds * rows, "text": seconds * (len(rest) - rows)}
        return logits, Prefill(self._evaluated, reused, dict(self._seconds))

    def _segment(self, position: int, items: Sequence[Item], image: ImageEmbedding) -> Segment:
        """Items to be evaluated in one go: tokens, or where the picture is among them the embeddings of all."""
        tokens = tuple(item for item in items if isinstance(item, int))
        if len(tokens) == len(items):
            return _LeasedTokens(self._sequence, position, tokens, self)
        embedded = iter(self._model.embed(tokens))
        rows = [image.embeds[item.row] if isinstance(item, ImageRow) else next(embedded) for item in items]
        return _LeasedEmbeddings(self._sequence, position, np.stack(rows), self)

    def _evaluate_system(self, tokens: Sequence[int]) -> Generator[Segment, Floats, None]:
        begun = time.perf_counter()
        yield from self._evaluate(TokenSegment(SYSTEM, 0, tuple(tokens)))
        self._cache.append(SYSTEM, tokens)
        self._evaluated += len(tokens)
        self._cache.end_system(tokens, time.perf_counter() - begun)

    def append(self, token: int) -> Generator[Segment, Floats, tuple[Floats, float]]:
        """Add a token after the prompt; logits (n_vocab,) after it, and the seconds of the model's call.

        Raises EngineError if another prompt has taken its place.
        """
        at = self._cache.length(self._sequence)
        logits = yield from self._evaluate(_LeasedTokens(self._sequence, at, (token,), self))
        self._cache.append(self._sequence, (token,))
        return logits, time.perf_counter() - self._called

    def _evaluate(self, segment: Segment) -> Generator[Segment, Floats, Floats]:
        self._evaluating = True
        logits = yield segment
        self._evaluating = False
        return logits

    def check(self, *, last: bool) -> None:
        """Called when a chunk is about to be evaluated. Raises EngineError if another answer has taken the sequence."""
        self._called = time.perf_counter()
        self.prompt_in_part = not last
        if not self._cache.owns(self, self._sequence):
            raise EngineError("another answer was begun before this one was finished: generate one at a time")

    def release(self) -> None:
        """The answer is finished or given up. Any thread may call it, at any time."""
        self._cache.release(Release(self, self._sequence, self._evaluating))


@dataclass(frozen=True)
class _LeasedTokens(TokenSegment):
    """Tokens that are evaluated only while their lease holds the sequence."""

    lease: Lease

    def part(self, start: int, count: int) -> TokenSegment:
        self.lease.check(last=start + count >= len(self))
        return super().part(start, count)


@dataclass(frozen=True, eq=False)
class _LeasedEmbeddings(EmbeddingSegment):
    """Embeddings that are evaluated only while their lease holds the sequence."""

    lease: Lease

    def part(self, start: int, count: int) -> EmbeddingSegment:
        self.lease.check(last=start + count >= len(self))
        return super().part(start, count)


def _items(before: Sequence[int], image: ImageEmbedding, after: Sequence[int]) -> list[Item]:
    content = content_of(image)
    return [*before, *(ImageRow(content, row) for row in range(len(image.embeds))), *after]
