"""How time and memory scale with turns, prompt length, parallel conversations and the batch size. Runs in a worker."""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from ...engines.base import LanguageModel, TokenSegment
from ...engines.errors import EngineError
from ...runtime.bundle import Bundle
from ...runtime.huge_pages import collapse
from ...runtime.loading import Engines, load, load_language_model
from ...runtime.skingpt import SkinGPT
from ...runtime.vision import ImageEmbedding
from .fixed_inputs import TEXT, FixedTokens, exactly, fixed_answers, photo, put_prompt
from .system import PeakSampler
from .workers import open_as_asked, without_huge_pages

WARM_UP_STEPS = 2


class Scaling:
    """A bundle opened for several conversations."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        self._bundle, self._requested, self._setup = open_as_asked(bundle, options, threads)
        engines = load(self._bundle, self._setup)
        self._vision, self._model = engines.vision, engines.language_model
        if self._setup.huge_pages:
            collapse()
        self._numbers = count()
        self._question = self._bundle.manifest.questions[0].question

    def first_token_by_turn(self, turns: int, answer_tokens: int) -> dict[int, float]:
        """Seconds to the first token of each turn of one conversation."""
        skingpt = self._with_empty_cache(turns, answer_tokens)
        conversation = skingpt.conversation(self._embed(skingpt))
        questions = self._bundle.manifest.questions
        asked = (questions[turn % len(questions)].question for turn in range(turns))
        answers = [conversation.ask(question, exactly(answer_tokens)) for question in asked]
        return {turn: answer.first_token_seconds for turn, answer in enumerate(answers, 1)}

    def first_token_by_prompt_length(self, questions: list[int]) -> dict[int, float]:
        """Seconds to the first token, by the length of the prompt that is evaluated in tokens and embeddings.

        `questions` are approximate lengths of questions in tokens. The picture is encoded before, and the system
        prompt is in the KV cache.
        """
        skingpt = self._with_empty_cache(1, 1)
        skingpt.ask(self._embed(skingpt), "Why?", exactly(1))
        image, found = self._embed(skingpt), {}
        for number, length in enumerate(questions):
            words = self._model.tokenize(TEXT, bos=False)
            question = (TEXT * (1 + length // len(words)))[: round(length * len(TEXT) / len(words))]
            # Another SHA-256, so that the KV cache is not known to hold any of its embeddings.
            answer = skingpt.ask(replace(image, sha256=f"{number}"), question, exactly(1))
            found[answer.prefill.evaluated] = answer.first_token_seconds
        return found

    def tokens_per_second(self, conversations: int, steps: int) -> float:
        """Tokens a second of so many conversations together, each after the first question's prompt."""
        self._empty_cache()
        length = put_random_prompt(self._bundle, self._model)
        for sequence in range(1, conversations):
            self._model.fork(0, sequence, length)
        answers = fixed_answers(self._model, conversations, steps + WARM_UP_STEPS)
        for step in range(steps + WARM_UP_STEPS):
            if step == WARM_UP_STEPS:
                begun = time.perf_counter()
            self._model.evaluate([TokenSegment(s, length + step, (answers[s][step],)) for s in range(conversations)])
        return conversations * steps / (time.perf_counter() - begun)

    def ten_runs(self, runs: int, answer_tokens: int) -> float:
        """Seconds of so many separate runs in a warm process: encode a picture, answer a question about it."""
        skingpt = self._with_empty_cache(1, answer_tokens)
        pictures = [photo(next(self._numbers)) for _ in range(runs)]  # different ones: nothing is cached
        begun = time.perf_counter()
        for data in pictures:
            skingpt.ask(skingpt.embed(data), self._question, exactly(answer_tokens))
        return time.perf_counter() - begun

    def ten_samples(self, samples: int, answer_tokens: int) -> float:
        """Seconds of encoding one picture and answering a question about it so many times together.

        Raises EngineError if there are other answers than these.
        """
        skingpt = self._with_empty_cache(1, answer_tokens, conversations=samples)
        data = photo(next(self._numbers))
        skingpt.ask(self._embed(skingpt), self._question, exactly(1))  # as warm as the separate runs
        begun = time.perf_counter()
        answers = skingpt.samples(skingpt.embed(data), self._question, exactly(answer_tokens, temperature=1), samples)
        seconds = time.perf_counter() - begun
        lengths = {len(answer.token_ids) for answer in answers}
        if len(answers) != samples or lengths != {answer_tokens}:
            raise EngineError(f"{len(answers)} samples of {lengths} tokens, expected {samples} of {answer_tokens}")
        return seconds

    def images_per_second(self, batch: int) -> float:
        """Pictures a second through vision encoder and Q-Former, `batch` of them at once."""
        size = self._bundle.manifest.image.size
        pixels = np.random.default_rng(batch).standard_normal((batch, 3, size, size), np.float32)
        for _ in ("warm-up", "measured"):
            begun = time.perf_counter()
            self._vision.embed_pixels(pixels)
            seconds = time.perf_counter() - begun
        return batch / seconds

    def _with_empty_cache(self, answers: int, answer_tokens: int, conversations: int = 1) -> SkinGPT:
        """The same engines with an empty KV cache, for so many conversations at a time."""
        self._empty_cache()
        model = FixedTokens(self._model, fixed_answers(self._model, answers, answer_tokens))
        fewer = replace(self._setup.language_model, sequences=conversations + 1)
        setup = without_huge_pages(replace(self._setup, language_model=fewer))
        return SkinGPT(self._bundle, Engines(self._vision, model), setup, self._requested)

    def _empty_cache(self) -> None:
        for sequence in range(self._setup.language_model.sequences):
            self._model.rewind(sequence, 0)

    def _embed(self, skingpt: SkinGPT) -> ImageEmbedding:
        return skingpt.embed(photo(next(self._numbers)))


class ConversationMemory:
    """A language model opened for several conversations, each with a context of its own, and the memory it takes."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        with PeakSampler() as sampler:
            opened, _, setup = open_as_asked(bundle, options, threads)
            model = load_language_model(opened, setup.language_model)
            length = put_random_prompt(opened, model)
            for sequence in range(1, setup.conversations):
                model.fork(0, sequence, length)
            token = model.tokenize("a", bos=False)[-1]
            model.evaluate([TokenSegment(sequence, length, (token,)) for sequence in range(setup.conversations)])
            self.opened: dict[str, Any] = sampler.snapshot()
        model.close()


def put_random_prompt(bundle: Bundle, model: LanguageModel) -> int:
    """Evaluate the first question's prompt with random embeddings in sequence 0.

    Returns its length in tokens and embeddings.
    """
    manifest = bundle.manifest
    before = model.tokenize(manifest.template.system, bos=True)
    after = model.tokenize(manifest.questions[0].question, bos=False)
    embeds = np.random.default_rng(0).standard_normal(manifest.shapes.image_embeds, np.float32) * np.float32(0.02)
    put_prompt(model, 0, before, embeds, after)
    return len(before) + len(embeds) + len(after)
