"""The runtime's front door: open a bundle, encode a picture, ask."""

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from ..engines.base import EngineInfo, Floats
from ..engines.errors import ImageError, InputError, QuestionError
from .bundle import Bundle, Progress, default_bundle, find_bundle
from .checked_values import instance, whole_number
from .conversation import Answer, Conversation, Turn
from .embedding_check import checked_embedding
from .gpu_requirements import check_gpu_memory
from .huge_pages import Collapsing
from .image_cache import ImageCache
from .kv_cache import KvCache
from .kv_lease import Lease
from .loading import Engines, load
from .manifest import Question
from .options import MAX_SAMPLES, Options, Setup
from .prepared_photo import PreparedPhoto, prepare_photo
from .prompt import build_prompt
from .prompt_snapshot import PromptSnapshot
from .report import Report, Section
from .resolving import resolve
from .sampling import GenerationConfig
from .scheduler import Scheduler, run_alone
from .verification import open_bundle
from .vision import ImageEmbedding


class SkinGPT:
    """A bundle ready to answer; a context manager.

    One answer is generated at a time, or several together by a `scheduler`. Threads may take turns. A question that is
    asked while another thread computes an answer gets EngineError; so does everything in a forked child and after
    `close`. `embed` may be called by several threads at once. A model that was not closed is freed when it is dropped.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: Engines,
        setup: Setup,
        requested: Options | None = None,
        *,
        load_seconds: float = 0.0,
    ) -> None:
        """Put open engines together; `SkinGPT.open` and `SkinGPT.from_bundle` open them, too."""
        self.bundle = bundle
        self.vision = engines.vision
        self.setup = setup
        """How everything is run."""
        self.requested = requested or Options()
        """What was asked for."""
        self.load_seconds = load_seconds
        self._model = engines.language_model
        snapshot = PromptSnapshot(bundle, self._model) if setup.prompt_snapshot else None
        self._cache = KvCache(self._model, setup.conversations, snapshot)
        self._images = ImageCache(setup.image_cache)
        self._collapsing = Collapsing() if setup.huge_pages else None

    @classmethod
    def open(
        cls,
        path: PathLike[str] | str | None = None,
        *,
        verify: bool = False,
        progress: Progress | None = None,
        options: Options | None = None,
    ) -> Self:
        """Check and load a bundle: its path, or the name it is installed under; else the demonstration bundle.

        All files are hashed the first time this machine sees the bundle, or with `verify`; `progress` is told how far
        that is. It is told of `plan`, by another thread, when a graph is compiled for this machine's GPU. Raises
        BundleError, EngineError, also where the GPU asked for has too little memory free, InputError for options that
        cannot be met or a path that is none.
        """
        instance("verify", verify, bool)
        if progress is not None and not callable(progress):
            raise InputError(f"progress is {progress!r:.60}, expected a function")
        begun = time.perf_counter()
        bundle = open_bundle(_folder(path), verify=verify, progress=progress)
        return cls._load(bundle, Options() if options is None else options, begun, progress)

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: Options | None = None) -> Self:
        """Load a bundle that has been checked already; see `open`."""
        return cls._load(bundle, Options() if options is None else options, time.perf_counter())

    @classmethod
    def _load(cls, bundle: Bundle, options: Options, begun: float, progress: Progress | None = None) -> Self:
        instance("bundle", bundle, Bundle)
        instance("options", options, Options)
        setup = resolve(bundle, options)
        check_gpu_memory(bundle, setup)
        engines = load(bundle, setup, progress)
        return cls(bundle, engines, setup, options, load_seconds=time.perf_counter() - begun)

    @property
    def engines(self) -> dict[str, EngineInfo]:
        """What runs each stage."""
        return {**self.vision.info, "language_model": self._model.info}

    @property
    def defaults(self) -> GenerationConfig:
        """The bundle's own generation settings."""
        given = self.bundle.manifest.generation
        return GenerationConfig(given.max_new_tokens, given.temperature, given.top_p)

    def embed(self, data: bytes | bytearray | memoryview, name: str = "image") -> ImageEmbedding:
        """Encode a JPEG, PNG or WebP file's bytes once, to be asked about many times.

        The embeddings of the last pictures are kept in memory, so that the same bytes are not encoded twice.

        Raises ImageError, also for what is not bytes, NumericalError, EngineError.
        """
        self._model.exclusive.check()
        instance("name", name, str)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ImageError(f"{name}: this is {type(data).__name__}, expected the bytes of an image file")
        data = bytes(data)
        return self._images.get(sha256(data).hexdigest(), name) or self._encode(
            prepare_photo(data, name, self.bundle.manifest.image.size), name
        )

    def embed_photo(self, photo: PreparedPhoto, name: str = "image") -> ImageEmbedding:
        """As `embed`, for a photo that was decoded elsewhere. Raises InputError if it has another size."""
        self._model.exclusive.check()
        instance("photo", photo, PreparedPhoto)
        size = self.bundle.manifest.image.size
        if photo.pixels.shape != (size, size, 3):
            raise InputError(f"the photo's pixels have shape {photo.pixels.shape}, expected ({size}, {size}, 3)")
        return self._images.get(photo.sha256, name) or self._encode(photo, name)

    def _encode(self, photo: PreparedPhoto, name: str) -> ImageEmbedding:
        image = self.vision.embed_photo(photo, name)
        self._images.put(image)
        return image

    def forget(self, *images: ImageEmbedding) -> None:
        """Wipe what is held of pictures: their embeddings, and of their conversations all that the KV cache has.

        Answers about other pictures may be in the making, but no prompt in part. Raises EngineError if the KV cache
        cannot be wiped now; the embeddings are forgotten all the same.
        """
        with self._model.exclusive:
            for image in images:
                self._images.remove(image.sha256)
            self._cache.forget(images)

    def conversation(self, image: ImageEmbedding, turns: Sequence[Turn] = ()) -> Conversation:
        """A conversation about a picture: a new one, or one that goes on after the turns it had before.

        Turns may come from another process. What the KV cache still holds of them is not computed again. Raises
        QuestionError for a turn that cannot be one, ImageError for an embedding that this bundle cannot have made.
        """
        image = checked_embedding(image, self.bundle.manifest.shapes.image_embeds)
        manifest, context = self.bundle.manifest, min(self.setup.language_model.context, self._model.n_ctx)
        special = manifest.llm.special_tokens
        return Conversation(self._model, self._cache, manifest.template, special, context, image, turns)

    def scheduler(self, *, together: bool = True) -> Scheduler:
        """For jobs of conversations that are answered at the same time: `Options.conversations` of them.

        The text before the picture is evaluated first, if this process has not done so, because all of them need it.
        Raises EngineError.
        """
        manifest, lease = self.bundle.manifest, Lease(self._model, self._cache)
        before = build_prompt(manifest.template, manifest.llm.special_tokens, (), "").before
        run_alone(self._model, lease.hold_system(self._model.tokenize(before, bos=True)))
        return Scheduler(self._model, at_once=self._cache.conversations, together=together)

    def samples(
        self, image: ImageEmbedding, question: str, config: GenerationConfig, count: int, *, together: bool = True
    ) -> list[Answer]:
        """`count` sampled answers to one question, decoded together; they share the picture and the prompt's KV.

        The same seed and count give the same answers. As many are made at once as there are conversations and KV
        cells for. `together=False` makes them one after the other.

        Raises InputError for a temperature of 0, at which all would be equal, or a count out of range, and as `stream`
        does.
        """
        count = whole_number("samples", count, 1, MAX_SAMPLES)
        instance("config", config, GenerationConfig)
        instance("together", together, bool)
        if config.temperature == 0:
            raise InputError("samples at temperature 0 would all be the same answer: give a temperature above 0")
        with self._model.exclusive:
            return self._samples(image, question, config, count, together)

    def _samples(
        self, image: ImageEmbedding, question: str, config: GenerationConfig, count: int, together: bool
    ) -> list[Answer]:
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

    def stream(
        self,
        image: ImageEmbedding,
        question: str,
        config: GenerationConfig | None = None,
        *,
        cancel: Event | None = None,
    ) -> Iterator[str]:
        """Answer one question in pieces of text, as they are generated; use `conversation` for follow-ups.

        `cancel` and errors are those of `Conversation.stream`.
        """
        return self.conversation(image).stream(question, self.defaults if config is None else config, cancel=cancel)

    def ask(
        self,
        image: ImageEmbedding,
        question: str,
        config: GenerationConfig | None = None,
        *,
        cancel: Event | None = None,
    ) -> Answer:
        """Answer one question; see `stream`."""
        return self.conversation(image).ask(question, self.defaults if config is None else config, cancel=cancel)

    def first_logits(self, image: ImageEmbedding, question: str) -> Floats:
        """Logits (vocabulary,) from which the first token of the answer is chosen."""
        return self.conversation(image).first_logits(question)

    def stream_report(
        self,
        image: ImageEmbedding,
        questions: tuple[Question, ...] | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: Event | None = None,
    ) -> Iterator[tuple[int, str] | Report]:
        """Ask the protocol's questions in one conversation.

        Gives (number of the section, piece of its answer) as they are made, and the Report last.
        """
        questions = self.bundle.manifest.questions if questions is None else questions
        if not isinstance(questions, Sequence) or not all(isinstance(one, Question) for one in questions):
            raise QuestionError(f"questions is {questions!r:.60}, expected a tuple of Question")
        if not questions:
            raise QuestionError("questions is empty: give at least one, or None for the bundle's own")
        config = self.defaults if config is None else config
        conversation = self.conversation(image)
        for number, item in enumerate(questions):
            for piece in conversation.stream(item.question, config, cancel=cancel):
                yield number, piece
        titled = zip(questions, conversation.answers, strict=True)
        yield self.make_report(image, [Section(item.section, answer) for item, answer in titled], config)

    def report(
        self,
        image: ImageEmbedding,
        questions: tuple[Question, ...] | None = None,
        config: GenerationConfig | None = None,
    ) -> Report:
        """The protocol's questions and their answers. Raises as `stream` does."""
        with self._model.exclusive:
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
            requested=self.requested,
            setup=self.setup,
            bundle_name=manifest.name,
            bundle_id=self.bundle.id,
            notice=self.bundle.notice,
            load_seconds=self.load_seconds,
            installed=self.bundle.installed,
        )

    def close(self) -> None:
        """Free the engines' memory, and forget the pictures.

        An answer that another thread is computing ends with EngineError after its next token or chunk of a prompt, and
        `close` waits for that. In a forked child it does nothing.
        """
        if self._model.exclusive.inherited:
            return
        if self._collapsing:
            self._collapsing.stop()
        self._model.close()
        self.vision.close()
        self._images.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _folder(path: PathLike[str] | str | None) -> Path:
    """An empty path, as of a variable that is not set, is not the demonstration bundle.

    Raises InputError, BundleError.
    """
    if path is None:
        return default_bundle()
    if not isinstance(path, str | PathLike) or not str(path) or "\0" in str(path):
        raise InputError(f"the bundle's path is {path!r:.60}, expected a folder, or None for the demonstration bundle")
    return find_bundle(path)
