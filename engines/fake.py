"""A language model for tests: it says what the test tells it to and needs no weights."""

import json
from collections.abc import Sequence
from itertools import count

import numpy as np

from .base import EngineInfo, Floats, Segment, TokenSegment
from .errors import EngineError
from .exclusive import Exclusive

BOS, EOS = 1, 2
TOKEN = -1e9  # an embedding that begins with it is a token's
FIRST_SCRIPTED = 300  # token ids: 0 to 2 special, 3 to 258 bytes, from here on the scripted tokens


class FakeLanguageModel:
    """Answers the first prompt with a picture with the first script, the next with the next, and so on.

    Text is tokenised a byte a token; a script is a list of tokens' bytes. It keeps its cache as strictly as llama.cpp:
    evaluating anywhere but at the end of a sequence, or beyond the context or the batch, is an error.
    """

    def __init__(
        self, answers: Sequence[Sequence[bytes]], *, n_embd: int = 4, n_ctx: int = 4096, n_batch: int = 64
    ) -> None:
        self.exclusive = Exclusive(self._free)
        self.n_embd = n_embd
        self.n_ctx = n_ctx
        self.n_batch = n_batch
        self.info = EngineInfo("fake", "1", "cpu", 1)
        self.identity = f"fake of width {n_embd}"
        self.cells: dict[int, list[object]] = {}
        self._numbers: dict[int, list[int]] = {}  # by sequence, the number of each cell; a fork has the same ones
        self._next = count()
        self.evaluated = 0
        """Tokens and embeddings computed so far."""
        self.calls: list[tuple[int, ...]] = []
        """The sequences that each evaluation served."""
        self.threads = (1, 1)
        self._scripted = sorted({token for answer in answers for token in answer})
        self._answers = answers
        self._begun = 0
        self._saying: dict[int, int] = {}  # by sequence, the script it says
        self._said: dict[int, int] = {}
        self.n_vocab = FIRST_SCRIPTED + len(self._scripted)

    def said(self, sequence: int) -> int:
        """Tokens of its script that a sequence has been given back so far."""
        return self._said.get(sequence, 0)

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return [BOS] * bos + [3 + byte for byte in text.encode()]

    def token_bytes(self, token: int) -> bytes:
        return self._scripted[token - FIRST_SCRIPTED] if token >= FIRST_SCRIPTED else bytes([token - 3])

    def embed(self, tokens: Sequence[int]) -> Floats:
        rows = [[TOKEN, token, *[0] * (self.n_embd - 2)] for token in tokens]
        return np.array(rows, np.float32).reshape(-1, self.n_embd)

    def evaluate(self, segments: Sequence[Segment]) -> Floats:
        self._check_room(sum(map(len, segments)))
        self.calls.append(tuple(segment.sequence for segment in segments))
        rows = []
        for segment in segments:
            items = self._items(segment)
            self._put(segment.sequence, segment.position, items)
            if tokens := [item for item in items if isinstance(item, int)]:
                self._hear(segment.sequence, tokens)
            rows.append(self._logits(segment.sequence))
        return np.stack(rows)

    def _items(self, segment: Segment) -> list[object]:
        """Tokens as numbers, whatever they came as; a picture's embeddings as bytes."""
        if isinstance(segment, TokenSegment):
            return list(segment.tokens)
        if segment.embeddings.shape[1:] != (self.n_embd,):
            raise EngineError(f"embeddings have shape {segment.embeddings.shape}, expected (n, {self.n_embd})")
        return [int(row[1]) if row[0] == TOKEN else row.tobytes() for row in segment.embeddings]

    def _check_room(self, items: int) -> None:
        self.exclusive.check()
        if not 1 <= items <= self.n_batch:
            raise EngineError(f"{items} tokens or embeddings in one call, expected 1 to {self.n_batch}")

    def _hear(self, sequence: int, tokens: Sequence[int]) -> None:
        if len(tokens) == 1 and tokens[0] >= FIRST_SCRIPTED:
            self._said[sequence] += 1
        elif self._said.get(sequence):  # a prompt may come in chunks, and still gets one answer
            self._saying.pop(sequence, None)

    def _put(self, sequence: int, position: int, items: Sequence[object]) -> None:
        cells = self.cells.setdefault(sequence, [])
        if position != len(cells):
            raise EngineError(f"sequence {sequence} holds {len(cells)} cells, cannot go on at {position}")
        taken = {number for numbers in self._numbers.values() for number in numbers}
        if len(taken) + len(items) > self.n_ctx:
            raise EngineError("the KV cache is full")
        cells.extend(items)
        self._numbers.setdefault(sequence, []).extend(next(self._next) for _ in items)
        self.evaluated += len(items)

    def _logits(self, sequence: int) -> Floats:
        logits = np.zeros(self.n_vocab, np.float32)
        if not any(isinstance(cell, bytes) for cell in self.cells[sequence]):
            logits[EOS] = 1  # nothing was asked about a picture yet
            return logits
        if sequence not in self._saying:
            self._saying[sequence], self._said[sequence] = self._begun, 0
            self._begun += 1
        answer, said = self._answers[self._saying[sequence] % len(self._answers)], self._said[sequence]
        token = FIRST_SCRIPTED + self._scripted.index(answer[said]) if said < len(answer) else EOS
        logits[token] = 1
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        self.cells[target] = self.cells.get(source, [])[:length]
        self._numbers[target] = self._numbers.get(source, [])[:length]

    def rewind(self, sequence: int, length: int) -> None:
        del self.cells.setdefault(sequence, [])[length:]
        del self._numbers.setdefault(sequence, [])[length:]

    def snapshot(self, sequence: int) -> bytes:
        cells = self.cells.get(sequence, [])
        return json.dumps([cell.hex() if isinstance(cell, bytes) else cell for cell in cells]).encode()

    def restore(self, sequence: int, data: bytes) -> None:
        if self.cells.get(sequence):
            raise EngineError(f"sequence {sequence} is not empty")
        try:
            cells = json.loads(data)
        except ValueError:
            raise EngineError("not a snapshot of this model") from None
        self._put(sequence, 0, [bytes.fromhex(cell) if isinstance(cell, str) else cell for cell in cells])

    def wipe(self) -> None:
        self.cells.clear()
        self._numbers.clear()

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        self.threads = (threads, prefill_threads)

    def close(self) -> None:
        self.exclusive.close()

    def _free(self) -> None:
        self.cells.clear()
        self._numbers.clear()
