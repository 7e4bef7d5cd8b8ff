"""One picture and the questions asked about it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..engines.base import Floats, LanguageModel
from ..engines.errors import QuestionError
from .kv_cache import KvCache, Prefill
from .manifest import Template
from .prompt import SPECIAL_TOKENS, Prompt, Special, Turn, build_prompt
from .sampling import GenerationConfig, Sampler
from .text import StopFilter, cut_answer, utf8_decoder
from .vision import ImageEmbedding

# The original drops these from the start of an answer, one each, in this order.
UNK, BOS = SPECIAL_TOKENS["<unk>"], SPECIAL_TOKENS["<s>"]


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
        config = config or GenerationConfig()
        begun = time.perf_counter()
        prompt, segments, dropped = self._fit(question.strip(), config.max_new_tokens)
        prefill = self._cache.prefill(segments[0], self.image, segments[1])
        sampler, decoder = Sampler(config, turn=len(self.answers)), utf8_decoder()
        visible = StopFilter(self._template.stop)
        tokens: list[int] = []
        text, reason, first, decode_seconds = "", "length", 0.0, 0.0
        logits = self._model.logits()
        while True:
            token = sampler.choose(logits)
            tokens.append(token)
            first = first or time.perf_counter() - begun
            if token == self._model.eos:
                reason = "eos"
                break
            new = decoder.decode(self._bytes(tokens))
            text += new
            if piece := visible.push(new):
                yield piece
            if not config.ignore_stop and visible.stopped:
                reason = "stop"
                break
            if len(tokens) == config.max_new_tokens:
                break
            step = time.perf_counter()
            logits = self._cache.append(token, prefill)
            decode_seconds += time.perf_counter() - step
        rest = decoder.decode(b"", final=True)
        text += rest
        if piece := visible.push(rest) + visible.finish():
            yield piece
        self.answers.append(
            Answer(
                question=question.strip(),
                text=cut_answer(text, self._template),
                original_text=cut_answer(self._original_text(tokens), self._template),
                token_ids=tuple(tokens),
                finish_reason=reason,
                prompt=prompt.text,
                segment_token_ids=segments,
                prefill=prefill,
                dropped_turns=dropped,
                first_token_seconds=first,
                decode_seconds=decode_seconds,
            )
        )

    def first_logits(self, question: str) -> Floats:
        """Logits (n_vocab,) from which the next answer's first token is chosen."""
        _, segments, _ = self._fit(question.strip(), 1)
        self._cache.prefill(segments[0], self.image, segments[1])
        logits = self._model.logits()
        self._cache.forget_conversation()
        return logits

    def _bytes(self, tokens: list[int]) -> bytes:
        """What the token generated last adds to the text."""
        if tuple(tokens) in ((UNK,), (BOS,), (UNK, BOS)):
            return b""
        return self._model.piece(tokens[-1])

    def _original_text(self, tokens: list[int]) -> str:
        """Generated tokens as the original's tokenizer decodes them (transformers' slow LlamaTokenizer).

        It decodes the runs between special tokens one by one, each without its dummy prefix, and puts a space
        before a run that a special token ends.
        """
        names = {token: name for name, token in SPECIAL_TOKENS.items()}
        for dropped in (UNK, BOS):
            if tokens[:1] == [dropped]:
                tokens = tokens[1:]
        text, run, after_special = "", b"", False
        for token in tokens:
            if token in names:
                text += "" if after_special else " "
                text += self._decode_run(run) + names[token]
                run, after_special = b"", True
            else:
                run += self._model.piece(token)
                after_special = False
        return text + self._decode_run(run)

    @staticmethod
    def _decode_run(run: bytes) -> str:
        return utf8_decoder().decode(run, final=True).removeprefix(" ")

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
