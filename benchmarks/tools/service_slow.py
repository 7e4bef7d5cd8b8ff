"""Clients that send slowly, or do not read, beside good ones: what these notice, and when bad ones are closed."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.serve import settings
from ..measure.statistics import percentile
from .service_checks import Findings, Say, tally
from .service_client import (
    ANSWERED,
    NATIVE,
    OPENAI_STREAM,
    Connection,
    Outcome,
    ask,
    at_rest,
    new_photo,
    outcome,
    request,
)
from .service_start import RunningService, as_json, running

LIMITS = {name: float(getattr(settings, name)) for name in ("HEADER_SECONDS", "BODY_SECONDS", "STALL_SECONDS")}
GOOD_CLIENTS = 2
SLOW_FOR_ONE = 4  # slow clients of each kind for one that does not read
GRACE = 2.0  # seconds beyond a limit
LEAST_ANSWERS = 250  # of a third of a kilobyte; the system takes about 100 kilobytes that are not read
MOST_SLOWER = 2.0  # times
MOST_GROWTH = 100e6  # bytes of the server while it holds all bad connections


@dataclass
class Bad:
    """A bad client's connection."""

    kind: str
    port: int
    begun: float
    limit: float
    """Seconds after which the server must have closed it."""
    closed: float | None = None
    status: int = 0

    @property
    def overdue(self) -> float:
        """The moment after which it is not waited for any more."""
        return self.begun + self.limit + 2 * GRACE


async def run_slow(count: int, say: Say, limits: Mapping[str, float] = LIMITS, reports: int = 80) -> Findings:
    """`count` clients that do not read, and four times as many with slow headers, and with slow bodies."""
    async with running(limits=limits) as service:
        crowd = Crowd(service, limits)
        await _good_clients(service, GOOD_CLIENTS, 0)  # everything has been used once
        idle = await _good_clients(service, reports, 100)
        before = service.levels()
        say(f"{reports} reports without bad clients; now {count * (1 + 2 * SLOW_FOR_ONE)} of those")
        crowd.start("slow body", crowd.slow_body, count * SLOW_FOR_ONE)
        await crowd.start_silent(count)
        crowd.start("slow headers", crowd.slow_headers, count * SLOW_FOR_ONE)
        await asyncio.sleep(0.5)
        held = [len(service.held())]
        busy = await _good_clients(service, reports, 1000)
        crowd.renew = False
        held.append(len(service.held()))
        during = service.levels()
        say("reports beside bad clients are done; waiting for the rest to be closed")
        await crowd.finish()
        rested = await at_rest(service)
        same = await service.until(lambda: service.levels()["server"].same_as(before["server"]), service.rest_seconds)
        after = service.levels()
    found = Findings({kind: len(crowd.of(kind)) for kind in ("slow headers", "slow body", "not reading")})
    found.none("good requests without an answer", (one for one in [*idle, *busy] if one.end != ANSWERED))
    found.none("bad connections that are still open", (one for one in crowd.all if one.closed is None))
    found.equal("slow bodies are answered with", {one.status for one in crowd.of("slow body")}, {408})
    found.equal("no request is left", rested, True)
    found.equal("descriptors and threads of the server as before", same, True)
    slower = _p95(busy) / _p95(idle)
    found.most("95th percentile of good reports, against without bad clients", slower, MOST_SLOWER, "×")
    for kind in ("slow headers", "slow body", "not reading"):
        late = max((one.closed or time.monotonic()) - one.begun - one.limit for one in crowd.of(kind))
        found.most(f"{kind}: closed after its limit by at most", late, GRACE)
    growth = max(during["server"].rss, after["server"].rss) - before["server"].rss
    found.most_bytes("growth of the server's memory", growth, MOST_GROWTH)
    found.more = {
        **found.more,
        "limits in seconds": dict(limits),
        "bad connections held at the begin and end of the good reports": held,
        "p50 and p95 in seconds without bad clients": [_p50(idle), _p95(idle)],
        "p50 and p95 in seconds beside them": [_p50(busy), _p95(busy)],
        "statuses": {kind: tally(str(one.status) for one in crowd.of(kind)) for kind in found.counts},
        "before": as_json(before),
        "during": as_json(during),
        "after": as_json(after),
    }
    return found


def _p50(outcomes: list[Outcome]) -> float:
    return round(percentile([one.seconds for one in outcomes], 50), 4)


def _p95(outcomes: list[Outcome]) -> float:
    return round(percentile([one.seconds for one in outcomes], 95), 4)


async def _good_clients(service: RunningService, reports: int, first: int) -> list[Outcome]:
    """This many reports, each about a new photo, by clients that take turns with themselves."""
    photos = [new_photo(first + number) for number in range(reports)]
    done: list[Outcome] = []

    async def client() -> None:
        while photos:
            done.append(await outcome(service, NATIVE, ask(service, NATIVE, photos.pop())))

    await asyncio.gather(*(client() for _ in range(GOOD_CLIENTS)))
    return done


class Crowd:
    """All bad clients."""

    def __init__(self, service: RunningService, limits: Mapping[str, float]) -> None:
        self._service, self._limits = service, limits
        self._tasks: list[asyncio.Task[None]] = []
        self._silent: list[tuple[Bad, Connection]] = []
        self.all: list[Bad] = []
        self.renew = True
        """Slow headers are sent again when the server has closed their connection."""

    def of(self, kind: str) -> list[Bad]:
        return [one for one in self.all if one.kind == kind]

    def start(self, kind: str, client: Callable[[str], Coroutine[Any, Any, None]], count: int) -> None:
        self._tasks += [asyncio.create_task(client(kind)) for _ in range(count)]

    def _add(self, kind: str, connection: Connection, limit: str) -> Bad:
        bad = Bad(kind, connection.port, time.monotonic(), self._limits[limit])
        self.all.append(bad)
        return bad

    async def slow_headers(self, kind: str) -> None:
        """A byte of the headers a second."""
        going = True
        while going:
            connection = await Connection.open(self._service)
            bad = self._add(kind, connection, "HEADER_SECONDS")
            await self._drip(bad, connection, b"GET /healthz HTTP/1.1\r\nX-Slow: ", 1.0)
            going = self.renew

    async def slow_body(self, kind: str) -> None:
        """The headers at once, then a byte of the photo every two seconds."""
        connection = await Connection.open(self._service)
        bad = self._add(kind, connection, "BODY_SECONDS")
        head = request(self._service, "POST", "/v1/reports", b"", "Content-Type: image/jpeg")
        await self._drip(bad, connection, head.replace(b"Content-Length: 0", b"Content-Length: 1000000"), 2.0)

    async def _drip(self, bad: Bad, connection: Connection, begin: bytes, pause: float) -> None:
        connection.expect_answer()
        reading = asyncio.create_task(connection.reply())
        try:
            await connection.send(begin)
            while not reading.done() and time.monotonic() < bad.overdue:
                await connection.send(b"a")
                await asyncio.wait({reading}, timeout=pause)
        except OSError:
            pass
        if time.monotonic() < bad.overdue:
            bad.status = (await reading).status
            bad.closed = time.monotonic()
        reading.cancel()
        connection.close()

    async def start_silent(self, count: int) -> None:
        """Clients that do not read: every other one has asked for a stream, and the rest for many small answers.

        Of these, some are so few that their end fits into the server's buffer: the application does not wait for it.
        One after the other, so that the streams do not wait for each other: they are to be stuck, not in the queue.
        """
        for number in range(count):
            connection = await Connection.open(self._service, small=True)
            if number % 2:
                data = ask(self._service, OPENAI_STREAM, new_photo(number), n=8, temperature=1, seed=number)
            else:
                data = request(self._service, "GET", "/healthz") * (LEAST_ANSWERS + 150 * (number % 6))
            await connection.send(data)
            self._silent.append((self._add("not reading", connection, "STALL_SECONDS"), connection))
            if number % 2:
                await asyncio.sleep(0.05)
                await at_rest(self._service)
        self._tasks.append(asyncio.create_task(self._watch_silent()))

    async def _watch_silent(self) -> None:
        """Note when the server closes a connection whose client would not notice."""
        while any(bad.closed is None and time.monotonic() < bad.overdue for bad, _ in self._silent):
            held = self._service.held()
            for bad, _ in self._silent:
                if bad.closed is None and bad.port not in held:
                    bad.closed = time.monotonic()
            await asyncio.sleep(0.25)

    async def finish(self) -> None:
        """Wait until every bad connection is closed, or is overdue."""
        await asyncio.gather(*self._tasks)
        for _, connection in self._silent:
            connection.close()
