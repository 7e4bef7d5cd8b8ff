"""uvicorn's HTTP protocol with the time limits that it lacks: for headers, and for a client that does not read.

It also answers what is no HTTP request in our own form.
"""

import asyncio
import resource
import secrets
import sys
from functools import cache
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .logs import log
from .problems import Problem, error_response
from .settings import HEADER_SECONDS, MAX_CONNECTIONS, MAX_HEADERS, STALL_SECONDS

LINGER_SECONDS = 5  # that the rest of a refused body is taken and thrown away


FILES = 4096  # open files of this process that are asked for; the usual limit is 1,024, and 256 on macOS
OTHER_FILES = 512  # for connections that are accepted and closed at once, and for the workers
LEAST_CONNECTIONS = 16


@cache
def most_connections() -> int:
    """How many are held at the same time. Without open files left, no worker that ends could be started again."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return max(min(MAX_CONNECTIONS, files - OTHER_FILES), LEAST_CONNECTIONS)


class LimitedProtocol(H11Protocol):
    """One connection. The time of a body is limited where it is read, in `bodies.py`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Any byte that waits for the client starts the clock. Otherwise a closed connection, too, would wait for it.
        transport.set_write_buffer_limits(high=0)
        self.transport = cast(asyncio.Transport, Lingering(transport, self))
        if len(self.connections) > most_connections():
            transport.abort()
            return
        self._watch_request()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch_request()

    def body_expected(self) -> bool:
        """Whether the client is still sending a request, or what it takes for one."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _watch_request(self) -> None:
        """The clock runs from the first moment at which a request is expected until its headers are complete."""
        if not self._request_expected():
            self._stop_request_timer()
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _request_expected(self) -> bool:
        """Also while the rest of a body comes whose request has been answered: nobody reads that with a time limit."""
        theirs = self.conn.their_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_request_timer()  # the keep-alive timer runs until the next request begins
        if self.conn.their_state is h11.SEND_BODY:
            self._watch_request()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what h11 refuses; called while its error is handled."""
        hint = getattr(sys.exception(), "error_status_hint", 400)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # an answer has begun: this one would be taken for a part of it
            return
        too_large = Problem("headers_too_large", f"The headers are larger than {MAX_HEADERS // 1024} KiB.")
        problem = too_large if hint == 431 else Problem("request_malformed", "This is no HTTP/1.1 request.")
        request_id = secrets.token_hex(8)
        status, headers, body = error_response(problem, "", request_id)
        headers |= {"content-length": str(len(body)), "x-request-id": request_id, "x-content-type-options": "nosniff"}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        for event in (h11.Response(status_code=status, headers=encoded), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        log("request", level="warning", request_id=request_id, status=status, code=problem.code)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self._stall_timer or self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_request_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def _stop_request_timer(self) -> None:
        if self._request_timer:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None


class Lingering:
    """A transport that is closed only when the client has sent the rest of its request, or after a while.

    A client that sends a large photo would otherwise learn that the connection was reset, and not why it was refused:
    its system throws away an answer that it has not read (RFC 9112, section 9.6).
    """

    def __init__(self, transport: asyncio.Transport, protocol: LimitedProtocol) -> None:
        self._transport, self._protocol = transport, protocol
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self._closing or self._transport.is_closing() or not self._protocol.body_expected():
            self._transport.close()
            return
        self._closing = True
        self._transport.write_eof()
        self._protocol.flow.resume_reading()
        self._protocol.loop.call_later(LINGER_SECONDS, self._transport.abort)
