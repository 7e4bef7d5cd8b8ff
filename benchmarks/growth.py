"""How time and memory grow with turns, prompt length, parallel conversations and pictures in a batch.

Runs in a worker.
"""

import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.base import LanguageModel, Run
from ..engines.errors import EngineError
from ..engines.huge_pages import collapse
from ..engines.onnx_runtime import OrtGraph
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.options import Options
from ..runtime.skingpt import SkinGPT, open_language_model, open_vision
from ..runtime.vision import ImageEmbedding
from .fixed_work import TEXT, FixedTokens, fixed_answers, photo
from .memory import PeakSampler
from .stages import exactly

WARM_UP_STEPS = 2


class Growth:
    """A bundle opened for several conversations, and what grows in it."""

    def __init__(
        self, bundle: str, threads: int, conversations: int, device: str = "cpu", vision_device: str | None = None
    ) -> None:
        self._bundle = open_bundle(Path(bundle))
        self._threads = threads
        # No more cells than one conversation has: what is asked here shares its prompt.
        cells = self._bundle.manifest.llm.context
        options = Options(
            device, vision_device, threads=threads, conversations=conversations, cells=cells, image_cache=0
        )
        self._vision = open_vision(self._bundle, options)
        self._model = open_language_model(self._bundle, options)
        collapse()
        self._conversations = conversations
        self._numbers = count()

    def first_token_by_turn(self, turns: int, answer_tokens: int) -> dict[int, float]:
        """Seconds to the first token of each turn of one conversation."""
        skingpt = self._fresh(turns, answer_tokens)
        conversation = skingpt.conversation(self._embed(skingpt))
        questions = self._bundle.manifest.questions
        asked = (questions[turn % len(questions)].question for turn in range(turns))
        answers = [conversation.ask(question, exactly(answer_tokens)) for question in asked]
        return {turn: answer.first_token_seconds for turn, answer in enumerate(answers, 1)}

    def first_token_by_prompt_length(self, questions: list[int]) -> dict[int, float]:
        """Seconds to the first token by items evaluated, for questions of about these lengths in tokens.

        The picture is encoded before and the system prompt is in the cache.
        """
        skingpt = self._fresh(1, 1)
        skingpt.ask(self._embed(skingpt), "Why?", exactly(1))
        image, found = self._embed(skingpt), {}
        for number, length in enumerate(questions):
            words = self._model.tokenize(TEXT, bos=False)
            question = (TEXT * (1 + length // len(words)))[: round(length * len(TEXT) / len(words))]
            # Another name for the picture: none of its rows are in the cache.
            answer = skingpt.ask(replace(image, sha256=f"{number}"), question, exactly(1))
            found[answer.prefill.evaluated] = answer.first_token_seconds
        return found

    def tokens_per_second(self, conversations: int, steps: int) -> float:
        """Tokens a second of so many conversations together, each with the first question's prompt before it."""
        tokens = self._prompt()
        for sequence in range(1, conversations):
            self._model.fork(0, sequence, tokens)
        answers = fixed_answers(self._model, conversations, steps + WARM_UP_STEPS)
        for step in range(steps + WARM_UP_STEPS):
            if step == WARM_UP_STEPS:
                begun = time.perf_counter()
            self._model.evaluate_together([Run(s, tokens + step, (answers[s][step],)) for s in range(conversations)])
        return conversations * steps / (time.perf_counter() - begun)

    def ten_runs(self, runs: int, answer_tokens: int) -> float:
        """Seconds of so many separate runs in a warm process: encode a picture, answer a question about it."""
        skingpt = self._fresh(1, answer_tokens)
        question = self._bundle.manifest.questions[0].question
        pictures = [photo(next(self._numbers)) for _ in range(runs)]  # different ones: nothing is cached
        begun = time.perf_counter()
        for data in pictures:
            skingpt.ask(skingpt.embed(data), question, exactly(answer_tokens))
        return time.perf_counter() - begun

    def ten_samples(self, samples: int, answer_tokens: int) -> float:
        """Seconds of encoding one picture and answering a question about it so many times together."""
        skingpt = self._fresh(1, answer_tokens, conversations=samples)
        question = self._bundle.manifest.questions[0].question
        data = photo(next(self._numbers))
        skingpt.ask(self._embed(skingpt), question, exactly(1))  # as warm as the separate runs
        begun = time.perf_counter()
        answers = skingpt.samples(skingpt.embed(data), question, exactly(answer_tokens, temperature=1), samples)
        seconds = time.perf_counter() - begun
        lengths = {len(answer.token_ids) for answer in answers}
        if len(answers) != samples or lengths != {answer_tokens}:
            raise EngineError(f"{len(answers)} samples of {lengths} tokens, expected {samples} of {answer_tokens}")
        return seconds

    def images_per_second(self, batch: int) -> float:
        """Pictures a second through encoder and Q-Former, `batch` of them at once."""
        part = self._bundle.manifest.vision
        size = self._bundle.manifest.image.size
        pixels = np.random.default_rng(batch).standard_normal((batch, 3, size, size), np.float32)
        encoder, qformer = (
            OrtGraph(self._bundle.file(name), device="cpu", precision=part.precision, threads=self._threads)
            for name in (part.encoder, part.qformer)
        )
        for _ in ("warm-up", "measured"):
            begun = time.perf_counter()
            qformer.run({"image_features": encoder.run({"pixels": pixels})["image_features"]})
            seconds = time.perf_counter() - begun
        return batch / seconds

    def _fresh(self, answers: int, answer_tokens: int, conversations: int = 1) -> SkinGPT:
        """The same engines with an empty KV cache."""
        for sequence in range(self._conversations + 1):
            self._model.rewind(sequence, 0)
        model = FixedTokens(self._model, fixed_answers(self._model, answers, answer_tokens))
        return SkinGPT(self._bundle, self._vision, model, conversations=conversations)

    def _embed(self, skingpt: SkinGPT) -> ImageEmbedding:
        return skingpt.embed(photo(next(self._numbers)))

    def _prompt(self) -> int:
        """Put the first question's prompt into sequence 0, alone in the cache; its length."""
        for sequence in range(self._conversations + 1):
            self._model.rewind(sequence, 0)
        return put_prompt(self._bundle, self._model)


class Conversations:
    """A language model opened for so many conversations, each with a context of its own, and its memory."""

    def __init__(
        self, bundle: str, threads: int, conversations: int, device: str = "cpu", vision_device: str | None = None
    ) -> None:
        with PeakSampler() as memory:
            opened = open_bundle(Path(bundle))
            model = open_language_model(
                opened, Options(device, vision_device, threads=threads, conversations=conversations)
            )
            length = put_prompt(opened, model)
            for sequence in range(1, conversations):
                model.fork(0, sequence, length)
            token = model.tokenize("a", bos=False)[-1]
            model.evaluate_together([Run(sequence, length, (token,)) for sequence in range(conversations)])
            self.opened: dict[str, Any] = memory.snapshot()
        model.close()


def put_prompt(bundle: Bundle, model: LanguageModel) -> int:
    """Evaluate a prompt about a made-up picture in sequence 0; its length in items."""
    manifest = bundle.manifest
    before = model.tokenize(manifest.template.system, bos=True)
    after = model.tokenize(manifest.questions[0].question, bos=False)
    rows = np.random.default_rng(0).standard_normal(manifest.shapes.image_embeds, np.float32) * np.float32(0.02)
    model.evaluate_tokens(0, 0, before)
    model.evaluate_embeddings(0, len(before), rows)
    model.evaluate_tokens(0, len(before) + len(rows), after)
    return len(before) + len(rows) + len(after)
