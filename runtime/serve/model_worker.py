"""The process that holds the model and answers, several requests at once.

Three threads: one reads what the server sends, one encodes photos, and the main thread alone uses the language model.
So a cancel and a new photo are seen while an answer is generated. What comes in, as `framing` messages:

    open      {bundle, options, verify, together}: load the model; the first message
    ask       {id, photo, turns, questions, config, choices} and pixels: answer the questions about this photo
    prepare   {id, photo} and pixels: put the photo into the prompt, because it will be asked about
    cancel    {id}: end this request after the token or the chunk of a prompt that is being computed
    forget    {sha256}: wipe what is held of this photo, before the next prompt is begun
    ping      {}

and what goes out:

    ready     {about}: the model is loaded
    stage     {id, stage, done, total}: what is being done for a request
    text      {id, choice, section, text}: a piece of an answer
    answer    {id, choice, section, answer, turn}: an answer is whole; `turn` is what a later `ask` has of it in `turns`
    end       {id, report}: a request is finished; no report if it was cancelled
    error     {id, code, detail}: a request failed
    pong      {memory, encoding}: bytes of this process; for how many seconds a photo is being encoded by now
    failed    {code, detail}: the model cannot be loaded; this process ends
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from ...engines.errors import (
    BundleError,
    EngineError,
    ImageError,
    InputError,
    NumericalError,
    QuestionError,
)
from ..conversation import Answer, Turn
from ..machine import process_memory
from ..manifest import Question
from ..options import Options
from ..prepared_photo import PreparedPhoto
from ..report import Section, turn_json
from ..sampling import GenerationConfig
from ..scheduler import Job, Ticket
from ..skingpt import SkinGPT
from ..vision import ImageEmbedding
from .child import begin, clear_freed_memory
from .framing import Message, receive, send

NAME = "photo"
CODES: dict[type[BaseException], str] = {
    NumericalError: "numerical_error",
    EngineError: "engine_failed",
    ImageError: "image_unusable",
    QuestionError: "question_unusable",
    InputError: "value_unusable",
    BundleError: "bundle_unusable",
    MemoryError: "out_of_memory",
}


@dataclass(eq=False)
class Request:
    """An `ask` in the making."""

    id: int
    photo: PreparedPhoto
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]
    config: GenerationConfig
    choices: int
    """0: it only prepares the photo for questions to come."""
    image: ImageEmbedding | None = None
    tickets: list[Ticket[list[Answer]]] = field(default_factory=list)
    cancelled: bool = False
    prompt_items: int = 0
    """Of the prompt that is being evaluated, or was last."""
    told: tuple[int, int] = (0, 0)


class ModelWorker:
    """Answers requests with an open model."""

    def __init__(self, model: SkinGPT, channel: socket.socket, *, together: bool) -> None:
        self._model = model
        self._channel = channel
        self._sending = Lock()
        self._scheduler = model.scheduler(together=together)
        self._requests: dict[int, Request] = {}
        self._images: dict[str, ImageEmbedding] = {}
        self._to_embed: SimpleQueue[Request] = SimpleQueue()
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._to_forget: set[str] = set()
        self._encoding_since: float | None = None

    def run(self) -> None:
        """Work until the server goes, which ends the process."""
        self._send("ready", about=self._about())
        for target in (self._read, self._embed):
            Thread(target=target, daemon=True).start()
        busy = False
        while True:
            self._forget()
            if busy:
                while not self._inbox.empty():
                    self._inbox.get()()
            else:  # one message at a time, so that what is to be forgotten is, before anything else begins
                self._inbox.get()()
            busy = self._scheduler.step()
            self._tell_all()

    def _about(self) -> dict[str, Any]:
        """What the server needs to know of the model."""
        manifest, defaults = self._model.bundle.manifest, self._model.defaults
        return {
            "pid": os.getpid(),
            "name": manifest.name,
            "id": self._model.bundle.id,
            "notice": self._model.bundle.notice,
            "questions": [{"section": one.section, "question": one.question} for one in manifest.questions],
            "context": self._model.setup.language_model.context,
            "conversations": self._model.setup.conversations,
            "image_size": manifest.image.size,
            "max_new_tokens": defaults.max_new_tokens,
            "temperature": defaults.temperature,
            "top_p": defaults.top_p,
            "load_seconds": round(self._model.load_seconds, 3),
            "memory": process_memory().rss,
        }

    def _send(self, kind: str, **fields: Any) -> None:
        with self._sending:
            send(self._channel, kind, **fields)

    # The thread that reads.

    def _read(self) -> None:
        try:
            while message := receive(self._channel):
                getattr(self, f"_on_{message.kind}")(message)
        finally:
            os._exit(0)  # the server has gone; nothing is kept

    def _on_ask(self, message: Message) -> None:
        header = message.header
        given = header["questions"] or self._about()["questions"]
        try:
            request = Request(
                header["id"],
                PreparedPhoto.from_description(header["photo"], message.payload),
                tuple(Turn(one["question"], _answer(one["answer"])) for one in header["turns"]),
                tuple(Question(one["section"], one["question"]) for one in given),
                _config(header["config"], self._model.defaults),
                header["choices"],
            )
        except Exception as error:  # also of a decoder's reply that is none
            self._fail(header["id"], error)
            return
        self._take(request)

    def _on_prepare(self, message: Message) -> None:
        header = message.header
        try:
            photo = PreparedPhoto.from_description(header["photo"], message.payload)
        except Exception as error:
            self._fail(header["id"], error)
            return
        self._take(Request(header["id"], photo, (), (), self._model.defaults, choices=0))

    def _take(self, request: Request) -> None:
        self._requests[request.id] = request
        # In the order of the messages: a photo that is asked about anew stays, one that is deleted meanwhile does not.
        self._inbox.put(lambda: self._to_forget.discard(request.photo.sha256))
        self._to_embed.put(request)

    def _on_cancel(self, message: Message) -> None:
        if request := self._requests.get(message.header["id"]):
            request.cancelled = True
            for ticket in request.tickets:
                self._scheduler.cancel(ticket)
        self._inbox.put(lambda: None)  # so that the main thread sees it

    def _on_forget(self, message: Message) -> None:
        sha256 = message.header["sha256"]
        self._inbox.put(lambda: self._to_forget.add(sha256))

    def _on_ping(self, _: Message) -> None:
        # Answered by the main thread, because it may hang; so may the thread that encodes, of which it tells.
        self._inbox.put(self._pong)

    def _pong(self) -> None:
        since = self._encoding_since
        seconds = 0.0 if since is None else time.monotonic() - since
        self._send("pong", memory=process_memory().rss, encoding=round(seconds, 3))

    # The thread that encodes photos.

    def _embed(self) -> None:
        while True:
            request = self._to_embed.get()
            error: BaseException | None = None
            if not request.cancelled:
                self._send("stage", id=request.id, stage="vision_encoder", done=0, total=1)
                self._encoding_since = time.monotonic()
                try:
                    request.image = self._model.embed_photo(request.photo, NAME)
                except Exception as raised:  # whatever it is, the next photo's request is to get its answer
                    error = raised
                self._encoding_since = None
            self._inbox.put(lambda request=request, error=error: self._begin(request, error))  # type: ignore[misc]
            del request  # the last photo would be held until the next one comes

    # The main thread.

    def _begin(self, request: Request, error: BaseException | None) -> None:
        """A photo is encoded; from here on the scheduler has the request."""
        if request.image:  # also of a request that was cancelled meanwhile: the model holds it
            self._images[request.image.sha256] = request.image
        if error:
            self._fail(request.id, error)
        elif request.cancelled or not request.image:
            self._end(request)
        else:
            self._send("stage", id=request.id, stage="vision_encoder", done=1, total=1)
            jobs = [self._answers(request, i) for i in range(request.choices)] or [self._preparation(request)]
            request.tickets = [self._scheduler.add(job) for job in jobs]
            if request.cancelled:  # meanwhile
                for ticket in request.tickets:
                    self._scheduler.cancel(ticket)

    def _answers(self, request: Request, choice: int) -> Job[list[Answer]]:
        """One answer to each of the questions, one after the other."""
        assert request.image
        conversation = self._model.conversation(request.image, request.turns)
        sample = choice if request.choices > 1 else None
        for section, item in enumerate(request.questions):
            place = {"id": request.id, "choice": choice, "section": section}
            request.prompt_items = conversation.prompt_length(item.question)
            answer = yield from conversation.job(
                item.question,
                request.config,
                on_text=lambda text, place=place: self._send("text", text=text, **place),  # type: ignore[misc]
                sample=sample,
            )
            self._send("answer", answer=turn_json(Section(item.section, answer)), turn=answer.turn.answer, **place)
            self._scheduler.end_prompt(request.tickets[choice])
        return conversation.answers

    def _preparation(self, request: Request) -> Job[list[Answer]]:
        assert request.image
        yield from self._model.conversation(request.image).preparation()
        return []

    def _tell_all(self) -> None:
        for request in list(self._requests.values()):
            self._tell(request)

    def _tell(self, request: Request) -> None:
        """What has changed for a request since the last call of the model."""
        tickets = request.tickets
        if not tickets:
            return
        for ticket in tickets:
            segment = ticket.segment
            if segment and len(segment) > 1:  # of a prompt
                done = (segment.position + ticket.evaluated, request.prompt_items)
                if done != request.told:
                    request.told = done
                    self._send("stage", id=request.id, stage="prompt", done=min(done), total=done[1])
        failed = next((ticket for ticket in tickets if ticket.error), None)
        if failed and failed.error:
            for ticket in tickets:
                self._scheduler.cancel(ticket)
            self._fail(request.id, failed.error)
        elif all(ticket.finished for ticket in tickets):
            self._end(request)

    def _end(self, request: Request) -> None:
        del self._requests[request.id]
        report = None
        if request.image and request.tickets and (answers := request.tickets[0].result):
            sections = [Section(item.section, answer) for item, answer in zip(request.questions, answers, strict=True)]
            report = self._model.make_report(request.image, sections, request.config).to_json()
        self._send("end", id=request.id, report=report)

    def _fail(self, number: int, error: BaseException) -> None:
        self._requests.pop(number, None)
        code, detail = described(error)
        self._send("error", id=number, code=code, detail=detail)

    def _forget(self) -> None:
        """Wipe what is to be forgotten, but for photos of requests that go on; those are seen to afterwards.

        The KV cache is wiped between two prompts, and no prompt is begun before.
        """
        due = self._to_forget - {request.photo.sha256 for request in list(self._requests.values())}
        images = [self._images[sha256] for sha256 in due & self._images.keys()]
        self._scheduler.hold = bool(images)
        if not self._scheduler.between_prompts:
            return
        if images:
            try:
                self._model.forget(*images)
            except EngineError:  # no room to put the answers aside that are being generated: after some of them, then
                self._scheduler.hold = False
                return
            images.clear()
        for sha256 in due:
            self._images.pop(sha256, None)
        self._to_forget -= due
        self._scheduler.hold = False
        if due:
            clear_freed_memory()


def described(error: BaseException) -> tuple[str, str]:
    """A code and a sentence. What an unforeseen error says may hold a patient's words, so only its place is told."""
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return code, str(error) or "the machine has too little memory"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in {Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    return "internal_error", f"{type(error).__name__}{place}"


def _answer(given: Any) -> str | tuple[int, ...]:
    return given if isinstance(given, str) else tuple(given)


def _config(given: dict[str, Any], defaults: GenerationConfig) -> GenerationConfig:
    """Filled up with the bundle's defaults. Raises InputError."""
    chosen = {name: value for name, value in given.items() if value is not None and name != "stop"}
    return GenerationConfig(**{**vars(defaults), **chosen, "stop": tuple(given.get("stop") or ())})


def main() -> int:
    channel = begin()
    message = receive(channel)
    if message is None:
        return 0
    given = message.header
    try:
        with SkinGPT.open(given["bundle"], verify=given["verify"], options=Options(**given["options"])) as model:
            ModelWorker(model, channel, together=given["together"]).run()
    except BrokenPipeError:  # the server has gone
        return 0
    except BaseException as error:
        code, detail = described(error)
        send(channel, "failed", code=code, detail=detail)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
