"""Reads the body of a request into memory, with limits of size and time. Nothing is put into a file."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from .problems import Problem
from .settings import BODY_SECONDS, MAX_BODIES


class Bodies:
    """All bodies that are being received, and photos that wait for a decoder."""

    def __init__(self) -> None:
        self._held = 0
        self._stopped = False
        self._limits: set[asyncio.Timeout] = set()

    def stop(self) -> None:
        """Those that have not arrived are not waited for: `read` raises Problem."""
        self._stopped = True
        for limit in self._limits:
            limit.reschedule(0)

    async def read(self, request: Request, limit: int, types: set[str]) -> bytes:
        """A body of one of these content types of at most `limit` bytes. Raises Problem, ClientDisconnect."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in types or len(request.headers.getlist("content-type")) != 1:
            raise Problem("content_type_wrong", f"The Content-Type must be {' or '.join(sorted(types))}.")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Problem("content_type_wrong", "A Content-Encoding is not supported: send the body as it is.")
        if int(request.headers.get("content-length", 0)) > limit:
            raise _too_large(limit)
        body, limit_of_time = bytearray(), asyncio.timeout(0 if self._stopped else BODY_SECONDS)
        with self._counted(body, limit_of_time):
            try:
                async with limit_of_time:
                    async for part in request.stream():
                        body += part
                        self._held += len(part)
                        if len(body) > limit:
                            raise _too_large(limit)
                        if self._held > MAX_BODIES:
                            raise Problem("memory_full", "Too much is being uploaded at the same time.", retry_after=5)
            except TimeoutError:
                if self._stopped:
                    raise Problem("shutting_down", "The service is being stopped.", retry_after=30) from None
                raise Problem("body_too_slow", f"The body did not arrive within {BODY_SECONDS} seconds.") from None
        return bytes(body)

    @contextmanager
    def waiting(self, data: bytes) -> Iterator[None]:
        """While a photo that has arrived waits and is decoded, it leaves less room for others."""
        self._held += len(data)
        try:
            yield
        finally:
            self._held -= len(data)

    @contextmanager
    def _counted(self, body: bytearray, limit_of_time: asyncio.Timeout) -> Iterator[None]:
        self._limits.add(limit_of_time)
        try:
            yield
        finally:
            self._limits.discard(limit_of_time)
            self._held -= len(body)


def _too_large(limit: int) -> Problem:
    return Problem("body_too_large", f"The body is larger than {limit // 1000:,} kB.")
