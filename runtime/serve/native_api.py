"""Our own routes: a photo as the body, events as the answer. `openapi.json` describes them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .json_body import convert, read_json, read_query
from .model_process import Event
from .problems import Problem
from .service import Service, check_question
from .sessions import Session
from .settings import MAX_JSON, MAX_PHOTO
from .streams import ByteStream, event, event_stream, while_connected

NamedEvents = AsyncGenerator[tuple[str, dict[str, Any]], None]
"""Events of a stream: name and data."""
IMAGES = {"image/jpeg", "image/png", "image/webp"}


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


class NativeApi:
    """The routes' functions. Each raises Problem before its response has begun."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def report(self, request: Request) -> Response:
        """A photo in, a report out: a new conversation with the bundle's own questions.

        The photo is the whole body, so how answers are generated stands in the query.
        """
        config = convert(read_query(request.query_params.multi_items()), Generation).config()
        session = await self._session(request)
        questions: Sequence[Mapping[str, str]] = self._service.model.about["questions"]
        events = self._events(session, questions, config, whole=True)
        return await _respond(request, session, events, last="report")

    async def conversation(self, request: Request) -> Response:
        """A photo in, a conversation out, to ask questions of one's own."""
        session = await self._session(request)
        return JSONResponse(_described(session), 201, {"location": f"/v1/conversations/{session.id}"})

    async def question(self, request: Request) -> Response:
        """A question about a conversation's photo, which knows the questions and answers before it."""
        session = self._service.sessions.get(request.path_params["id"])
        body = await self._service.bodies.read(request, MAX_JSON, {"application/json"})
        given = convert(read_json(body), Ask)
        check_question(given.question)  # before the response begins
        questions = [{"section": "Question", "question": given.question}]
        return await _respond(request, session, self._events(session, questions, given.config()), last="answer")

    async def delete(self, request: Request) -> Response:
        """Wipe a conversation."""
        self._service.sessions.delete(request.path_params["id"])
        return Response(status_code=204)

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
        turns = []
        async with session.alone():
            yield "conversation", _described(session)
            seconds = session.photo.description["seconds"]
            yield "stage", {"stage": "image_decode", "done": 1, "total": 1, "seconds": seconds["image_decode"]}
            events = self._service.answers(session, questions, turns=session.turns, config=config)
            async with aclosing(events) as source:
                async for found in source:
                    if found["kind"] == "answer":
                        turns.append({"question": found["answer"]["question"], "answer": found["answer"]["token_ids"]})
                    if found["kind"] == "end":
                        session.turns += turns
                        if whole:
                            yield "report", found["report"]
                    elif named := _named(found, questions, with_answer=not whole):
                        yield named


def _described(session: Session) -> dict[str, Any]:
    """A conversation, and what a person should know of its photo before any answer."""
    photo = session.photo.description
    return {"id": session.id, "image": {"sha256": photo["sha256"], "notes": photo["notes"]}}


def _named(
    found: Event, questions: Sequence[Mapping[str, str]], *, with_answer: bool
) -> tuple[str, dict[str, Any]] | None:
    """A worker's event as ours."""
    if found["kind"] == "stage":
        return "stage", {name: found[name] for name in ("stage", "done", "total")}
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
