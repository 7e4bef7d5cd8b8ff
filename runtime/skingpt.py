"""The runtime's front door: open a bundle, encode a picture, ask."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ..engines.base import EngineInfo, Floats, LanguageModel
from ..engines.errors import InputError
from ..engines.llama_cpp_model import LlamaCppModel
from ..engines.onnx_runtime import OrtGraph
from .bundle import Bundle, Progress, default_bundle, open_bundle
from .conversation import Answer, Conversation
from .kv_cache import KvCache
from .manifest import MAX_CONTEXT, MIN_CONTEXT, Question
from .report import Report, Section
from .sampling import GenerationConfig
from .threads import default_threads
from .vision import ImageEmbedding, VisionModel


class SkinGPT:
    """A bundle ready to answer; a context manager.

    One answer is generated at a time; use it from one thread.
    """

    def __init__(self, bundle: Bundle, vision: VisionModel, model: LanguageModel) -> None:
        self.bundle = bundle
        self.vision = vision
        self.load_seconds = 0.0
        self._model = model
        self._cache = KvCache(model)

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        context: int | None = None,
        verify: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Check and load a bundle; without a path, the demonstration bundle of the package.

        `threads` is the physical cores unless given, `context` the bundle's own. All files are hashed the
        first time this machine sees the bundle, or with `verify`; `progress` hears of it.

        Raises BundleError, EngineError, InputError for options out of range.
        """
        begun = time.perf_counter()
        bundle = open_bundle(Path(path) if path else default_bundle(), verify=verify, progress=progress)
        model = cls.from_bundle(bundle, device=device, threads=threads, context=context)
        model.load_seconds = time.perf_counter() - begun
        return model

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        context: int | None = None,
    ) -> Self:
        """Load a bundle that has been checked already; see `open`."""
        threads = default_threads() if threads is None else threads
        if not 1 <= threads <= 1024:
            raise InputError(f"threads is {threads}, expected 1 to 1024")
        if context is not None and not MIN_CONTEXT <= context <= MAX_CONTEXT:
            raise InputError(f"context is {context}, expected {MIN_CONTEXT} to {MAX_CONTEXT}")
        vision = open_vision(bundle, device=device, threads=threads)
        model = open_language_model(bundle, device=device, threads=threads, context=context)
        return cls(bundle, vision, model)

    @property
    def engines(self) -> dict[str, EngineInfo]:
        """What runs each stage."""
        return {**self.vision.info, "language_model": self._model.info}

    @property
    def defaults(self) -> GenerationConfig:
        """The bundle's own generation settings."""
        given = self.bundle.manifest.generation
        return GenerationConfig(given.max_new_tokens, given.temperature, given.top_p)

    def embed(self, data: bytes, name: str = "image") -> ImageEmbedding:
        """Encode a JPEG, PNG or WebP file's bytes once, to be asked about many times.

        Raises ImageError, NumericalError.
        """
        return self.vision.embed(data, name)

    def conversation(self, image: ImageEmbedding) -> Conversation:
        """A new conversation about a picture."""
        template = self.bundle.manifest.template
        return Conversation(self._model, self._cache, template, self._model.n_ctx, image)

    def stream(self, image: ImageEmbedding, question: str, config: GenerationConfig | None = None) -> Iterator[str]:
        """Answer one question piece by piece; use `conversation` for follow-ups."""
        return self.conversation(image).stream(question, config or self.defaults)

    def ask(self, image: ImageEmbedding, question: str, config: GenerationConfig | None = None) -> Answer:
        """Answer one question."""
        return self.conversation(image).ask(question, config or self.defaults)

    def first_logits(self, image: ImageEmbedding, question: str) -> Floats:
        """Logits (vocabulary,) from which the first token of the answer is chosen."""
        return self.conversation(image).first_logits(question)

    def stream_report(
        self,
        image: ImageEmbedding,
        questions: tuple[Question, ...] | None = None,
        config: GenerationConfig | None = None,
    ) -> Iterator[tuple[int, str] | Report]:
        """Ask the protocol's questions in one conversation.

        Gives (number of the section, piece of its answer) as they are made, and the Report last.
        """
        questions = questions or self.bundle.manifest.questions
        config = config or self.defaults
        conversation = self.conversation(image)
        for number, item in enumerate(questions):
            for piece in conversation.stream(item.question, config):
                yield number, piece
        titled = zip(questions, conversation.answers, strict=True)
        yield self.make_report(image, [Section(item.section, answer) for item, answer in titled], config)

    def report(
        self,
        image: ImageEmbedding,
        questions: tuple[Question, ...] | None = None,
        config: GenerationConfig | None = None,
    ) -> Report:
        """The protocol's questions and their answers."""
        *_, report = self.stream_report(image, questions, config)
        assert isinstance(report, Report)
        return report

    def make_report(self, image: ImageEmbedding, sections: list[Section], config: GenerationConfig) -> Report:
        """Put answers together with what made them."""
        manifest = self.bundle.manifest
        return Report(
            image=image,
            sections=tuple(sections),
            config=config,
            engines=self.engines,
            bundle_name=manifest.name,
            bundle_id=self.bundle.id,
            notice=manifest.notice,
            load_seconds=self.load_seconds,
        )

    def close(self) -> None:
        """Free the engines' memory."""
        self.vision.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_vision(bundle: Bundle, *, device: str, threads: int) -> VisionModel:
    """Load a bundle's two graphs. Raises BundleError, EngineError."""
    part = bundle.manifest.vision
    encoder, qformer = (
        OrtGraph(bundle.file(name), device=device, precision=part.precision, threads=threads)
        for name in (part.encoder, part.qformer)
    )
    return VisionModel(bundle, encoder, qformer)


def open_language_model(bundle: Bundle, *, device: str, threads: int, context: int | None = None) -> LlamaCppModel:
    """Load a bundle's language model. Raises EngineError."""
    part = bundle.manifest.llm
    return LlamaCppModel(
        bundle.file(part.file),
        context=context or part.context,
        threads=threads,
        precision=part.type,
        kv_type=part.kv_type,
        flash_attention=part.flash_attention,
        device=device,
    )
