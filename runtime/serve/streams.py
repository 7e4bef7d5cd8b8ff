"""Server-sent events, and requests whose client may go away."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from .problems import Problem
from .settings import HEARTBEAT_SECONDS

Result = TypeVar("Result")
ByteStream = AsyncGenerator[bytes, None]
GONE = 499  # in the log and the metrics: the client went away
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(name: str, data: dict[str, Any]) -> bytes:
    """One event; its data are one line of JSON."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def event_stream(
    request: Request, events: ByteStream, headers: dict[str, str], as_event: Callable[[Problem], bytes]
) -> StreamingResponse:
    """A response that sends events, and a comment whenever nothing happened for a while.

    When the client goes away, the iterator is closed. A Problem ends the stream with an event, and with its status and
    code in `request.state`, because the response's own status was sent long before.
    """
    content = _alive(_ended(request, events, as_event))
    return StreamingResponse(content, media_type="text/event-stream", headers={**HEADERS, **headers})


async def _ended(request: Request, events: ByteStream, as_event: Callable[[Problem], bytes]) -> ByteStream:
    """The events, with their end noted."""
    async with aclosing(events) as source:
        try:
            async for one in source:
                yield one
        except Problem as problem:
            request.state.ended = (problem.status, problem.code)
            yield as_event(problem)
        except (GeneratorExit, asyncio.CancelledError):
            request.state.ended = (GONE, None)
            raise


async def _alive(events: ByteStream) -> ByteStream:
    async with aclosing(events) as source:
        following = asyncio.ensure_future(anext(source))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS)
                if not done:
                    yield b": still working\n\n"
                    continue
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = asyncio.ensure_future(anext(source))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is cancelled if the client goes away. Raises ClientDisconnect then.

    The request's body must have been read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
