"""A client of the service that can do anything to a connection, and says how each request ended."""

import asyncio
import base64
import json
import random
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

import h11
from PIL import Image

from ...runtime.bundle import default_bundle
from ...runtime.serve.problems import OPENAI_CODES, STATUS
from .service_start import RunningService

ANSWERED, TRUNCATED, HUNG, UNTYPED = "answered", "truncated", "hung", "error without a code"
NATIVE, NATIVE_STREAM, OPENAI, OPENAI_STREAM = "native", "native, streamed", "OpenAI", "OpenAI, streamed"
KINDS = (NATIVE, NATIVE_STREAM, OPENAI, OPENAI_STREAM)
"""Of requests: which API, and how it answers."""
CODES = {*STATUS, *OPENAI_CODES.values()}
PICTURES = sorted((default_bundle().parent / "pictures").glob("*.jpg"))
SECONDS = 60  # that an answer may take before it counts as hung
SMALL = 2048  # bytes that a client which does not read takes in


@dataclass(frozen=True)
class Reply:
    """What came back for a request."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    """Not so if the connection ended before the answer did."""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Outcome:
    """How a request ended."""

    kind: str
    begun: float
    ended: float
    """Of `time.monotonic`."""
    end: str
    """ANSWERED, `error CODE`, or one of the ends that must not be: TRUNCATED, HUNG, UNTYPED."""
    reply: Reply | None = None

    @property
    def typed(self) -> bool:
        """A whole answer, or an error with a code that the service knows."""
        return self.end == ANSWERED or (self.end.startswith("error ") and self.end != UNTYPED)

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


class Connection:
    """A connection to the service, and what the server has said on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    @classmethod
    async def open(cls, service: RunningService, *, small: bool = False) -> Self:
        """`small`: with little room for what the server sends. Raises OSError."""
        opened = socket.socket()
        try:
            if small:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            opened.setblocking(False)
            await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", service.port))
            return cls(*await asyncio.open_connection(sock=opened, limit=SMALL if small else 1 << 16))
        except BaseException:
            opened.close()
            raise

    @property
    def port(self) -> int:
        """This end's."""
        return int(self._writer.get_extra_info("sockname")[1])

    async def send(self, data: bytes) -> None:
        """Raises OSError."""
        self._writer.write(data)
        await self._writer.drain()

    def expect_answer(self, *, method: bytes = b"GET") -> None:
        """From now on what comes is the answer to a request that was sent whole."""
        self._h11.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"-")]))
        self._h11.send(h11.EndOfMessage())

    async def read(self) -> bool:
        """Take in something more of the answer; False at its end. Raises OSError, h11.RemoteProtocolError."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self._reader.read(1 << 16))
        if isinstance(event, h11.Response):
            self.status = event.status_code
            self.headers = {name.decode().lower(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            self.body += event.data
        return not isinstance(event, h11.EndOfMessage | h11.ConnectionClosed)

    async def reply(self) -> Reply:
        """The rest of the answer."""
        whole = True
        try:
            while await self.read():
                pass
        except (OSError, h11.RemoteProtocolError):
            whole = False
        return Reply(self.status, self.headers, bytes(self.body), whole and bool(self.status))

    async def until_closed(self) -> None:
        """Read and forget, until the server closes the connection."""
        try:
            while await self._reader.read(1 << 16):
                pass
        except OSError:
            pass

    def close(self, *, reset: bool = False) -> None:
        """`reset`: as a program that is killed, with data unread."""
        if reset:
            taken = self._writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def request(service: RunningService, method: str, path: str, body: bytes = b"", *more: str) -> bytes:
    """A request's bytes; `more`: further header lines."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{service.port}",
        f"Authorization: Bearer {service.token}",
        *([f"Content-Length: {len(body)}"] if body or method == "POST" else []),
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(service: RunningService, kind: str, photo: bytes, **fields: Any) -> bytes:
    """A request of one of KINDS about a photo; `fields`: of OpenAI's, beside the usual ones."""
    if kind in (NATIVE, NATIVE_STREAM):
        accept = "application/json" if kind == NATIVE else "text/event-stream"
        return request(service, "POST", "/v1/reports", photo, f"Content-Type: {_type(photo)}", f"Accept: {accept}")
    url = f"data:{_type(photo)};base64,{base64.b64encode(photo).decode()}"
    parts = [{"type": "text", "text": "What can be seen?"}, {"type": "image_url", "image_url": {"url": url}}]
    given = {
        "model": "skingpt-edge-demonstration-drawn-pictures",
        "messages": [{"role": "user", "content": parts}],
        "stream": kind == OPENAI_STREAM,
        **fields,
    }
    return request(
        service, "POST", "/v1/chat/completions", json.dumps(given).encode(), "Content-Type: application/json"
    )


def _type(photo: bytes) -> str:
    return "image/png" if photo[:1] == b"\x89" else "image/webp" if photo[:4] == b"RIFF" else "image/jpeg"


async def fetch(service: RunningService, data: bytes, *, seconds: float | None = None) -> Reply:
    """The answer to one request on a connection of its own. Raises OSError, TimeoutError."""
    async with asyncio.timeout(seconds or SECONDS):
        connection = await Connection.open(service)
        try:
            sending = asyncio.ensure_future(_quietly(connection.send(data)))
            connection.expect_answer()
            reply = await connection.reply()
            await sending
            return reply
        finally:
            connection.close()


async def _quietly(sending: Any) -> None:
    """The server may answer before it has all, and close."""
    with suppress(OSError):
        await sending


async def outcome(service: RunningService, kind: str, data: bytes, *, seconds: float | None = None) -> Outcome:
    """How a request of one of KINDS ends."""
    begun = time.monotonic()
    try:
        reply = await fetch(service, data, seconds=seconds)
    except TimeoutError:
        return Outcome(kind, begun, time.monotonic(), HUNG)
    except OSError:
        return Outcome(kind, begun, time.monotonic(), TRUNCATED)
    return Outcome(kind, begun, time.monotonic(), end_of(kind, reply), reply)


def end_of(kind: str, reply: Reply) -> str:
    """How an answer ends; see `Outcome.end`."""
    if not reply.whole:
        return TRUNCATED
    try:
        if reply.status != 200:
            return _error(reply.json())
        return {NATIVE: _json, OPENAI: _json, NATIVE_STREAM: _events, OPENAI_STREAM: _chunks}[kind](reply)
    except (ValueError, LookupError, TypeError):
        return UNTYPED


def _error(document: Any) -> str:
    """Of a problem document, or of OpenAI's form."""
    code = document["error"]["code"] if "error" in document else document["code"]
    return f"error {code}" if code in CODES else UNTYPED


def _json(reply: Reply) -> str:
    found = reply.json()
    whole = bool(found["turns"]) if "turns" in found else all(one["finish_reason"] for one in found["choices"])
    return ANSWERED if whole else TRUNCATED


def _events(reply: Reply) -> str:
    last = reply.body.decode().rstrip("\n").rpartition("\n\n")[2]
    name, _, data = last.partition("\n")
    if name == "event: report":
        return ANSWERED if json.loads(data.removeprefix("data: "))["turns"] else TRUNCATED
    return _error(json.loads(data.removeprefix("data: "))) if name == "event: error" else TRUNCATED


def _chunks(reply: Reply) -> str:
    blocks = reply.body.decode().rstrip("\n").split("\n\n")
    if blocks[-1] == "data: [DONE]":
        return ANSWERED
    last = json.loads(blocks[-1].removeprefix("data: "))
    return _error(last) if "error" in last else TRUNCATED


def new_photo(number: int) -> bytes:
    """A sample picture with a few pixels changed: no two numbers give the same picture."""
    source = random.Random(number)  # noqa: S311
    with Image.open(BytesIO(PICTURES[number % len(PICTURES)].read_bytes())) as picture:
        for bit in range(24):
            x, y = 8 * (bit % 6), 8 * (bit // 6)
            colour = (255, 255, 255) if number >> bit & 1 else (0, 0, 0)
            picture.paste(colour, (x, y, x + 4, y + 4))
        picture.putpixel((source.randrange(picture.width), source.randrange(picture.height)), (0, 255, 0))
        target = BytesIO()
        picture.save(target, "JPEG", quality=90)
    return target.getvalue()


async def gauge(service: RunningService, name: str) -> float:
    """One of the figures of `/metrics`."""
    text = (await fetch(service, request(service, "GET", "/metrics"))).body.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"skingpt_{name} "))


async def at_rest(service: RunningService) -> bool:
    """Whether no request is answered or waits any more, within some time."""
    end = time.monotonic() + service.rest_seconds
    while await gauge(service, "requests_now"):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True


class Load:
    """Clients that ask one question after the other, until they are told to stop."""

    def __init__(self, service: RunningService, clients: int, photos: Sequence[bytes], kinds: Sequence[str]) -> None:
        self._service, self._photos, self._kinds = service, photos, kinds
        self._number = 0
        self._going = True
        self.outcomes: list[Outcome] = []
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while self._going:
            number, self._number = self._number, self._number + 1
            kind, photo = self._kinds[number % len(self._kinds)], self._photos[number % len(self._photos)]
            done = await outcome(self._service, kind, ask(self._service, kind, photo))
            self.outcomes.append(done)
            if done.end != ANSWERED:
                await asyncio.sleep(0.01)

    async def answered_after(self, moment: float, seconds: float) -> Outcome | None:
        """The first answer to a request that began after a moment; None if there is none in time."""
        end, seen = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for done in self.outcomes[seen:]:
                if done.end == ANSWERED and done.begun >= moment:
                    return done
            seen = len(self.outcomes)
            await asyncio.sleep(0.005)
        return None

    async def stop(self) -> list[Outcome]:
        """All outcomes, after every request has ended."""
        self._going = False
        await asyncio.gather(*self._tasks)
        return self.outcomes
