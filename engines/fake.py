"""A language model that says what it is told to, for trying the runtime's own logic without weights."""

from collections.abc import Sequence

import numpy as np

from .base import EngineInfo, Floats
from .errors import EngineError

FIRST_PIECE = 300  # token ids: 0 to 2 special, 3 to 258 bytes, from here on the scripted pieces


class FakeLanguageModel:
    """Answers the first prompt with the first script, the next with the next, and so on.

    Text is tokenised a byte a token. It keeps its cache as strictly as llama.cpp: evaluating anywhere but at
    the end of a sequence, or beyond the context, is an error.
    """

    def __init__(self, answers: Sequence[Sequence[bytes]], *, n_embd: int = 4, n_ctx: int = 4096) -> None:
        self.n_embd = n_embd
        self.n_ctx = n_ctx
        self.eos = 2
        self.info = EngineInfo("fake", "1", "cpu", "none", 1)
        self.cells: dict[int, list[object]] = {}
        self.evaluated = 0
        """Tokens and embeddings computed so far."""
        self._pieces = sorted({piece for answer in answers for piece in answer})
        self._answers = answers
        self._answer = -1
        self._said = 0
        self._prompted = False
        self.n_vocab = FIRST_PIECE + len(self._pieces)

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return [1] * bos + [3 + byte for byte in text.encode()]

    def piece(self, token: int) -> bytes:
        return self._pieces[token - FIRST_PIECE] if token >= FIRST_PIECE else bytes([token - 3])

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        self._put(sequence, position, list(tokens))
        if len(tokens) == 1 and tokens[0] >= FIRST_PIECE:
            self._said += 1
        else:
            self._prompted = True

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        if embeddings.shape[1:] != (self.n_embd,):
            raise EngineError(f"embeddings have shape {embeddings.shape}, expected (n, {self.n_embd})")
        self._put(sequence, position, [row.tobytes() for row in embeddings])

    def _put(self, sequence: int, position: int, items: Sequence[object]) -> None:
        cells = self.cells.setdefault(sequence, [])
        if position != len(cells):
            raise EngineError(f"sequence {sequence} holds {len(cells)} cells, cannot go on at {position}")
        if position + len(items) > self.n_ctx:
            raise EngineError("the KV cache is full")
        cells.extend(items)
        self.evaluated += len(items)

    def logits(self) -> Floats:
        if self._prompted:
            self._prompted, self._said = False, 0
            self._answer += 1
        answer = self._answers[self._answer % len(self._answers)]
        token = self.eos
        if self._said < len(answer):
            token = FIRST_PIECE + self._pieces.index(answer[self._said])
        logits = np.zeros(self.n_vocab, np.float32)
        logits[token] = 1
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        self.cells[target] = self.cells[source][:length]

    def rewind(self, sequence: int, length: int) -> None:
        del self.cells.setdefault(sequence, [])[length:]

    def close(self) -> None:
        self.cells.clear()
