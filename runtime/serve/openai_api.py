"""OpenAI's chat completions for one model that looks at one photo.

https://platform.openai.com/docs/api-reference/chat

The client sends its whole conversation each time. What the model's process computed for it before is found again by
content. The prompt is always the original's: the photo, then questions and answers in turn. What does not fit into that
is refused, and never left out silently; `dropped_turns` says how many turns, the oldest, the context had no room for.
"""

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .model_process import Event, Events, ModelProcess
from .openai_request import ChatRequest, read_request
from .problems import Problem
from .service import Service
from .sessions import Session
from .settings import MAX_CHAT
from .streams import ByteStream, event_stream, while_connected

FINISH = {"stop": "stop", "eos": "stop", "length": "length"}


class OpenAiApi:
    """The routes' functions. Each raises Problem before its response has begun."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        """The one model that is served."""
        await self._service.model.until_ready()
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        await self._service.model.until_ready()
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        name = self._service.model.name
        return {"id": name, "object": "model", "created": self._created, "owned_by": "skingpt-edge"}

    def _check_model(self, name: str) -> None:
        if name != self._service.model.name:
            raise Problem(
                "model_unknown", "There is no such model: GET /v1/models names the one there is.", param="model"
            )

    async def chat(self, request: Request) -> Response:
        given, chat, file = read_request(await self._service.bodies.read(request, MAX_CHAT, {"application/json"}))
        photo = await while_connected(request, self._service.photo(file))  # also waits for the model
        del file  # of which nothing is kept but the pixels
        self._check_model(given.model)
        session = self._service.sessions.stateless(photo)
        completion = Completion(given, self._service.model)
        events = completion.named(
            self._service.answers(
                session,
                [{"section": "Answer", "question": chat.question}],
                turns=[session.turn(question, answer) for question, answer in chat.turns],
                config=completion.config,
                choices=completion.sampled,
            )
        )
        headers = {"x-conversation-id": session.id}
        if not given.stream:
            await while_connected(request, completion.collect(events))
            return JSONResponse(completion.whole(session), headers=headers)
        # Begun only when the model has taken the question, so that an error before that has its own status.
        first = await while_connected(request, _accepted(events))
        chunks = completion.chunks(first, events, session)
        return event_stream(request, chunks, headers, lambda problem: _data(problem.openai()))


class Completion:
    """The answer to one request, in OpenAI's words."""

    def __init__(self, given: ChatRequest, model: ModelProcess) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._name, self._about = model.name, model.about
        self._answers: dict[int, Event] = {}
        self._usage_wanted = bool(given.stream_options and given.stream_options.include_usage)
        self._count = given.n or 1
        temperature = self._about["temperature"] if given.temperature is None else given.temperature
        self.sampled = self._count if temperature else 1
        """Answers that are generated: without sampling all choices are the same."""
        seed = secrets.randbelow(2**32) if given.seed is None else given.seed % 2**32
        stop = [given.stop] if isinstance(given.stop, str) else given.stop
        self._length: str | None = None
        """The field that says how long the answer may be; None if none does."""
        if given.max_completion_tokens or given.max_tokens:
            self._length = "max_completion_tokens" if given.max_completion_tokens else "max_tokens"
        self.config = {
            "max_new_tokens": given.max_completion_tokens or given.max_tokens,
            "temperature": given.temperature,
            "top_p": given.top_p,
            "seed": seed,
            "stop": stop,
        }

    async def named(self, events: Events) -> Events:
        """The events; an error about the answer's length names the client's own field. Raises Problem."""
        async with aclosing(events) as source:
            try:
                async for found in source:
                    yield found
            except Problem as problem:
                if "max_new_tokens" not in problem.detail:
                    raise
                detail = problem.detail.replace("max_new_tokens", self._length or "max_completion_tokens")
                raise Problem(problem.code, detail, param=self._length or "messages") from None

    async def collect(self, events: Events) -> None:
        """Take all answers. Raises Problem."""
        async with aclosing(events) as source:
            async for found in source:
                if found["kind"] == "answer":
                    self._answers[found["choice"]] = found["answer"]

    def whole(self, session: Session) -> dict[str, Any]:
        """The answer to a request that did not ask for a stream."""
        choices = []
        for number in range(self._count):
            answer = self._answer(number)
            message = {"role": "assistant", "content": answer["text"], "refusal": None}
            finish = FINISH[answer["finish_reason"]]
            choices.append({"index": number, "message": message, "logprobs": None, "finish_reason": finish})
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": self._usage(),
            "skingpt": {**self._more(session), "dropped_turns": self._answer(0)["dropped_turns"]},
        }

    async def chunks(self, first: Event, events: Events, session: Session) -> ByteStream:
        """The same as a stream. Raises Problem."""
        async with aclosing(events) as source:
            for number in range(self._count):
                delta = {"role": "assistant", "content": "", "refusal": None}
                yield self._chunk([self._choice(number, delta)], skingpt=self._more(session))
            found: Event | None = first
            while found:
                more = {}
                if found["kind"] == "answer":
                    more = {"skingpt": {"dropped_turns": found["answer"]["dropped_turns"]}}
                for choice in self._delta(found):
                    yield self._chunk([choice], **more)
                found = await anext(source, None)
        if self._usage_wanted:
            yield self._chunk([], usage=self._usage())
        yield b"data: [DONE]\n\n"

    def _delta(self, found: Event) -> list[dict[str, Any]]:
        """What a worker's event adds."""
        if found["kind"] not in ("text", "answer"):
            return []
        numbers = [found["choice"]] if self.sampled > 1 else range(self._count)
        if found["kind"] == "text":
            return [self._choice(number, {"content": found["text"]}) for number in numbers]
        self._answers[found["choice"]] = found["answer"]
        return [self._choice(number, {}, FINISH[found["answer"]["finish_reason"]]) for number in numbers]

    @staticmethod
    def _choice(number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        usage = {"usage": None} if self._usage_wanted else {}
        return _data({**self._head("chat.completion.chunk"), "choices": choices, **usage, **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._name,
            "system_fingerprint": self._about["id"][:16],
        }

    def _answer(self, number: int) -> Event:
        return self._answers[number if self.sampled > 1 else 0]

    def _usage(self) -> dict[str, Any]:
        prompt = self._answer(0)["prompt_tokens"]
        prompts = prompt["evaluated"] + prompt["reused"]
        generated = sum(len(answer["token_ids"]) for answer in self._answers.values())
        return {
            "prompt_tokens": prompts,
            "completion_tokens": generated,
            "total_tokens": prompts + generated,
            "prompt_tokens_details": {"cached_tokens": prompt["reused"]},
        }

    def _more(self, session: Session) -> dict[str, Any]:
        """What OpenAI's form has no place for."""
        return {"notice": self._about["notice"], "image_notes": session.photo.description["notes"]}


async def _accepted(events: Events) -> Event:
    """The first event after the photo was encoded. Raises Problem."""
    async for found in events:
        if found.get("stage") != "vision_encoder":
            return found
    raise Problem("internal_error", "The model's process said nothing.")


def _data(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
