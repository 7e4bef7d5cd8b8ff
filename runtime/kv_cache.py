"""Keeps track of what the language model's KV cache holds, so that nothing in it is computed twice.

A prompt is a list of items: token ids, and an `ImageRow` for each embedding of the picture. A new prompt reuses the
longest prefix that any sequence of the cache holds. Only the rest is computed. This saves time and does not change
the result, because the prompt itself is built as the original builds it.

An answer uses it through a `Lease` (`kv_lease.py`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

from ..engines.base import LanguageModel
from ..engines.errors import EngineError
from .prompt_snapshot import PromptSnapshot
from .vision import ImageEmbedding

SYSTEM = 0  # the sequence of the text before the image, computed once; the others hold a conversation each


@dataclass(frozen=True)
class ImageRow:
    """One of the embeddings that together have this SHA-256, in a token's place."""

    sha256: str
    row: int


Item = int | ImageRow


class Owner(Protocol):
    """What may hold a sequence: the lease of an answer in the making."""

    prompt_in_part: bool
    """Some chunks of its prompt were evaluated, and some not."""


class Release(NamedTuple):
    """What an owner leaves behind."""

    owner: Owner
    sequence: int
    cut_off: bool
    """In the middle of an evaluation."""


class KvCache:
    """The KV cache of one language model and the items it holds, kept in step.

    It has room for `conversations` of them at the same time.
    """

    def __init__(self, model: LanguageModel, conversations: int = 1, snapshot: PromptSnapshot | None = None) -> None:
        self.conversations = conversations
        self._model = model
        self._snapshot = snapshot
        self._held: dict[int, list[Item]] = {sequence: [] for sequence in range(conversations + 1)}
        self._owners: dict[int, Owner] = {}  # by sequence, the answers in the making, the oldest first
        self._from_system = dict.fromkeys(self._held, 0)  # by sequence, the leading cells it shares with SYSTEM
        self._extends_system: Owner | None = None
        self._released: deque[Release] = deque()

    def forget_conversations(self) -> None:
        """Drop all conversations; the text before the image stays."""
        self._settle()
        self._owners.clear()
        for sequence in self._held.keys() - {SYSTEM}:
            self.rewind(sequence, 0)

    def forget(self, images: Sequence[ImageEmbedding]) -> None:
        """Wipe what the model's memory holds of pictures and of the conversations about them.

        The memory is overwritten as a whole, because cells that were given up keep their content. Other conversations
        are put aside meanwhile. Those that are being answered come back, and the rest as far as there is room for
        copies of what they shared. Raises EngineError, with nothing changed, if an answer about one of the pictures is
        being generated, if a prompt has been evaluated in part, or if there is no room for those being answered.
        """
        self._settle()
        contents = {content_of(image) for image in images}
        kept = {
            sequence: held
            for sequence, held in self._held.items()
            if held and not any(isinstance(item, ImageRow) and item.sha256 in contents for item in held)
        }
        in_part = any(owner.prompt_in_part for owner in self._owners.values())
        if self._extends_system or in_part or self._owners.keys() - kept.keys():
            raise EngineError("an answer is being generated: wipe when it is finished")
        if sum(len(kept[sequence]) for sequence in self._owners) > self._model.n_ctx:
            raise EngineError("there is no room to put the answers aside: wipe when they are finished")
        states = {sequence: self._model.snapshot(sequence) for sequence in kept}
        self._model.wipe()
        self._held = {sequence: [] for sequence in self._held}
        self._from_system = dict.fromkeys(self._held, 0)
        room = self._model.n_ctx
        for sequence in sorted(kept, key=lambda one: (one not in self._owners, one)):  # then SYSTEM
            if len(kept[sequence]) <= room:
                self._model.restore(sequence, states[sequence])
                self._held[sequence] = kept[sequence]
                room -= len(kept[sequence])

    def choose_sequence(self, owner: Owner, items: Sequence[Item], room: int) -> int:
        """Give an owner the free sequence that holds most of this prompt; of equal ones the one that holds least else.

        If all are taken, the oldest answer loses its own. `room` more items are to fit behind the prompt.
        """
        self._settle()
        free = [sequence for sequence in self._held if sequence not in self._owners and sequence != SYSTEM]
        candidates = free or [next(iter(self._owners))]

        def worth(sequence: int) -> tuple[int, int]:
            common = _common_prefix(items, self._held[sequence])
            # The text before the picture is copied from SYSTEM, so a sequence is not worth more for having it.
            return common if common > len(self._held[SYSTEM]) else 0, -len(self._held[sequence])

        chosen = max(candidates, key=worth)
        self._owners.pop(chosen, None)
        self._owners[chosen] = owner
        self._make_room(chosen, len(items) + room)
        return chosen

    def begins(self, items: Sequence[Item]) -> bool:
        """Whether a sequence begins with these items."""
        self._settle()
        return any(_common_prefix(items, held) == len(items) for held in self._held.values())

    def owns(self, owner: Owner, sequence: int) -> bool:
        return self._owners.get(sequence) is owner

    def release(self, release: Release) -> None:
        """An answer is finished or given up.

        What its sequence holds stays, for a prompt that begins alike. The next answer sees to the rest, because an
        answer may be given up while another thread uses the model, or by the garbage collector at any moment.
        """
        self._released.append(release)

    def _settle(self) -> None:
        """Free what was released; chunks of an evaluation that was cut off are dropped."""
        while self._released:
            owner, sequence, cut_off = self._released.popleft()
            taken = []
            if self._extends_system is owner:
                self._extends_system = None
                taken.append(SYSTEM)
            if self.owns(owner, sequence):
                del self._owners[sequence]
                taken.append(sequence)
            if cut_off:
                for one in taken:
                    self.rewind(one, len(self._held[one]))

    def reuse(self, sequence: int, items: Sequence[Item]) -> int:
        """Let a sequence hold the longest beginning of the items that any sequence holds; its length.

        At least the last item is left to be evaluated, for its logits.
        """
        shared = {other: min(_common_prefix(items, held), len(items) - 1) for other, held in self._held.items()}
        best = max(shared, key=lambda other: (shared[other], other == sequence))
        if best == sequence:
            self.rewind(sequence, shared[best])
        else:
            self._held[sequence] = []
            self._model.fork(best, sequence, shared[best])
            self._held[sequence] = list(items[: shared[best]])
            same = shared[best] if best == SYSTEM else self._from_system[best]
            self._from_system[sequence] = min(shared[best], same)
        return shared[best]

    def length(self, sequence: int) -> int:
        return len(self._held[sequence])

    def append(self, sequence: int, items: Sequence[Item]) -> None:
        """Note items that were evaluated at the end of a sequence."""
        self._held[sequence].extend(items)

    def begin_system(self, owner: Owner, tokens: Sequence[int]) -> bool:
        """Whether this owner has to evaluate the text before the image; tried first: a snapshot of an earlier process.

        If another one is at it, this one does not wait: it takes what is there and computes the rest for itself.
        """
        self._settle()
        held = self._held[SYSTEM]
        if held == list(tokens) or self._extends_system:
            return False
        # All of it again: this also drops what an evaluation that was cut off may have left in the model.
        self.rewind(SYSTEM, 0)
        if self._snapshot and self._snapshot.restore(SYSTEM, tokens):
            held.extend(tokens)
            return False
        self._extends_system = owner
        return True

    def end_system(self, tokens: Sequence[int], seconds: float) -> None:
        self._extends_system = None
        if self._snapshot:
            self._snapshot.keep(SYSTEM, tokens, seconds)

    def rewind(self, sequence: int, length: int) -> None:
        # Also when nothing here is beyond `length`: an evaluation that failed may have left cells in the model.
        del self._held[sequence][length:]
        self._model.rewind(sequence, length)
        if sequence == SYSTEM:  # what others took of it stays theirs, and is shared with nothing new
            self._from_system = dict.fromkeys(self._held, 0)
        else:
            self._from_system[sequence] = min(self._from_system[sequence], length)

    def _make_room(self, own: int, items: int) -> None:
        """Drop finished conversations if the cells might not last for one more of this many items."""
        system = self._held[SYSTEM]
        others = {sequence: held for sequence, held in self._held.items() if sequence not in (own, SYSTEM)}
        taken = sum(len(held) - self._from_system[sequence] for sequence, held in others.items())
        if taken + max(items, len(system)) > self._model.n_ctx:
            for sequence in others.keys() - self._owners.keys():
                self.rewind(sequence, 0)


def content_of(image: ImageEmbedding) -> str:
    """What names a picture here; the file's hash says nothing of embeddings made elsewhere."""
    return sha256(image.embeds.tobytes()).hexdigest()


def _common_prefix(a: Sequence[Item], b: Sequence[Item]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
