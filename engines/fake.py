"""A language model that says what it is told to, for trying the runtime's own logic without weights."""

from collections.abc import Sequence

import numpy as np

from .base import EngineInfo, Floats, Run
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
        self.n_batch = 64
        self.eos = 2
        self.info = EngineInfo("fake", "1", "cpu", "none", 1)
        self.cells: dict[int, list[object]] = {}
        self.evaluated = 0
        """Tokens and embeddings computed so far."""
        self.calls: list[tuple[int, ...]] = []
        """The sequences that each evaluation served."""
        self._pieces = sorted({piece for answer in answers for piece in answer})
        self._answers = answers
        self._begun = 0
        self._saying: dict[int, int] = {}  # by sequence, the script it says
        self._said: dict[int, int] = {}
        self._latest = 0
        self.n_vocab = FIRST_PIECE + len(self._pieces)

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return [1] * bos + [3 + byte for byte in text.encode()]

    def piece(self, token: int) -> bytes:
        return self._pieces[token - FIRST_PIECE] if token >= FIRST_PIECE else bytes([token - 3])

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        self.calls.append((sequence,))
        self._put(sequence, position, list(tokens))
        self._hear(sequence, tokens)

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        if embeddings.shape[1:] != (self.n_embd,):
            raise EngineError(f"embeddings have shape {embeddings.shape}, expected (n, {self.n_embd})")
        self.calls.append((sequence,))
        self._put(sequence, position, [row.tobytes() for row in embeddings])
        self._latest = sequence

    def evaluate_together(self, runs: Sequence[Run]) -> Floats:
        if sum(len(run.tokens) for run in runs) > self.n_batch:
            raise EngineError(f"more than {self.n_batch} tokens together")
        self.calls.append(tuple(run.sequence for run in runs))
        rows = []
        for run in runs:
            self._put(run.sequence, run.position, list(run.tokens))
            self._hear(run.sequence, run.tokens)
            rows.append(self.logits())
        return np.stack(rows)

    def _hear(self, sequence: int, tokens: Sequence[int]) -> None:
        self._latest = sequence
        if len(tokens) == 1 and tokens[0] >= FIRST_PIECE:
            self._said[sequence] += 1
        elif self._said.get(sequence):  # a prompt may come in pieces, and still gets one answer
            self._saying.pop(sequence, None)

    def _put(self, sequence: int, position: int, items: Sequence[object]) -> None:
        cells = self.cells.setdefault(sequence, [])
        if position != len(cells):
            raise EngineError(f"sequence {sequence} holds {len(cells)} cells, cannot go on at {position}")
        if position + len(items) > self.n_ctx:
            raise EngineError("the KV cache is full")
        cells.extend(items)
        self.evaluated += len(items)

    def logits(self) -> Floats:
        sequence = self._latest
        logits = np.zeros(self.n_vocab, np.float32)
        if sequence not in self._saying:
            self._saying[sequence], self._said[sequence] = self._begun, 0
            self._begun += 1
        answer, said = self._answers[self._saying[sequence] % len(self._answers)], self._said[sequence]
        token = FIRST_PIECE + self._pieces.index(answer[said]) if said < len(answer) else self.eos
        logits[token] = 1
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        self.cells[target] = self.cells[source][:length]

    def rewind(self, sequence: int, length: int) -> None:
        del self.cells.setdefault(sequence, [])[length:]

    def close(self) -> None:
        self.cells.clear()
