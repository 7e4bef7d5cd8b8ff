"""Fixed inputs: every trial and every engine gets the same pictures, prompts and answers.

The tokens of an answer are fixed. The model computes each of them, but its choice is replaced by the fixed one.
"""

import io
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...engines.base import EmbeddingSegment, EngineInfo, Floats, LanguageModel, Segment, TokenSegment
from ...runtime.sampling import GenerationConfig
from ...runtime.scheduler import Job, run_alone

Result = TypeVar("Result")

PHOTO_SIZE = (1600, 1200)  # pixels, as a phone's picture that was sent by message
LIKELY = 1e4  # a logit that leaves no chance to any other token at any temperature
TEXT = (
    "The picture shows a raised patch with a clear border on the forearm. Its surface is dry and covered with fine "
    "white scales, and the skin around it is slightly red. There are several smaller spots of the same colour near "
    "it, some of which have joined. Nothing in the picture looks like an open wound, and there are no blisters. "
)


def photo(number: int) -> bytes:
    """A JPEG of PHOTO_SIZE. Each number from 0 to 199 gives another picture that takes as long to decode."""
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


def exactly(tokens: int, temperature: float = 0.0) -> GenerationConfig:
    """A configuration for answers of exactly this many tokens."""
    return GenerationConfig(max_new_tokens=tokens, temperature=temperature, ignore_stop=True)


def put_prompt(
    model: LanguageModel, sequence: int, before: Sequence[int], embeds: Floats, after: Sequence[int]
) -> Floats:
    """Evaluate tokens, a picture's embeddings (n, n_embd) and tokens from position 0 on.

    Returns logits (n_vocab,) after the last token. Raises EngineError.
    """

    def job() -> Job[Floats]:
        yield TokenSegment(sequence, 0, tuple(before))
        return (yield EmbeddingSegment(sequence, len(before), np.concatenate((embeds, model.embed(after)))))

    return run_alone(model, job())


def fixed_answers(model: LanguageModel, count: int, tokens: int) -> list[tuple[int, ...]]:
    """`count` answers of `tokens` token ids each. Each repeats TEXT and begins with another sentence of it.

    They begin like a model's own answers, so that the next prompt's text is cut into the same tokens.
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
    """A language model that computes everything it is asked to, and whose logits always choose the fixed answer.

    The logits name the next token of the answer. A sequence that is rewound or forked after an answer goes on with
    the next answer. `seconds` is the time spent in the real model.
    """

    def __init__(self, model: LanguageModel, answers: Sequence[Sequence[int]]) -> None:
        self.exclusive, self.identity = model.exclusive, model.identity
        self.n_embd, self.n_ctx, self.n_vocab, self.n_batch = model.n_embd, model.n_ctx, model.n_vocab, model.n_batch
        self.seconds = 0.0
        self._model = model
        self._answers = answers
        self.restart()

    def restart(self) -> None:
        """Begin with the first answer again, and forget the steps measured so far."""
        self._number: dict[int, int] = {}  # by sequence, the number of its answer
        self._said: dict[int, int] = {}  # by sequence, the tokens of this answer that were evaluated
        self._end: dict[int, int] = {}  # by sequence, the position after the last token
        self._marks: list[tuple[int, float]] = []  # tokens said and the time, after each call for a single sequence

    @property
    def info(self) -> EngineInfo:
        return self._model.info

    @property
    def steps(self) -> list[float]:
        """Seconds from each token to the next one of the same answer, of answers generated one at a time."""
        pairs = pairwise(self._marks)
        return [later - earlier for (before, earlier), (said, later) in pairs if said == before + 1]

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return self._timed(lambda: self._model.tokenize(text, bos=bos))

    def token_bytes(self, token: int) -> bytes:
        return self._timed(lambda: self._model.token_bytes(token))

    def embed(self, tokens: Sequence[int]) -> Floats:
        return self._timed(lambda: self._model.embed(tokens))

    def evaluate(self, segments: Sequence[Segment]) -> Floats:
        logits = self._timed(lambda: self._model.evaluate(segments))
        fixed = np.zeros_like(logits)
        for row, segment in zip(fixed, segments, strict=True):
            self._follow(segment)
            row[self._next(segment.sequence)] = LIKELY
        if len(segments) == 1:
            self._marks.append((self._said.get(segments[0].sequence, 0), time.perf_counter()))
        return fixed

    def fork(self, source: int, target: int, length: int) -> None:
        self._timed(lambda: self._model.fork(source, target, length))
        self._new_prompt(target)

    def rewind(self, sequence: int, length: int) -> None:
        self._timed(lambda: self._model.rewind(sequence, length))
        self._new_prompt(sequence)

    def snapshot(self, sequence: int) -> bytes:
        return self._timed(lambda: self._model.snapshot(sequence))

    def restore(self, sequence: int, data: bytes) -> None:
        self._timed(lambda: self._model.restore(sequence, data))

    def wipe(self) -> None:
        self._model.wipe()

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        self._model.set_threads(threads, prefill_threads)

    def close(self) -> None:
        self._model.close()

    def _timed(self, call: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        result = call()
        self.seconds += time.perf_counter() - begun
        return result

    def _new_prompt(self, sequence: int) -> None:
        """Go on with the next answer if this sequence has begun one."""
        if self._said.pop(sequence, 0):
            self._number[sequence] = self._number.get(sequence, 0) + 1
        self._end.pop(sequence, None)

    def _follow(self, segment: Segment) -> None:
        """Count a token as said if it is the answer's next one at the end of its sequence."""
        sequence = segment.sequence
        tokens = segment.tokens if isinstance(segment, TokenSegment) else ()
        if segment.position == self._end.get(sequence) and tokens == (self._next(sequence),):
            self._said[sequence] = self._said.get(sequence, 0) + 1
        self._end[sequence] = segment.position + len(segment)

    def _next(self, sequence: int) -> int:
        answer = self._answers[self._number.get(sequence, 0) % len(self._answers)]
        return answer[self._said.get(sequence, 0) % len(answer)]
