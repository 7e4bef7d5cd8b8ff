"""Clients that go away at any moment of a request: whether anything of them stays."""

import asyncio
import json
import random

import h11

from .service_checks import Findings, Say, tally
from .service_client import (
    ANSWERED,
    KINDS,
    NATIVE_STREAM,
    OPENAI_STREAM,
    Connection,
    Outcome,
    ask,
    at_rest,
    fetch,
    gauge,
    new_photo,
    outcome,
)
from .service_start import RunningService, as_json, running

CLIENTS = 8  # at the same time: as many as are answered at once, and as many again that wait
SEED = 16
IN_HEADERS, IN_BODY, AT_ONCE, AT_RANDOM, UNREAD = (
    "in the headers", "in the body", "right after the body", "at a random moment", "in a stream that is not read"
)  # fmt: skip
MARKS = {
    "waiting for the vision encoder": b'"image_decode"',
    "in the vision encoder": b'"vision_encoder", "done": 0',
    "waiting for a place in the model": b'"vision_encoder", "done": 1',
    "in the prompt": b'"prompt"',
    "in the text": b"event: text",
}
"""Moments of a streamed report, by what the client has read last."""
MOMENTS = (IN_HEADERS, IN_BODY, AT_ONCE, AT_RANDOM, UNREAD, *MARKS)
AT_THE_SAME_TIME = 12  # reports that the service takes: those answered at once and the queue


async def run_disconnects(count: int, say: Say) -> Findings:
    """`count` clients go away."""
    async with running() as service:
        at_once_before, first = await _answers_at_once(service), await _all_at_once(service)
        usual = sorted(one.seconds for one in first)[len(first) // 2]
        before = service.levels()
        left = await _all_disconnects(service, count, usual, say)
        rested = await at_rest(service)
        conversations = await gauge(service, "conversations")
        same = await service.until(lambda: _same(service, before), service.rest_seconds)
        after = service.levels()
        at_once_after, last = await _answers_at_once(service), await _all_at_once(service)
        log = service.text()
        restarts = len(service.events("worker_restarts"))
    found = Findings({"disconnects": len(left)})
    found.equal("no request is left", rested, True)
    found.equal("answers generated at the same time before and after", (at_once_before, at_once_after), (4, 4))
    found.none("reports afterwards without an answer", (one for one in last if one.end != ANSWERED))
    found.equal("descriptors and threads of all processes as before", same, True)
    found.equal("restarts of the model's process", restarts, 0)
    found.none(
        "errors in the log", (line for line in log.splitlines() if '"level": "error"' in line or "Trace" in line)
    )
    found.more = {
        **found.more,
        "moments": tally(left),
        "conversations afterwards": conversations,
        "before": as_json(before),
        "after": as_json(after),
    }
    return found


async def _all_disconnects(service: RunningService, count: int, usual: float, say: Say) -> list[str]:
    """The moments at which the clients went, or `answered before`."""
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(count)]
    source = random.Random(SEED)  # noqa: S311
    source.shuffle(moments)
    photos, left = [new_photo(number) for number in range(50)], []

    async def client() -> None:
        while moments:
            number = len(moments)
            moment = moments.pop()
            left.append(await _disconnect(service, moment, photos[number % len(photos)], usual, source))
            if len(left) % 100 == 0:
                say(f"{len(left)} of {count}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return left


async def _disconnect(service: RunningService, moment: str, photo: bytes, usual: float, source: random.Random) -> str:
    """Send a request and go away; returns the moment, or `answered before` if the answer was faster."""
    kind = source.choice(KINDS) if moment in (IN_HEADERS, IN_BODY, AT_ONCE, AT_RANDOM) else NATIVE_STREAM
    fields = {}
    if moment == UNREAD:
        kind, fields = OPENAI_STREAM, {"n": 8, "temperature": 1}
    data = ask(service, kind, photo, **fields)
    head = data.index(b"\r\n\r\n") + 4
    connection = await Connection.open(service, small=moment == UNREAD)
    try:
        if moment == IN_HEADERS:
            data = data[: source.randrange(1, head)]
        elif moment == IN_BODY:
            data = data[: source.randrange(head, len(data))]
        await connection.send(data)
        if moment == AT_RANDOM:
            await asyncio.sleep(source.uniform(0, 1.5 * usual))
        elif moment == UNREAD:
            await asyncio.sleep(2 * usual)
        elif moment in MARKS:
            connection.expect_answer()
            while MARKS[moment] not in connection.body:
                if not await connection.read():
                    return "answered before"
    except (OSError, h11.RemoteProtocolError):
        return "closed by the server"
    finally:
        connection.close(reset=source.random() < 0.5)
    return moment


def _same(service: RunningService, before: object) -> bool:
    """Whether no process holds more or fewer descriptors and threads than before."""
    assert isinstance(before, dict)
    now = service.levels()
    return all(one.same_as(before[name]) for name, one in now.items())


async def _answers_at_once(service: RunningService) -> int:
    """How many of eight answers, wanted in one request, are generated at the same time.

    Their pieces come in one stream in the order in which they were generated, so no clock is needed.
    """
    data = ask(service, OPENAI_STREAM, new_photo(5000), n=8, temperature=1, seed=SEED)
    blocks = (await fetch(service, data)).body.decode().split("\n\n")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks if block.startswith("data: {")]
    order = [one["index"] for chunk in chunks for one in chunk["choices"] if one["delta"].get("content")]
    spans = [(order.index(answer), len(order) - order[::-1].index(answer)) for answer in set(order)]
    return max(sum(begun <= place < ended for begun, ended in spans) for place in range(len(order)))


async def _all_at_once(service: RunningService) -> list[Outcome]:
    """How as many reports end as the service takes."""
    photos = [new_photo(5001 + number) for number in range(AT_THE_SAME_TIME)]
    return await asyncio.gather(
        *(outcome(service, NATIVE_STREAM, ask(service, NATIVE_STREAM, photo)) for photo in photos)
    )
