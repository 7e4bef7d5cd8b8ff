"""One picture and the questions asked about it."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Event

from ..engines.base import Floats, LanguageModel
from ..engines.errors import Cancelled, QuestionError
from .checked_values import instance
from .detokenizer import Detokenizer, original_text
from .kv_cache import KvCache
from .kv_lease import Lease, Prefill
from .manifest import SpecialTokens, Template
from .prompt import Prompt, Special, build_prompt
from .sampling import GenerationConfig, Sampler
from .scheduler import Job, Scheduler, run_alone
from .stop_strings import cut_answer
from .vision import ImageEmbedding


@dataclass(frozen=True)
class Turn:
    """An earlier question and its answer, from which a conversation is rebuilt."""

    question: str
    answer: str | tuple[int, ...]
    """`Answer.token_ids`, which gives the same prompt as the conversation had; or the answer's text."""


@dataclass(frozen=True)
class Answer:
    """One finished turn."""

    question: str
    text: str
    """The answer for a reader: the pieces of its stream, joined."""
    original_text: str
    """The answer as the original has it and the next prompt holds it, with special tokens such as `</s>`. If the model
    writes `Assistant:` in it, that is only what follows the last one, while a reader has seen the rest, too."""
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
    cut: bool = False
    """It was to end at stop strings of the question, which `token_ids` alone do not tell."""

    @property
    def turn(self) -> Turn:
        """This answer as an earlier turn of a conversation that is rebuilt."""
        return Turn(self.question, self.original_text if self.cut else self.token_ids)


class Conversation:
    """Questions about one picture; each answer is part of the next question's prompt.

    It holds no state but the picture and the turns, so it can be rebuilt from them at any time. What the KV cache
    holds of its prompt is found by content.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: KvCache,
        template: Template,
        special: SpecialTokens,
        context: int,
        image: ImageEmbedding,
        turns: Sequence[Turn] = (),
    ) -> None:
        """`context`: tokens of the longest prompt with its answer; `turns`: what was asked and answered before.

        Raises QuestionError for a turn that cannot be one.
        """
        self.image = image
        self.answers: list[Answer] = []
        """The answers given here; those of `turns` are not among them."""
        self._model = model
        self._cache = cache
        self._template = template
        self._special = special
        self._context = context
        if not isinstance(turns, Sequence) or isinstance(turns, str):
            raise QuestionError(f"turns is {turns!r:.60}, expected a sequence of Turn")
        self._earlier = [self._earlier_turn(number, turn) for number, turn in enumerate(turns, 1)]

    def ask(self, question: str, config: GenerationConfig | None = None, *, cancel: Event | None = None) -> Answer:
        """The whole answer to a question. Raises as `stream` does."""
        with self._model.exclusive:  # between two tokens, too: another thread's answer would take this one's place
            for _ in self.stream(question, config, cancel=cancel):
                pass
            return self.answers[-1]

    def stream(
        self, question: str, config: GenerationConfig | None = None, *, cancel: Event | None = None
    ) -> Iterator[str]:
        """Give the answer in pieces of text; the finished Answer is then the last of `answers`.

        The pieces joined are the answer's text. A stream left unfinished leaves no answer behind.

        `cancel` may be set by another thread. It takes effect after the chunk of the prompt or the token that is being
        computed.

        Raises QuestionError if the question does not fit into the context, EngineError, also if another thread is
        using the model, NumericalError, Cancelled.
        """
        if cancel is not None:
            instance("cancel", cancel, Event)
        pieces: list[str] = []
        scheduler = Scheduler(self._model)
        ticket = scheduler.add(self.job(question, config, on_text=pieces.append))
        delivered = False
        try:
            while scheduler.step():
                yield from pieces
                pieces.clear()
                if cancel and cancel.is_set() and not ticket.finished:
                    raise Cancelled("the answer was cancelled")
            delivered = True
        finally:
            ticket.job.close()
            if ticket.result and not delivered:
                self.answers.remove(ticket.result)
        if ticket.error:
            raise ticket.error

    def job(
        self,
        question: str,
        config: GenerationConfig | None = None,
        *,
        on_text: Callable[[str], None] = lambda _: None,
        sample: int | None = None,
    ) -> Job[Answer]:
        """The generation of an answer, for a `Scheduler` that runs several; errors as of `stream`.

        `on_text` is called with each piece of text. `sample` numbers answers to the same question, so that each has
        random numbers of its own.
        """
        config = GenerationConfig() if config is None else config
        instance("config", config, GenerationConfig)
        begun = time.perf_counter()
        question = _checked_question(question, "the question")
        prompt, segments, dropped = self._fit(question, config.max_new_tokens)
        detokenizer = Detokenizer(self._model, self._template, self._special, config)
        sampler = Sampler(config, turn=len(self._earlier) + len(self.answers), sample=sample)
        first, decode_seconds = 0.0, 0.0
        lease = Lease(self._model, self._cache)
        try:
            logits, prefill = yield from lease.prefill(segments[0], self.image, segments[1], config.max_new_tokens)
            while True:
                token = sampler.choose(logits)
                first = first or time.perf_counter() - begun
                if text := detokenizer.add(token):
                    on_text(text)
                if detokenizer.finish_reason:
                    break
                logits, seconds = yield from lease.append(token)
                decode_seconds += seconds
            if text := detokenizer.finish():
                on_text(text)
        finally:
            lease.release()
        stop = config.stop
        answer = Answer(
            question=question,
            text=detokenizer.text,
            original_text=self._answer_text(tuple(detokenizer.tokens), stop),
            token_ids=tuple(detokenizer.tokens),
            finish_reason=detokenizer.finish_reason,
            prompt=prompt.text,
            segment_token_ids=segments,
            prefill=prefill,
            dropped_turns=dropped,
            first_token_seconds=first,
            decode_seconds=decode_seconds,
            cut=bool(stop),
        )
        self.answers.append(answer)
        return answer

    def prepare(self) -> None:
        """Evaluate what every question's prompt begins with, the picture last, so that the first answer comes sooner.

        For the time in which a question is being thought of. An answer's seconds do not count it. Where the cache holds
        the picture already, nothing is done. Raises EngineError, also if another thread is using the model.
        """
        run_alone(self._model, self.preparation())

    def preparation(self) -> Job[bool]:
        """`prepare` for a `Scheduler`; its result is true."""
        before = build_prompt(self._template, self._special, (), "").before
        lease = Lease(self._model, self._cache)
        try:
            yield from lease.hold_picture(self._model.tokenize(before, bos=True), self.image)
            return True
        finally:
            lease.release()

    def prompt_length(self, question: str) -> int:
        """Items of the next prompt: tokens and the picture's embeddings. Raises QuestionError."""
        _, segments, _ = self._fit(_checked_question(question, "the question"), 1)
        return len(segments[0]) + len(self.image.embeds) + len(segments[1])

    def first_logits(self, question: str) -> Floats:
        """Logits (n_vocab,) from which the next answer's first token is chosen. Raises as `stream` does."""
        _, segments, _ = self._fit(_checked_question(question, "the question"), 1)
        lease = Lease(self._model, self._cache)
        try:
            logits, _ = run_alone(self._model, lease.prefill(segments[0], self.image, segments[1]))
            return logits
        finally:
            lease.release()

    def _earlier_turn(self, number: int, turn: Turn) -> tuple[str, str]:
        """Question and answer of a turn as the prompt holds them."""
        if not isinstance(turn, Turn):
            raise QuestionError(f"turn {number} is {turn!r:.60}, expected a Turn")
        question = _checked_question(turn.question, f"turn {number}: the question")
        if not isinstance(turn.answer, str):
            self._check_tokens(turn.answer, number)
        answer = self._answer_text(turn.answer)
        _check_encoding(answer, f"turn {number}: the answer")
        return question, answer

    def _check_tokens(self, tokens: tuple[int, ...], number: int) -> None:
        if not isinstance(tokens, tuple | list) or not all(type(token) is int for token in tokens):
            raise QuestionError(f"turn {number}: the answer is {tokens!r:.60}, expected text or a tuple of tokens")
        for token in tokens:
            if not 0 <= token < self._model.n_vocab:
                raise QuestionError(f"turn {number}: token {token}, but the vocabulary has {self._model.n_vocab}")

    def _answer_text(self, answer: str | tuple[int, ...], stop: Sequence[str] = ()) -> str:
        """An answer as the next prompt holds it."""
        text = answer if isinstance(answer, str) else original_text(answer, self._model, self._special)
        return cut_answer(text, self._template, stop)

    def _tokenize_after(self, parts: tuple[str | Special, ...]) -> list[int]:
        """Tokens of the text after the image. The original's tokenizer starts afresh after a special token."""
        tokens: list[int] = []
        for part in parts:
            tokens += [part.token] if isinstance(part, Special) else self._model.tokenize(part, bos=False)
        return tokens

    def _fit(self, question: str, new_tokens: int) -> tuple[Prompt, tuple[tuple[int, ...], tuple[int, ...]], int]:
        """The prompt with as many turns, the latest, as leave room for the answer."""
        turns = [*self._earlier, *((answer.question, answer.original_text) for answer in self.answers)]

        @cache
        def attempt(dropped: int) -> tuple[Prompt, tuple[tuple[int, ...], tuple[int, ...]], int]:
            prompt = build_prompt(self._template, self._special, turns[dropped:], question)
            before = tuple(self._model.tokenize(prompt.before, bos=True))
            after = tuple(self._tokenize_after(prompt.after))
            return prompt, (before, after), len(before) + len(self.image.embeds) + len(after) + new_tokens

        def fits(dropped: int) -> bool:
            return attempt(dropped)[2] <= self._context

        # Halved: tokenizing a long conversation once for each of its turns would take seconds.
        dropped = 0 if fits(0) else bisect_left(range(1, len(turns) + 1), True, key=fits) + 1
        prompt, segments, needed = attempt(min(dropped, len(turns)))
        if needed <= self._context:
            return prompt, segments, dropped
        raise QuestionError(
            f"the question needs {needed - new_tokens} tokens of the context and the answer up to {new_tokens}, "
            f"but the context holds {self._context}: ask shorter, lower max_new_tokens or open with more context"
        )


def _checked_question(text: str, what: str) -> str:
    """Without the space around it. Raises QuestionError."""
    if not isinstance(text, str):
        raise QuestionError(f"{what} is {text!r:.60}, expected text")
    if not (text := text.strip()):
        raise QuestionError(f"{what} is empty")
    _check_encoding(text, what)
    return text


def _check_encoding(text: str, what: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise QuestionError(f"{what} is not valid text: it holds bytes that are no UTF-8")
