"""Our engines, stage by stage and as a whole report, through the runtime's own code; runs in a worker."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from ..engines.huge_pages import collapse
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.conversation import Answer
from ..runtime.options import Options
from ..runtime.sampling import GenerationConfig
from ..runtime.skingpt import SkinGPT, open_language_model, open_vision
from ..runtime.vision import ImageEmbedding
from .fixed_work import FixedTokens, fixed_answers, photo
from .memory import PeakSampler

VISION_STAGES = ("image_decode", "preprocess", "vision_encoder", "qformer")


def exactly(tokens: int, temperature: float = 0.0) -> GenerationConfig:
    """Answers of exactly this many fixed tokens."""
    return GenerationConfig(max_new_tokens=tokens, temperature=temperature, ignore_stop=True)


class VisionStages:
    """Picture to embeddings."""

    def __init__(self, bundle: str, threads: int, device: str = "cpu", vision_device: str | None = None) -> None:
        self._vision = open_vision(open_bundle(Path(bundle)), Options(device, vision_device, threads=threads))
        collapse()
        self._numbers = count()
        self.opened = {name: info.to_json() for name, info in self._vision.info.items()}

    def encode(self) -> dict[str, float]:
        """Seconds of each stage for a picture not seen before."""
        return self._vision.embed(photo(next(self._numbers)), "photo").seconds


class SkinGPTStages:
    """A whole bundle, opened once. The first report is the cold one, and memory is watched until it is done."""

    def __init__(
        self, bundle: str, threads: int, answer_tokens: int, device: str = "cpu", vision_device: str | None = None
    ) -> None:
        self._numbers = count()
        first = photo(next(self._numbers))  # made before anything is measured: it takes memory, too
        self._memory = PeakSampler()
        self.memory: list[dict[str, Any]] = []
        with self._memory:
            options = Options(device, vision_device, threads=threads, image_cache=0)
            self._open(open_bundle(Path(bundle)), options, answer_tokens, first)

    def _open(self, bundle: Bundle, options: Options, answer_tokens: int, first: bytes) -> None:
        self._remember("process_start")
        self._bundle, self._vision = bundle, open_vision(bundle, options)
        self._remember("vision_opened")
        model = open_language_model(bundle, options)
        self._remember("language_model_opened")
        questions = len(bundle.manifest.questions)
        self._model = FixedTokens(model, fixed_answers(model, questions, answer_tokens))
        self._config = exactly(answer_tokens)
        self._skingpt = self._fresh()
        infos = {**self._vision.info, "language_model": model.info}
        cold = self._report(first, remember=True)
        collapse()  # what a user's process does beside its first answers
        self._remember("huge_pages")
        self.opened = {
            "engines": {name: asdict(info) for name, info in infos.items()},
            "cold": cold,
            "memory": self.memory,
        }

    def report(self) -> dict[str, Any]:
        """A warm report for a new picture: seconds by stage, its prompts and answers as token ids."""
        return self._report(photo(next(self._numbers)), remember=False)

    def _report(self, data: bytes, *, remember: bool) -> dict[str, Any]:
        self._model.restart()
        self._model.seconds = 0.0
        begun = time.perf_counter()
        image = self._skingpt.embed(data, "photo")
        embedded = time.perf_counter()
        if remember:
            self._remember("image_encoded")
        report = self._skingpt.report(image, config=self._config)
        ended = time.perf_counter()
        if remember:
            self._remember("report")
        answers = [section.answer for section in report.sections]
        engine_seconds = self._model.seconds + image.seconds["vision_encoder"] + image.seconds["qformer"]
        first = answers[0]
        return {
            "seconds": {
                **image.seconds,
                "prefill_image": first.prefill.seconds["image"],
                "prefill_question": first.prefill.seconds["text"],
                "prefill_system": first.prefill.seconds["system"],
                "first_token": embedded - begun + first.first_token_seconds,
                "report": ended - begun,
            },
            "python_share": 1 - engine_seconds / (ended - begun),
            "steps": self._model.steps,
            "turns": [_turn(answer) for answer in answers],
            "image_rows": len(image.embeds),
        }

    def prefill(self) -> dict[str, float]:
        """Seconds of the three parts of a first prompt, nothing of it in the cache."""
        self._skingpt = self._fresh()
        answer = self._ask(self._embed())
        return {f"prefill_{'question' if kind == 'text' else kind}": s for kind, s in answer.prefill.seconds.items()}

    def first_token(self) -> float:
        """Seconds from a new picture's bytes to the first token; the system prompt is in the cache."""
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

    def _fresh(self) -> SkinGPT:
        """The same engines with nothing known to be in the KV cache."""
        return SkinGPT(self._bundle, self._vision, self._model)

    def _embed(self) -> ImageEmbedding:
        return self._skingpt.embed(photo(next(self._numbers)), "photo")

    def _ask(self, image: ImageEmbedding, tokens: int = 1) -> Answer:
        return self._skingpt.ask(image, self._bundle.manifest.questions[0].question, exactly(tokens))

    def _remember(self, stage: str) -> None:
        self.memory.append({"engine": "skingpt", "stage": stage, **self._memory.snapshot()})


def _turn(answer: Answer) -> dict[str, Sequence[int]]:
    before, after = answer.segment_token_ids
    return {"before": before, "after": after, "answer": answer.token_ids}
