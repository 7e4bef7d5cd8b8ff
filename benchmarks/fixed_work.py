"""The same work for every trial and every engine: pictures, answers whose tokens are fed instead of sampled."""

import io
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..engines.base import Floats, LanguageModel, Run

Result = TypeVar("Result")

PHOTO_SIZE = (1600, 1200)  # pixels, as a phone's picture that was sent by message
LIKELY = 1e4  # a logit that leaves no chance to any other token at any temperature
TEXT = (
    "The picture shows a raised patch with a clear border on the forearm. Its surface is dry and covered with fine "
    "white scales, and the skin around it is slightly red. There are several smaller spots of the same colour near "
    "it, some of which have joined. Nothing in the picture looks like an open wound, and there are no blisters. "
)


def photo(number: int) -> bytes:
    """A JPEG of PHOTO_SIZE; another number gives another picture that is as much work to decode.

    Numbers differ in their picture up to 200.
    """
    target = io.BytesIO()
    Image.fromarray(np.roll(_waves(), 8 * number, axis=1)).save(target, "JPEG", quality=90)
    return target.getvalue()


@cache
def _waves() -> npt.NDArray[np.uint8]:
    """Soft colours with a grain, (height, width, 3)."""
    width, height = PHOTO_SIZE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pixels = np.random.default_rng(0).integers(0, 24, (height, width, 3), np.uint8)
    for channel in range(3):
        wave = np.sin(x / (40 + 9 * channel)) * np.cos(y / (50 + 7 * channel))
        pixels[..., channel] += (60 * wave + 150 - 30 * channel).astype(np.uint8)
    return pixels


def fixed_answers(model: LanguageModel, count: int, tokens: int) -> list[tuple[int, ...]]:
    """`count` answers of `tokens` token ids each: TEXT, over and over, from another sentence each.

    They begin as a model's own do, so that the next prompt's text is cut into the same tokens.
    """
    sentences = [f"{sentence}. " for sentence in TEXT.strip(". ").split(". ")]
    answers = []
    for i in range(count):
        first = i % len(sentences)
        text = "".join([*sentences[first:], *sentences[:first]])
        whole = model.tokenize(text, bos=False)
        while len(whole) < tokens:
            whole += whole
        answers.append(tuple(whole[:tokens]))
    return answers


class FixedTokens:
    """A language model that computes all that it is asked to, and then says the answers it was given.

    Its logits are the real ones' replaced by the next token of the answer. A sequence that is rewound or forked
    after an answer goes on with the next answer. `seconds` adds up what the real model took.
    """

    def __init__(self, model: LanguageModel, answers: Sequence[Sequence[int]]) -> None:
        self.info, self.eos = model.info, model.eos
        self.n_embd, self.n_ctx, self.n_vocab, self.n_batch = model.n_embd, model.n_ctx, model.n_vocab, model.n_batch
        self.seconds = 0.0
        self._model = model
        self._answers = answers
        self.restart()

    def restart(self) -> None:
        """Begin with the first answer again, and forget the steps measured so far."""
        self._number: dict[int, int] = {}
        self._said: dict[int, int] = {}
        self._end: dict[int, int] = {}
        self._latest = 0
        self._marks: list[tuple[int, float]] = []

    @property
    def steps(self) -> list[float]:
        """Seconds from each token to the next one of the same answer, of answers made one at a time."""
        pairs = pairwise(self._marks)
        return [later - earlier for (before, earlier), (said, later) in pairs if said == before + 1]

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return self._timed(lambda: self._model.tokenize(text, bos=bos))

    def piece(self, token: int) -> bytes:
        return self._timed(lambda: self._model.piece(token))

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        self._timed(lambda: self._model.evaluate_tokens(sequence, position, tokens))
        self._hear(sequence, position, tokens)

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        self._timed(lambda: self._model.evaluate_embeddings(sequence, position, embeddings))
        self._latest = sequence

    def evaluate_together(self, runs: Sequence[Run]) -> Floats:
        logits = self._timed(lambda: self._model.evaluate_together(runs))
        for run, row in zip(runs, logits, strict=True):
            self._hear(run.sequence, run.position, run.tokens)
            row[:] = self._next(run.sequence)
        return logits

    def logits(self) -> Floats:
        self._timed(self._model.logits)
        logits = self._next(self._latest)
        self._marks.append((self._said.get(self._latest, 0), time.perf_counter()))
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        self._timed(lambda: self._model.fork(source, target, length))
        self._turn(target)

    def rewind(self, sequence: int, length: int) -> None:
        self._timed(lambda: self._model.rewind(sequence, length))
        self._turn(sequence)

    def close(self) -> None:
        self._model.close()

    def _timed(self, call: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        result = call()
        self.seconds += time.perf_counter() - begun
        return result

    def _answer(self, sequence: int) -> Sequence[int]:
        return self._answers[self._number.get(sequence, 0) % len(self._answers)]

    def _turn(self, sequence: int) -> None:
        """A prompt follows: the next answer's, if this sequence has said one."""
        if self._said.pop(sequence, 0):
            self._number[sequence] = self._number.get(sequence, 0) + 1
        self._end.pop(sequence, None)

    def _hear(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        said, answer = self._said.get(sequence, 0), self._answer(sequence)
        if position == self._end.get(sequence) and tuple(tokens) == (answer[said % len(answer)],):
            self._said[sequence] = said + 1
        self._latest = sequence
        self._end[sequence] = position + len(tokens)

    def _next(self, sequence: int) -> Floats:
        answer = self._answer(sequence)
        logits = np.zeros(self.n_vocab, np.float32)
        logits[answer[self._said.get(sequence, 0) % len(answer)]] = LIKELY
        return logits
