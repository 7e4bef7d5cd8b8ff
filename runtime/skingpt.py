"""The runtime's front door: open a bundle, encode a picture, ask."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from ..engines.base import EngineInfo, Floats, LanguageModel
from ..engines.errors import InputError
from ..engines.huge_pages import Collapsing
from ..engines.llama_cpp_model import LlamaCppModel
from ..engines.onnx_runtime import OrtGraph
from ..engines.scheduler import Scheduler
from .amx_trial import use_amx
from .bundle import Bundle, Progress, default_bundle, open_bundle
from .conversation import Answer, Conversation
from .image_cache import ImageCache, Key
from .kv_cache import KvCache
from .manifest import LanguagePart, Question
from .options import Options
from .prompt_snapshot import PromptSnapshot
from .report import Report, Section
from .sampling import GenerationConfig
from .threads import default_threads
from .vision import ImageEmbedding, VisionModel

MAX_SAMPLES = 100


class SkinGPT:
    """A bundle ready to answer; a context manager.

    Use it from one thread. One answer is generated at a time, or several together by a `scheduler`.
    """

    def __init__(
        self,
        bundle: Bundle,
        vision: VisionModel,
        model: LanguageModel,
        *,
        context: int | None = None,
        conversations: int = 1,
        image_cache: int = 0,
        snapshot: PromptSnapshot | None = None,
    ) -> None:
        self.bundle = bundle
        self.vision = vision
        self.load_seconds = 0.0
        self._collapsing: Collapsing | None = None
        self._model = model
        self._cache = KvCache(model, conversations, snapshot)
        self._images = ImageCache(image_cache)
        self._context = min(context or bundle.manifest.llm.context, model.n_ctx)

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        verify: bool = False,
        progress: Progress | None = None,
        options: Options | None = None,
    ) -> Self:
        """Check and load a bundle; without a path, the demonstration bundle of the package.

        All files are hashed the first time this machine sees the bundle, or with `verify`; `progress` hears of it.

        Raises BundleError, EngineError, InputError for options out of range.
        """
        begun = time.perf_counter()
        bundle = open_bundle(Path(path) if path else default_bundle(), verify=verify, progress=progress)
        model = cls.from_bundle(bundle, options)
        model.load_seconds = time.perf_counter() - begun
        return model

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: Options | None = None) -> Self:
        """Load a bundle that has been checked already; see `open`."""
        options = options or Options()
        vision, model = open_engines(bundle, options)
        opened = cls(
            bundle,
            vision,
            model,
            context=options.context,
            conversations=options.conversations,
            image_cache=options.image_cache,
            snapshot=PromptSnapshot(bundle, model) if options.prompt_snapshot else None,
        )
        if options.huge_pages:
            opened._collapsing = Collapsing()
        return opened

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

        The embeddings of the last pictures are kept in memory, so that the same bytes are not encoded twice.

        Raises ImageError, NumericalError.
        """
        key = Key(sha256(data).hexdigest(), self.bundle.id)
        image = self._images.get(key, name)
        if image is None:
            image = self.vision.embed(data, name)
            self._images.put(key, image)
        return image

    def conversation(self, image: ImageEmbedding) -> Conversation:
        """A new conversation about a picture."""
        template = self.bundle.manifest.template
        return Conversation(self._model, self._cache, template, self._context, image)

    def scheduler(self, *, together: bool = True) -> Scheduler:
        """For jobs of conversations that are answered at the same time, as many as the model was opened for."""
        return Scheduler(self._model, at_once=self._cache.conversations, together=together)

    def samples(
        self, image: ImageEmbedding, question: str, config: GenerationConfig, count: int, *, together: bool = True
    ) -> list[Answer]:
        """`count` sampled answers to one question, decoded together; they share the picture and the prompt's KV.

        The same seed and count give the same answers. As many are made at once as there are conversations and KV
        cells for. `together=False` makes them one after the other.

        Raises InputError for a temperature of 0, at which all would be equal, or a count out of range.
        """
        if not 1 <= count <= MAX_SAMPLES:
            raise InputError(f"samples is {count}, expected 1 to {MAX_SAMPLES}")
        if config.temperature == 0:
            raise InputError("samples at temperature 0 would all be the same answer: give a temperature above 0")
        first = self.conversation(image)
        self._cache.forget_conversations()
        first.first_logits(question)  # the prompt, once; the samples fork it
        room = (self._model.n_ctx - first.prompt_length(question)) // config.max_new_tokens
        at_once = max(1, min(self._cache.conversations, room))
        scheduler = Scheduler(self._model, at_once=at_once if together else 1)
        conversations = [self.conversation(image) for _ in range(count)]
        tickets = [scheduler.add(one.job(question, config, sample=i)) for i, one in enumerate(conversations)]
        scheduler.run()
        for ticket in tickets:
            if ticket.error:
                raise ticket.error
        return [conversation.answers[0] for conversation in conversations]

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
        """Free the engines' memory, and forget the pictures."""
        if self._collapsing:
            self._collapsing.stop()
        self._images.clear()
        self.vision.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engines(bundle: Bundle, options: Options) -> tuple[VisionModel, LlamaCppModel]:
    """Load vision and language model at the same time. Raises as `open_vision` and `open_language_model` do."""
    with ThreadPoolExecutor(1) as pool:
        vision = pool.submit(open_vision, bundle, options)
        model = open_language_model(bundle, options)
        try:
            return vision.result(), model
        except BaseException:
            model.close()
            raise


def open_vision(bundle: Bundle, options: Options | None = None) -> VisionModel:
    """Load a bundle's two graphs. Raises BundleError, EngineError."""
    options = options or Options()
    part = bundle.manifest.vision
    threads = options.vision_threads or options.threads or default_threads()
    encoder, qformer = (
        OrtGraph(bundle.file(name), device=options.device_of_vision, precision=part.precision, threads=threads)
        for name in (part.encoder, part.qformer)
    )
    return VisionModel(bundle, encoder, qformer)


def open_language_model(bundle: Bundle, options: Options | None = None) -> LlamaCppModel:
    """Load a bundle's language model. Raises EngineError."""
    options = options or Options()
    part = bundle.manifest.llm
    context = options.context or part.context
    kv_type, flash_attention = attention(part, options)
    return LlamaCppModel(
        bundle.file(part.file),
        context=context,
        cells=options.cells or context * options.conversations,
        sequences=options.conversations + 1,
        threads=options.threads or default_threads(),
        prefill_threads=options.prefill_threads,
        batch=options.batch,
        precision=part.type,
        kv_type=kv_type,
        flash_attention=flash_attention,
        device=options.device,
        gpu_layers=options.gpu_layers,
        amx=use_amx(bundle, options),
    )


def attention(part: LanguagePart, options: Options) -> tuple[str, bool]:
    """Type of the KV cache, and whether flash attention is used."""
    if options.device != "cpu" and not options.kv_type and part.kv_type == "q8_0/f16":
        return "f16", True  # what GPUs have kernels for
    kv_type = options.kv_type or part.kv_type
    return kv_type, part.flash_attention or kv_type == "q8_0"
