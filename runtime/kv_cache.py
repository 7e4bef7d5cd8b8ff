"""What the language model's KV cache holds, so that nothing in it is computed twice.

The prompt is a list of items: token ids, and `ImageRow` for each embedding of the picture. A new prompt keeps
the longest prefix that the cache already holds, rewinds the rest and evaluates what is new. Because the prompt
itself is built as the original builds it, this changes how much is computed, not what.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..engines.base import Floats, LanguageModel
from ..engines.errors import EngineError
from .vision import ImageEmbedding

SYSTEM, WORK = 0, 1  # sequences: the text before the image, computed once, and the conversation


@dataclass(frozen=True)
class ImageRow:
    """One embedding of the picture with this SHA-256, in a token's place."""

    sha256: str
    row: int


Item = int | ImageRow


@dataclass
class Prefill:
    """How much of a prompt was computed and how much was already there, with seconds by kind."""

    reused: int = 0
    evaluated: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"system": 0.0, "image": 0.0, "text": 0.0})


class KvCache:
    """The KV cache of one language model and the items it holds, kept in step."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._held: dict[int, list[Item]] = {SYSTEM: [], WORK: []}
        self._latest: Prefill | None = None

    def prefill(self, before: Sequence[int], image: ImageEmbedding, after: Sequence[int]) -> Prefill:
        """Make the cache hold exactly this prompt, ready for its logits. Raises EngineError."""
        result = self._latest = Prefill()
        self._hold_system(before, result)
        rows = [ImageRow(image.sha256, row) for row in range(len(image.embeds))]
        self._extend([*before, *rows, *after], image.embeds, result)
        return result

    def append(self, token: int, prefill: Prefill) -> Floats:
        """Add a token after the prompt of `prefill` and return the logits after it.

        Raises EngineError if another prompt has taken its place.
        """
        if prefill is not self._latest:
            raise EngineError("another answer was begun before this one was finished: generate one at a time")
        held = self._held[WORK]
        self._model.evaluate_tokens(WORK, len(held), [token])
        held.append(token)
        return self._model.logits()

    def forget_conversation(self) -> None:
        """Drop the conversation; the text before the image stays."""
        self._rewind(WORK, 0)

    def _hold_system(self, tokens: Sequence[int], result: Prefill) -> None:
        held = self._held[SYSTEM]
        if held == list(tokens):
            return
        start = time.perf_counter()
        self._rewind(SYSTEM, 0)
        self._model.evaluate_tokens(SYSTEM, 0, tokens)
        self._held[SYSTEM] = list(tokens)
        result.evaluated += len(tokens)
        result.seconds["system"] += time.perf_counter() - start

    def _extend(self, items: list[Item], embeds: Floats, result: Prefill) -> None:
        system, work = self._held[SYSTEM], self._held[WORK]
        # At least the last item is evaluated, for its logits.
        common = min(_common_prefix(items, work), len(items) - 1)
        if common < (shared := min(_common_prefix(items, system), len(items) - 1)):
            self._held[WORK] = []
            self._model.fork(SYSTEM, WORK, shared)
            self._held[WORK] = items[:shared]
            common = shared
        else:
            self._rewind(WORK, common)
        # What was evaluated just now as the system prompt does not count as reused.
        result.reused = common - min(result.evaluated, common)
        while common < len(items):
            common = self._evaluate_run(items, common, embeds, result)

    def _evaluate_run(self, items: list[Item], start: int, embeds: Floats, result: Prefill) -> int:
        """Evaluate the items of one kind from `start` on; return where they end."""
        end, begun = start, time.perf_counter()
        kind = type(items[start])
        while end < len(items) and type(items[end]) is kind:
            end += 1
        run = items[start:end]
        rows = [item.row for item in run if isinstance(item, ImageRow)]
        if rows:
            self._model.evaluate_embeddings(WORK, start, embeds[rows])
        else:
            self._model.evaluate_tokens(WORK, start, [item for item in run if isinstance(item, int)])
        self._held[WORK].extend(run)
        result.evaluated += len(run)
        result.seconds["image" if rows else "text"] += time.perf_counter() - begun
        return end

    def _rewind(self, sequence: int, length: int) -> None:
        # Also when nothing here is beyond `length`: an evaluation that failed may have left cells in the model.
        del self._held[sequence][length:]
        self._model.rewind(sequence, length)


def _common_prefix(a: Sequence[Item], b: Sequence[Item]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
