"""The trials of our own engines, stage by stage and as a whole report. Runs in a worker."""

import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from ...runtime.conversation import Answer
from ...runtime.huge_pages import collapse
from ...runtime.loading import Engines, load_language_model, load_vision
from ...runtime.skingpt import SkinGPT
from ...runtime.vision import ImageEmbedding
from .fixed_inputs import FixedTokens, exactly, fixed_answers, photo
from .raw_results import OURS
from .system import PeakSampler
from .workers import open_as_asked, without_huge_pages


class VisionStages:
    """From a picture's bytes to its embeddings."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        opened, _, setup = open_as_asked(bundle, options, threads)
        self._vision = load_vision(opened, setup.vision)
        if setup.huge_pages:
            collapse()
        self._numbers = count()

    def encode(self) -> dict[str, float]:
        """Seconds of each stage for a new picture."""
        return dict(self._vision.embed(photo(next(self._numbers)), "photo").seconds)


class WholeModel:
    """A whole bundle, opened once. The first report is the cold one, and memory is sampled until it is done."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int, answer_tokens: int) -> None:
        self._numbers = count()
        first = photo(next(self._numbers))  # made before memory is sampled, because it takes some itself
        self._sampler = PeakSampler()
        self._sampled: list[dict[str, Any]] = []
        self._config = exactly(answer_tokens)
        with self._sampler:
            self._open(bundle, options, threads)
            cold = self._report(first, sample=True)
            if self._setup.huge_pages:
                collapse()  # a user's process does this beside its first answers
                self._sample("huge_pages")
        self.opened = {
            "setup": {"requested": self._requested.to_json(), "resolved": self._setup.to_json()},
            "engines": {name: info.to_json() for name, info in self._skingpt.engines.items()},
            "cold": cold,
            "memory": self._sampled,
        }

    def _open(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        self._bundle, self._requested, self._setup = open_as_asked(bundle, options, threads)
        self._sample("process_start")
        vision = load_vision(self._bundle, self._setup.vision)
        self._sample("vision_opened")
        model = load_language_model(self._bundle, self._setup.language_model)
        self._sample("language_model_opened")
        answers = fixed_answers(model, len(self._bundle.manifest.questions), self._config.max_new_tokens)
        self._model = FixedTokens(model, answers)
        self._engines = Engines(vision, self._model)
        self._skingpt = self._with_empty_cache()

    def report(self) -> dict[str, Any]:
        """A warm report about a new picture: seconds by stage, its prompts and answers as token ids."""
        return self._report(photo(next(self._numbers)), sample=False)

    def _report(self, data: bytes, *, sample: bool) -> dict[str, Any]:
        self._model.restart()
        self._model.seconds = 0.0
        begun = time.perf_counter()
        image = self._skingpt.embed(data, "photo")
        embedded = time.perf_counter()
        if sample:
            self._sample("image_encoded")
        report = self._skingpt.report(image, config=self._config)
        seconds = time.perf_counter() - begun
        if sample:
            self._sample("report")
        answers = [section.answer for section in report.sections]
        engine_seconds = self._model.seconds + sum(image.seconds.values())  # a photo is read by libraries
        return {
            "seconds": {
                **image.seconds,
                **_prefill(answers[0]),
                "first_token": embedded - begun + answers[0].first_token_seconds,
                "report": seconds,
            },
            "python_share": 1 - engine_seconds / seconds,
            "steps": self._model.steps,
            "turns": [_turn(answer) for answer in answers],
            "image_rows": len(image.embeds),
        }

    def prefill(self) -> dict[str, float]:
        """Seconds of the three parts of a first prompt, with an empty KV cache."""
        self._skingpt = self._with_empty_cache()
        return _prefill(self._ask(self._embed()))

    def first_token(self) -> float:
        """Seconds from a new picture's bytes to the first token; the system prompt is in the KV cache."""
        data = photo(next(self._numbers))
        begun = time.perf_counter()
        self._ask(self._skingpt.embed(data, "photo"))
        return time.perf_counter() - begun

    def decode(self, tokens: int) -> list[float]:
        """Seconds of each of `tokens` steps from one token to the next, in an answer to the first question."""
        image = self._embed()
        self._model.restart()
        self._ask(image, tokens + 1)
        return self._model.steps[-tokens:]

    def _with_empty_cache(self) -> SkinGPT:
        """The same engines, whose KV cache is not known to hold anything."""
        return SkinGPT(self._bundle, self._engines, without_huge_pages(self._setup), self._requested)

    def _embed(self) -> ImageEmbedding:
        return self._skingpt.embed(photo(next(self._numbers)), "photo")

    def _ask(self, image: ImageEmbedding, tokens: int = 1) -> Answer:
        return self._skingpt.ask(image, self._bundle.manifest.questions[0].question, exactly(tokens))

    def _sample(self, stage: str) -> None:
        self._sampled.append({"engine": OURS, "stage": stage, **self._sampler.snapshot()})


def _prefill(answer: Answer) -> dict[str, float]:
    """Seconds of the parts of its prompt by the names of the results."""
    names = {"system": "prefill_system", "image": "prefill_image", "text": "prefill_question"}
    return {name: answer.prefill.seconds[kind] for kind, name in names.items()}


def _turn(answer: Answer) -> dict[str, Sequence[int]]:
    before, after = answer.segment_token_ids
    return {"before": before, "after": after, "answer": answer.token_ids}
