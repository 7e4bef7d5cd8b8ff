"""One picture and the questions asked about it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..engines.base import Floats, LanguageModel
from ..engines.errors import QuestionError
from ..engines.scheduler import Job, evaluate_alone
from .kv_cache import KvCache, Prefill
from .manifest import Template
from .prompt import Prompt, Special, Turn, build_prompt
from .sampling import GenerationConfig, Sampler
from .text import cut_answer
from .vision import ImageEmbedding
from .writing import Writing


@dataclass(frozen=True)
class Answer:
    """One finished turn."""

    question: str
    text: str
    """The answer for a reader."""
    original_text: str
    """The answer as the original has it and the next prompt holds it, with special tokens such as `</s>`."""
    token_ids: tuple[int, ...]
    """Every token generated, an end-of-sequence token included."""
    finish_reason: str
    """`stop`: a stop string; `eos`: the end-of-sequence token; `length`: max_new_tokens."""
    prompt: str
    segment_token_ids: tuple[tuple[int, ...], tuple[int, ...]]
    """The prompt's tokens before and after the picture."""
    prefill: Prefill
    dropped_turns: int
    """Earlier turns left out of this prompt because the context was full."""
    first_token_seconds: float
    """From the question to the first token, prefill included."""
    decode_seconds: float
    """Computing all further tokens; not what the reader of the stream did meanwhile."""


class Conversation:
    """Questions about one picture; each answer is part of the next question's prompt."""

    def __init__(
        self, model: LanguageModel, cache: KvCache, template: Template, context: int, image: ImageEmbedding
    ) -> None:
        self.image = image
        self.answers: list[Answer] = []
        self._model = model
        self._cache = cache
        self._template = template
        self._context = context

    def ask(self, question: str, config: GenerationConfig | None = None) -> Answer:
        """The whole answer to a question. Raises as `stream` does."""
        for _ in self.stream(question, config):
            pass
        return self.answers[-1]

    def stream(self, question: str, config: GenerationConfig | None = None) -> Iterator[str]:
        """Give the answer piece by piece; the finished Answer is then the last of `answers`.

        The pieces joined are the answer's text, except where the model writes `Assistant:` in it: of the
        final text only what follows the last one is kept, as the original does. A stream left unfinished
        leaves no answer behind.

        Raises QuestionError if the question does not fit into the context, EngineError, NumericalError.
        """
        yield from run_alone(self._model, self.job(question, config))

    def job(self, question: str, config: GenerationConfig | None = None, sample: int | None = None) -> Job:
        """The making of an answer, for a `Scheduler` that runs several; as `stream` otherwise.

        `sample` numbers answers to the same question, which then do not share their chances.
        """
        config = config or GenerationConfig()
        begun = time.perf_counter()
        prompt, segments, dropped = self._fit(question.strip(), config.max_new_tokens)
        prefill = Prefill()
        writing = Writing(self._model, self._template, config)
        sampler = Sampler(config, turn=len(self.answers), sample=sample)
        first, decode_seconds = 0.0, 0.0
        try:
            logits = yield from self._cache.prefill(
                segments[0], self.image, segments[1], prefill, config.max_new_tokens
            )
            while True:
                token = sampler.choose(logits)
                first = first or time.perf_counter() - begun
                if piece := writing.add(token):
                    yield piece
                if writing.finish_reason:
                    break
                step = time.perf_counter()
                logits = yield from self._cache.append(token, prefill)
                decode_seconds += time.perf_counter() - step
            if piece := writing.finish():
                yield piece
        finally:
            self._cache.release(prefill)
        self.answers.append(
            Answer(
                question=question.strip(),
                text=cut_answer(writing.text, self._template),
                original_text=cut_answer(writing.original_text(), self._template),
                token_ids=tuple(writing.tokens),
                finish_reason=writing.finish_reason,
                prompt=prompt.text,
                segment_token_ids=segments,
                prefill=prefill,
                dropped_turns=dropped,
                first_token_seconds=first,
                decode_seconds=decode_seconds,
            )
        )

    def prompt_length(self, question: str) -> int:
        """Items of the next prompt: tokens and the picture's embeddings. Raises QuestionError."""
        _, segments, _ = self._fit(question.strip(), 1)
        return len(segments[0]) + len(self.image.embeds) + len(segments[1])

    def first_logits(self, question: str) -> Floats:
        """Logits (n_vocab,) from which the next answer's first token is chosen. Raises as `stream` does."""
        _, segments, _ = self._fit(question.strip(), 1)
        prefill = Prefill()
        evaluation = self._cache.prefill(segments[0], self.image, segments[1], prefill)
        logits: Floats | None = None
        try:
            while True:
                work = evaluation.send(logits)
                assert not isinstance(work, str)
                logits = evaluate_alone(self._model, work)
        except StopIteration as end:
            result: Floats = end.value
            return result
        finally:
            self._cache.release(prefill)

    def _tokenize_after(self, parts: tuple[str | Special, ...]) -> list[int]:
        """Tokens of the text after the image. The original's tokenizer starts afresh after a special token."""
        tokens: list[int] = []
        for part in parts:
            tokens += [part.token] if isinstance(part, Special) else self._model.tokenize(part, bos=False)
        return tokens

    def _fit(self, question: str, new_tokens: int) -> tuple[Prompt, tuple[tuple[int, ...], tuple[int, ...]], int]:
        """The prompt with as many turns, the latest, as leave room for the answer."""
        if not question:
            raise QuestionError("the question is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in question):
            raise QuestionError("the question is not valid text: it holds bytes that are no UTF-8")
        turns = [Turn(answer.question, answer.original_text) for answer in self.answers]
        for dropped in range(len(turns) + 1):
            prompt = build_prompt(self._template, turns[dropped:], question)
            segments = (
                tuple(self._model.tokenize(prompt.before, bos=True)),
                tuple(self._tokenize_after(prompt.after)),
            )
            needed = len(segments[0]) + len(self.image.embeds) + len(segments[1]) + new_tokens
            if needed <= self._context:
                return prompt, segments, dropped
        raise QuestionError(
            f"the question needs {needed - new_tokens} tokens of the context and the answer up to {new_tokens}, "
            f"but the context holds {self._context}: ask shorter, lower max_new_tokens or open with more context"
        )


def run_alone(model: LanguageModel, job: Job) -> Iterator[str]:
    """Run one job to its end and give the text it yields. Raises what the job and the model raise."""
    sent: Floats | None = None
    try:
        while True:
            event = job.send(sent)
            sent = None
            if isinstance(event, str):
                yield event
            else:
                sent = evaluate_alone(model, event)
    except StopIteration:
        return
    finally:
        job.close()
