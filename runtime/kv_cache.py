"""What the language model's KV cache holds, so that nothing in it is computed twice.

The prompt is a list of items: token ids, and `ImageRow` for each embedding of the picture. A new prompt keeps
the longest prefix that the cache already holds, in whichever sequence, and evaluates what is new. Because the prompt
itself is built as the original builds it, this changes how much is computed, not what.

What has to be evaluated is yielded as work, so that one answer can be made alone or many together.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ..engines.base import Floats, LanguageModel, Rows, Run, Work
from ..engines.errors import EngineError
from .prompt_snapshot import PromptSnapshot
from .vision import ImageEmbedding

SYSTEM = 0  # the sequence of the text before the image, computed once; the others hold a conversation each

Evaluation = Generator[Work | str, Floats | None, Floats]
"""Yields work, is sent the logits after it, and returns the last ones."""


@dataclass(frozen=True)
class ImageRow:
    """One embedding of the picture with this SHA-256, in a token's place."""

    sha256: str
    row: int


Item = int | ImageRow


@dataclass(eq=False)
class Prefill:
    """How much of a prompt was computed and how much was already there, with seconds by kind."""

    sequence: int = -1
    reused: int = 0
    evaluated: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"system": 0.0, "image": 0.0, "text": 0.0})


class KvCache:
    """The KV cache of one language model and the items it holds, kept in step.

    It has room for `conversations` of them at the same time.
    """

    def __init__(self, model: LanguageModel, conversations: int = 1, snapshot: PromptSnapshot | None = None) -> None:
        self._model = model
        self._snapshot = snapshot
        self._held: dict[int, list[Item]] = {sequence: [] for sequence in range(conversations + 1)}
        self._owners: dict[int, Prefill] = {}  # by sequence, the answers in the making, the oldest first

    @property
    def conversations(self) -> int:
        return len(self._held) - 1

    def prefill(
        self, before: Sequence[int], image: ImageEmbedding, after: Sequence[int], result: Prefill, room: int = 1
    ) -> Evaluation:
        """Make the cache hold exactly this prompt with room for an answer; returns the logits after it.

        Raises EngineError.

        `result` owns its sequence until `release`, or until there are more answers than sequences: then the oldest
        loses its own.
        """
        self._hold_system(before, result)
        rows = [ImageRow(image.sha256, row) for row in range(len(image.embeds))]
        items: list[Item] = [*before, *rows, *after]
        self._lease(items, result)
        self._make_room(result.sequence, len(items) + room)
        return (yield from self._extend(items, image.embeds, result))

    def append(self, token: int, prefill: Prefill) -> Evaluation:
        """Add a token after the prompt of `prefill`; returns the logits after it.

        Raises EngineError if another prompt has taken its place.
        """
        if self._owners.get(prefill.sequence) is not prefill:
            raise EngineError("another answer was begun before this one was finished: generate one at a time")
        held = self._held[prefill.sequence]
        logits = yield Run(prefill.sequence, len(held), (token,))
        assert logits is not None
        held.append(token)
        return logits

    def release(self, prefill: Prefill) -> None:
        """The answer is finished; what its sequence holds stays, for a prompt that begins alike."""
        if self._owners.get(prefill.sequence) is prefill:
            del self._owners[prefill.sequence]

    def forget_conversations(self) -> None:
        """Drop all conversations; the text before the image stays."""
        self._owners.clear()
        for sequence in self._held.keys() - {SYSTEM}:
            self._rewind(sequence, 0)

    def _hold_system(self, tokens: Sequence[int], result: Prefill) -> None:
        # At once and not as work: others who begin at the same time need the same text.
        held = self._held[SYSTEM]
        if held == list(tokens):
            return
        start = time.perf_counter()
        self._rewind(SYSTEM, 0)
        restored = self._snapshot is not None and self._snapshot.restore(SYSTEM, tokens)
        if not restored:
            self._model.evaluate_tokens(SYSTEM, 0, tokens)
            result.evaluated += len(tokens)
        self._held[SYSTEM] = list(tokens)
        seconds = time.perf_counter() - start
        result.seconds["system"] += seconds
        if self._snapshot and not restored:
            self._snapshot.keep(SYSTEM, tokens, seconds)

    def _lease(self, items: list[Item], result: Prefill) -> None:
        """Give `result` the free sequence that holds most of this prompt, of these the one with least else."""
        free = [sequence for sequence in self._held if sequence not in self._owners and sequence != SYSTEM]
        candidates = free or [next(iter(self._owners))]

        def worth(sequence: int) -> tuple[int, int]:
            return _common_prefix(items, self._held[sequence]), -len(self._held[sequence])

        result.sequence = max(candidates, key=worth)
        self._owners.pop(result.sequence, None)
        self._owners[result.sequence] = result

    def _make_room(self, own: int, items: int) -> None:
        """Drop finished conversations if the cells might not last for one more of this many items."""
        system = self._held[SYSTEM]
        others = {sequence: held for sequence, held in self._held.items() if sequence not in (own, SYSTEM)}
        taken = sum(len(held) - _common_prefix(held, system) for held in others.values())
        if taken + max(items, len(system)) > self._model.n_ctx:
            for sequence in others.keys() - self._owners.keys():
                self._rewind(sequence, 0)

    def _extend(self, items: list[Item], embeds: Floats, result: Prefill) -> Evaluation:
        own = result.sequence
        # At least the last item is evaluated, for its logits.
        shared = {sequence: min(_common_prefix(items, held), len(items) - 1) for sequence, held in self._held.items()}
        best = max(shared, key=lambda sequence: (shared[sequence], sequence == own))
        common = shared[best]
        if best == own:
            self._rewind(own, common)
        else:
            self._held[own] = []
            self._model.fork(best, own, common)
            self._held[own] = items[:common]
        # What was evaluated just now as the system prompt does not count as reused.
        result.reused = common - min(result.evaluated, common)
        logits: Floats | None = None
        while common < len(items):
            run = _run_of_one_kind(items, common)
            begun = time.perf_counter()
            rows = [item.row for item in run if isinstance(item, ImageRow)]
            tokens = tuple(item for item in run if isinstance(item, int))
            logits = yield Rows(own, common, embeds[rows]) if rows else Run(own, common, tokens)
            if self._owners.get(own) is not result:
                raise EngineError("another answer was begun before this one was finished: generate one at a time")
            self._held[own].extend(run)
            common += len(run)
            result.evaluated += len(run)
            result.seconds["image" if rows else "text"] += time.perf_counter() - begun
        assert logits is not None
        return logits

    def _rewind(self, sequence: int, length: int) -> None:
        # Also when nothing here is beyond `length`: an evaluation that failed may have left cells in the model.
        del self._held[sequence][length:]
        self._model.rewind(sequence, length)


def _run_of_one_kind(items: Sequence[Item], start: int) -> Sequence[Item]:
    end, kind = start, type(items[start])
    while end < len(items) and type(items[end]) is kind:
        end += 1
    return items[start:end]


def _common_prefix(a: Sequence[Item], b: Sequence[Item]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
