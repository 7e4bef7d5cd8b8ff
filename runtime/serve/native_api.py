"""Our own routes: a photo as the body, events as the answer. `openapi.json` describes them."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..condition_names import agreement, condition_named, counted, read_conditions
from .json_body import convert, read_json, read_query
from .model_process import Event, Events
from .problems import Problem
from .service import Service, check_question
from .sessions import Session
from .settings import KIOSK_OFFERS, MAX_CHOICES, MAX_JSON, MAX_PHOTO
from .streams import ByteStream, event, event_stream, while_connected

Body = TypeVar("Body", bound=msgspec.Struct)
NamedEvents = AsyncGenerator[tuple[str, dict[str, Any]], None]
"""Events of a stream: name and data."""
IMAGES = {"image/jpeg", "image/png", "image/webp"}
SAMPLING_TEMPERATURE = 1.0  # the original's


class Generation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How answers are generated; None leaves a choice to the bundle."""

    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0

    def config(self) -> dict[str, Any]:
        """As the worker takes it."""
        return {name: getattr(self, name) for name in Generation.__struct_fields__}


class Ask(Generation, forbid_unknown_fields=True, kw_only=True):
    """The body of a question."""

    question: str


class Sample(Generation, forbid_unknown_fields=True, kw_only=True):
    """The body of a request for several answers."""

    question: str | None = None
    """None: the bundle's first."""
    choices: Annotated[int, msgspec.Meta(ge=2, le=MAX_CHOICES)] = 5

    def config(self) -> dict[str, Any]:
        """As the worker takes it. Without sampling, all answers would be the same."""
        return {**super().config(), "temperature": self.temperature or SAMPLING_TEMPERATURE}


class NativeApi:
    """The routes' functions. Each raises Problem before its response has begun."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._conditions = read_conditions()

    async def about(self, _: Request) -> Response:
        """What a person should know before a photo is taken, and what the kiosk page was told to do."""
        await self._service.model.until_ready()
        about, settings = self._service.model.about, self._service.settings
        found = {name: about[name] for name in ("name", "id", "notice")}
        offers = {name: name not in settings.kiosk_without for name in KIOSK_OFFERS}
        return JSONResponse(
            {
                **found,
                "sections": [question["section"] for question in about["questions"]],
                "report_seconds": self._service.report_seconds,
                "kiosk": {"idle_seconds": settings.kiosk_idle_seconds, **offers},
            }
        )

    async def report(self, request: Request) -> Response:
        """A photo in, a report out: a new conversation with the bundle's own questions.

        The photo is the whole body, so how answers are generated stands in the query.
        """
        config = convert(read_query(request.query_params.multi_items()), Generation).config()
        return await self._report(request, await self._session(request), config)

    async def conversation_report(self, request: Request) -> Response:
        """The same for a conversation that there is."""
        session = self._service.sessions.get(request.path_params["id"])
        return await self._report(request, session, (await self._body(request, Generation)).config())

    async def _report(self, request: Request, session: Session, config: Mapping[str, Any]) -> Response:
        questions: Sequence[Mapping[str, str]] = self._service.model.about["questions"]
        events = self._events(session, questions, config, whole=True)
        return await _respond(request, session, events, last="report")

    async def conversation(self, request: Request) -> Response:
        """A photo in, a conversation out, to ask questions of one's own."""
        session = await self._session(request)
        self._service.prepare(session)
        return JSONResponse(_described(session), 201, {"location": f"/v1/conversations/{session.id}"})

    async def question(self, request: Request) -> Response:
        """A question about a conversation's photo, which knows the questions and answers before it."""
        session = self._service.sessions.get(request.path_params["id"])
        given = await self._body(request, Ask)
        check_question(given.question)  # before the response begins
        questions = [{"section": "Question", "question": given.question}]
        return await _respond(request, session, self._events(session, questions, given.config()), last="answer")

    async def consistency(self, request: Request) -> Response:
        """Several sampled answers to one question, and how far they agree. They are no part of the conversation."""
        session = self._service.sessions.get(request.path_params["id"])
        given = await self._body(request, Sample)
        await self._service.model.until_ready()  # which says what the first question is
        question = self._service.model.about["questions"][0]["question"] if given.question is None else given.question
        check_question(question)
        return await _respond(request, session, self._samples(session, question, given), last="consistency")

    async def delete(self, request: Request) -> Response:
        """Wipe a conversation."""
        self._service.sessions.delete(request.path_params["id"])
        return Response(status_code=204)

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        """A request's JSON. Raises Problem."""
        return convert(read_json(await self._service.bodies.read(request, MAX_JSON, {"application/json"})), kind)

    async def _session(self, request: Request) -> Session:
        """A new session for the photo that is a request's body."""
        data = await self._service.bodies.read(request, MAX_PHOTO, IMAGES)
        if not data:
            raise Problem("image_missing", "The body is empty: send the photo's bytes.")
        return self._service.sessions.open(await while_connected(request, self._service.photo(data)))

    async def _events(
        self,
        session: Session,
        questions: Sequence[Mapping[str, str]],
        config: Mapping[str, Any],
        *,
        whole: bool = False,
    ) -> NamedEvents:
        """Names and data of the events for these questions; `whole`: with a report at the end. Raises Problem.

        What was asked and answered is part of the session only if all of it was answered.
        """
        turns, begun = [], time.monotonic()
        async with session.alone():
            for first in _beginning(session):
                yield first
            events = self._service.answers(session, questions, turns=session.turns, config=config)
            async with aclosing(events) as source:
                async for found in source:
                    if found["kind"] == "answer":
                        turns.append({"question": found["answer"]["question"], "answer": found["answer"]["token_ids"]})
                    if found["kind"] == "end":
                        session.turns += turns
                        if whole:
                            self._service.took(time.monotonic() - begun)
                            yield "report", found["report"]
                    elif named := _named(found, questions, with_answer=not whole):
                        yield named

    async def _samples(self, session: Session, question: str, given: Sample) -> NamedEvents:
        """Names and data of the events for several answers to one question. Raises Problem."""
        questions, samples = [{"section": "Question", "question": question}], {}
        async with session.alone():
            for first in _beginning(session):
                yield first
            events: Events = self._service.answers(
                session, questions, turns=(), config=given.config(), choices=given.choices
            )
            async with aclosing(events) as source:
                async for found in source:
                    if found["kind"] == "answer":
                        sample = self._sample(found["answer"])
                        samples[found["choice"]] = sample
                        yield "sample", {"number": found["choice"], **sample}
                    elif found["kind"] == "stage":
                        yield "stage", _stage(found)
        yield "consistency", _compared(session, question, [samples[number] for number in sorted(samples)], given.seed)

    def _sample(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: answer[name] for name in ("text", "token_ids", "finish_reason")}
        return {**kept, "condition": condition_named(answer["text"], self._conditions)}


def _beginning(session: Session) -> list[tuple[str, dict[str, Any]]]:
    """The first events of every answer."""
    seconds = session.photo.description["seconds"]["image_decode"]
    stage = {"stage": "image_decode", "done": 1, "total": 1, "seconds": seconds}
    return [("conversation", _described(session)), ("stage", stage)]


def _stage(found: Event) -> dict[str, Any]:
    return {name: found[name] for name in ("stage", "done", "total")}


def _compared(session: Session, question: str, samples: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """How far the samples agree, like `skingpt diagnose --samples`, but without what is said once for all answers."""
    named = [sample["condition"] for sample in samples]
    return {
        "image": _described(session)["image"],
        "question": question,
        "samples": samples,
        "conditions": [{"condition": name, "count": count} for name, count in counted(named)],
        "agreement": agreement(named),
        "seed": seed,
    }


def _described(session: Session) -> dict[str, Any]:
    """A conversation, and what a person should know of its photo before any answer."""
    photo = session.photo.description
    return {"id": session.id, "image": {"sha256": photo["sha256"], "notes": photo["notes"]}}


def _named(
    found: Event, questions: Sequence[Mapping[str, str]], *, with_answer: bool
) -> tuple[str, dict[str, Any]] | None:
    """A worker's event as ours."""
    if found["kind"] == "stage":
        return "stage", _stage(found)
    if with_answer and found["kind"] == "answer":
        return "answer", dict(found["answer"])
    if found["kind"] == "answer" and found["answer"]["text"]:
        return None
    # An empty answer gets an empty piece, because a report has its heading all the same.
    section = questions[found["section"]]["section"]
    return "text", {"number": found["section"], "section": section, "text": found.get("text", "")}


async def _respond(request: Request, session: Session, events: NamedEvents, *, last: str) -> Response:
    """A stream of the events, or only the last one as JSON if the client accepts nothing else."""
    headers = {"x-conversation-id": session.id}
    accepted = request.headers.get("accept", "*/*")
    if "application/json" in accepted and "text/event-stream" not in accepted:
        return JSONResponse(await while_connected(request, _last(events, last)), headers=headers)
    # Begun only when the conversation is this question's alone, so that an error before that has its own status.
    first = await while_connected(request, anext(events))
    return event_stream(
        request, _encoded(first, events), headers, lambda problem: event("error", problem.document(request.state.id))
    )


async def _last(events: NamedEvents, name: str) -> dict[str, Any]:
    async with aclosing(events) as source:
        found = [data async for event_name, data in source if event_name == name]
    return found[-1]


async def _encoded(first: tuple[str, dict[str, Any]], events: NamedEvents) -> ByteStream:
    async with aclosing(events) as source:
        yield event(*first)
        async for name, data in source:
            yield event(name, data)
