"""Sends hostile picture files, and ends processes while they decode: the server and the model must not notice."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from ...engines.errors import ImageError
from ...runtime.serve.decoder import AT_ONCE
from .mutate_photos import outcome as decoded
from .service_checks import Findings, Say, tally
from .service_client import ANSWERED, NATIVE, OPENAI, Connection, Outcome, ask, at_rest, new_photo, outcome
from .service_hostile_files import FULL, HostileFile, hostile_files, slow_jpeg
from .service_start import RunningService, running

CLIENTS = 3
DIED = "error image_decoder_died"
MOST_GROWTH = 500e6  # bytes of the server while large photos wait
LARGE = 60  # photos
LEFT_SECONDS = 1  # until nothing is decoded any more for clients that have left
PADDING = 19_000_000  # bytes that make a photo's file large


async def run_images(count: int, say: Say) -> Findings:
    """`count` hostile files, and for every ten of them a decoder that is killed."""
    files = hostile_files(count)
    say(f"{count} files made")
    kills = max(count // 10, 2)
    async with running() as service:
        worker = service.worker_pid()
        sent = await _send_all(service, files, say)
        started = len(service.events("decoder_started"))
        died = len(service.events("decoder_died"))
        children = await _kill_children(service, kills, say)
        parents = await _kill_parents(service, kills, say)
        stopped = await _stop_parent(service) if count >= FULL else []
        left = await _leave(service, 10, say)
        growth = await _large_photos(service) if count >= FULL else 0
        last = await outcome(service, NATIVE, ask(service, NATIVE, new_photo(0)))
        same_worker = service.worker_pid() == worker and not service.events("worker_ended")
        ended = service.ended
        log = service.text()
    found = Findings({"hostile files": len(files), "decoders killed": 2 * kills, "clients that left": 10})
    counts = _judge(found, files, sent)
    found.equal("starts of the decoding process by then", started, 1)
    found.none(
        "photos with another end than an answer or image_decoder_died when their decoder is killed", _odd(children)
    )
    found.equal("photos that end so when their own decoder is killed", _hit(children), kills)
    found.none("photos with another end when the process of all decoders is killed", _odd(parents))
    found.none("good photos beside and after a kill without an answer", _good_failed([*children, *parents]))
    found.equal(f"photos that are decoded for clients that have left, after {LEFT_SECONDS} s", left[1], 0)
    found.equal("photos decoded at the same time, at most", left[0] <= AT_ONCE, True)
    if count >= FULL:
        found.none("photos without an answer when the process of all decoders stops", _unanswered(stopped))
        found.most_bytes(f"growth of the server by {LARGE} photos of 19 MB that wait", growth, MOST_GROWTH)
    found.equal("the last good photo is", last.end, ANSWERED)
    found.equal("the model's process is the same", same_worker, True)
    found.equal("the server's process ended", ended, False)
    found.none(
        "errors in the log", (line for line in log.splitlines() if '"level": "error"' in line or "Trace" in line)
    )
    found.more = {**found.more, **counts, "decoders that died by themselves": died}
    return found


async def _send_all(service: RunningService, files: Sequence[HostileFile], say: Say) -> list[Outcome]:
    """How each file ends; every third one goes through OpenAI's API."""
    sent: dict[int, Outcome] = {}
    waiting = list(range(len(files)))

    async def client() -> None:
        while waiting:
            number = waiting.pop(0)
            kind = OPENAI if number % 3 == 2 and len(files[number].data) < 1_000_000 else NATIVE
            sent[number] = await outcome(service, kind, ask(service, kind, files[number].data), seconds=120)
            if len(sent) % 100 == 0:
                say(f"{len(sent)} of {len(files)}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return [sent[number] for number in range(len(files))]


def _judge(found: Findings, files: Sequence[HostileFile], sent: Sequence[Outcome]) -> dict[str, object]:
    """Checks of how the files ended; the counts to show beside."""
    pairs = list(zip(files, sent, strict=True))
    names = {id(done): f"{file.kind}, {file.name}: {done.end}" for file, done in pairs}
    found.none(
        "files without a 4xx and its code, or an answer", (names[id(done)] for _, done in pairs if not _proper(done))
    )
    answered = [(file, done) for file, done in pairs if done.end == ANSWERED]
    bad = [names[id(done)] for file, done in answered if file.original is None and not file.may_be_answered]
    found.none("answers about files that are no picture", bad)
    looks = {id(done): _looks(file) for file, done in answered if file.original is not None}
    found.none(
        "answers about files that the runtime refuses", (names[one] for one, look in looks.items() if look == "refused")
    )
    refused = [(file, done) for file, done in pairs if done.end != ANSWERED and file.kind == "mutated"]
    found.none(
        "mutated files that the runtime reads and the service refuses",
        (names[id(done)] for file, done in refused if _looks(file) != "refused"),
    )
    ends = {kind: dict(Counter(done.end for file, done in pairs if file.kind == kind)) for kind in _kinds(files)}
    return {"ends": ends, "damaged, but answered: against the photo before": tally(looks.values())}


def _kinds(files: Sequence[HostileFile]) -> list[str]:
    return list(dict.fromkeys(file.kind for file in files))


def _proper(done: Outcome) -> bool:
    return done.end == ANSWERED or (done.typed and done.reply is not None and 400 <= done.reply.status < 500)


def _looks(file: HostileFile) -> str:
    """What the runtime makes of a damaged photo in this process: `refused`, or how it looks beside the original."""
    assert file.original is not None
    try:
        return decoded(file.original, file.data)
    except ImageError:  # the original itself is damaged
        return "differs"


Ends = list[tuple[bool, str]]
"""Of each photo, whether its own decoder was hit, and how it ended."""


def _odd(ends: Ends) -> list[str]:
    return [end for _, end in ends if end not in (ANSWERED, DIED)]


def _hit(ends: Ends) -> int:
    return sum(hit and end == DIED for hit, end in ends)


def _unanswered(ends: Ends) -> list[str]:
    return [end for _, end in ends if end != ANSWERED]


def _good_failed(ends: Ends) -> list[str]:
    return [end for hit, end in ends if not hit and end != ANSWERED]


async def _slow(service: RunningService) -> asyncio.Task[Outcome]:
    """A photo whose decoding has begun."""
    running_before = set(service.decoding_pids())
    task = asyncio.create_task(outcome(service, NATIVE, ask(service, NATIVE, slow_jpeg()), seconds=120))
    await service.until(lambda: bool(set(service.decoding_pids()) - running_before), 30, 0.01)
    return task


async def _good(service: RunningService, number: int) -> str:
    return (await outcome(service, NATIVE, ask(service, NATIVE, new_photo(number)))).end


async def _kill_children(service: RunningService, count: int, say: Say) -> Ends:
    """Kill the process that decodes a photo, while another photo is decoded beside it.

    So often that `count` photos end of it: on a busy machine a kill may come just after the photo is decoded.
    """
    ends: Ends = []
    for number in range(3 * count):
        if _hit(ends) == count:
            break
        slow = await _slow(service)
        (child,) = service.decoding_pids()
        beside = asyncio.create_task(_good(service, number))
        await asyncio.sleep(0.02 * (number % 10))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        ends += [(True, (await slow).end), (False, await beside), (False, await _good(service, number))]
    say(f"{count} decoding children killed")
    return ends


async def _kill_parents(service: RunningService, count: int, say: Say) -> Ends:
    """Kill the process that makes the decoders, while a photo is decoded and another one comes."""
    ends: Ends = []
    for number in range(count):
        slow = await _slow(service) if number % 5 == 0 else None
        beside = asyncio.create_task(_good(service, number))
        await asyncio.sleep(0.01 * (number % 10))
        os.kill(service.decoder_pid(), signal.SIGKILL)
        ends += [(True, await beside), (False, await _good(service, number))]
        if slow:
            ends.append((True, (await slow).end))
    say(f"{count} decoding processes killed")
    return ends


async def _stop_parent(service: RunningService) -> Ends:
    """Stop that process for ever: it is replaced when it has not begun with a photo for a while."""
    os.kill(service.decoder_pid(), signal.SIGSTOP)
    return [(True, await _good(service, 1)), (False, await _good(service, 2))]


async def _leave(service: RunningService, count: int, say: Say) -> tuple[int, int]:
    """Clients leave while their photo is decoded: the most decoders at the same time, and how many are left."""
    data, most = ask(service, NATIVE, slow_jpeg()), 0
    for _ in range(count):
        connection = await Connection.open(service)
        before = set(service.decoding_pids())
        await connection.send(data)
        await service.until(lambda before=before: bool(set(service.decoding_pids()) - before), 10, 0.005)  # type: ignore[misc]
        # One whose client has left still has to end, which takes a moment where the machine is busy.
        await service.until(lambda: len(service.decoding_pids()) <= AT_ONCE, LEFT_SECONDS)
        most = max(most, len(service.decoding_pids()))
        connection.close()
    await service.until(lambda: not service.decoding_pids(), LEFT_SECONDS)
    say(f"{count} clients left")
    return most, len(service.decoding_pids())


async def _large_photos(service: RunningService) -> int:
    """Bytes by which the server grows when many large photos wait for a decoder."""
    data, before = ask(service, NATIVE, slow_jpeg() + bytes(PADDING)), service.levels()["server"].rss
    tasks, most = [], 0
    for _ in range(LARGE):  # not all at once: what is being received has a limit of its own
        tasks.append(asyncio.create_task(outcome(service, NATIVE, data)))
        await asyncio.sleep(0.1)
        most = max(most, service.levels()["server"].rss)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await at_rest(service)
    return most - before
