"""The service survives: the parts of `service_faults` with small counts, and single faults of connections."""

import asyncio
import json
import os
import signal

import pytest
from skingpt_edge.benchmarks.tools import service_client, service_images, service_kills, service_slow
from skingpt_edge.benchmarks.tools.service_client import (
    ANSWERED,
    NATIVE,
    Connection,
    ask,
    fetch,
    new_photo,
    outcome,
    request,
)
from skingpt_edge.benchmarks.tools.service_disconnects import run_disconnects
from skingpt_edge.benchmarks.tools.service_images import run_images
from skingpt_edge.benchmarks.tools.service_kills import run_hangs, run_kills
from skingpt_edge.benchmarks.tools.service_memory import MOST_GROWTH, MOST_SLOPE, memory_growth, run_memory
from skingpt_edge.benchmarks.tools.service_slow import run_slow
from skingpt_edge.benchmarks.tools.service_start import RunningService, running

SHORT = {"HEADER_SECONDS": 1.0, "BODY_SECONDS": 2.0, "STALL_SECONDS": 2.0, "KEEP_ALIVE_SECONDS": 1.0}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service for tests that leave it as it was."""
    yield from started(tmp_path_factory)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """The same with short time limits."""
    yield from started(tmp_path_factory, limits=SHORT)


def started(tmp_path_factory, **options):
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        opened = running(**options)
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """Whatever only ends what hangs takes longer than a busy machine with two cores may need."""
    monkeypatch.setattr(service_client, "SECONDS", 300)
    monkeypatch.setattr(RunningService, "rest_seconds", 25)  # a client that does not read is left alone after 30
    monkeypatch.setattr(service_images, "LEFT_SECONDS", 2)  # decoding these photos takes longer
    monkeypatch.setattr(service_kills, "HANG_SECONDS", 8.0)
    monkeypatch.setattr(service_slow, "GRACE", 30.0)


def check(findings):
    """Everything is as it must be, apart from how fast this machine is."""
    assert not [one for one in findings.checks if not one.met and not one.timing], findings


@pytest.mark.parametrize(
    ("part", "count"), [(run_kills, 5), (run_hangs, 1), (run_disconnects, 30), (run_images, 20), (run_memory, 24)]
)
def test_a_part_with_a_small_count(part, count):
    check(asyncio.run(part(count, print)))


def test_slow_clients_and_clients_that_do_not_read():
    check(asyncio.run(run_slow(3, print, limits=SHORT, reports=8)))


def test_the_end_of_an_answer_that_is_not_read_does_not_hold_a_connection(impatient):
    """Even if it is so short that the application has nothing to wait for, and closes the connection."""

    async def all_closed():
        connections = [await Connection.open(impatient, small=True) for _ in range(8)]
        for number, connection in enumerate(connections):  # one of them has the end in the server's own buffer
            await connection.send(request(impatient, "GET", "/healthz") * (250 + 50 * number))
        ports = {connection.port for connection in connections}
        closed = await impatient.until(lambda: not ports & impatient.held(), 60)
        for connection in connections:
            connection.close()
        return closed

    assert asyncio.run(all_closed())


def test_a_large_photo_that_is_refused_is_told_why(service):
    """And not only that its connection was reset: many clients send all of it before they read anything."""
    photo = bytes(25_000_000)
    for status, code, options in (
        (413, "body_too_large", {"content_type": "image/jpeg"}),
        (401, "token_wrong", {"content_type": "image/jpeg", "token": "wrong"}),
        (415, "content_type_wrong", {"content_type": "text/html"}),
    ):
        found, _, body = service.request("POST", "/v1/reports", photo, **options)
        assert (found, json.loads(body)["code"]) == (status, code)


def test_what_is_no_http_request_is_answered_with_a_code(shared):
    requests = {
        # A browser that speaks TLS, and a client that speaks HTTP/2.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": (400, "request_malformed"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": (421, "host_not_allowed"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n": (400, "request_malformed"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40_000: (431, "headers_too_large"),
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": (400, "request_malformed"),
    }

    async def answers():
        return [await fetch(shared, data) for data in requests]

    found = asyncio.run(answers())
    assert [(one.status, one.json()["code"]) for one in found] == list(requests.values())
    assert all(one.headers["content-type"] == "application/problem+json" for one in found)


def test_a_body_that_nobody_wants_does_not_hold_a_connection(impatient):
    """The answer does not wait for it, so no other time limit sees it."""

    async def closed():
        connection = await Connection.open(impatient)
        head = request(impatient, "GET", "/healthz", b"a", "X-Waits: no")
        await connection.send(head.replace(b"Content-Length: 1", b"Content-Length: 1000000"))
        for _ in range(600):
            try:
                await connection.send(b"a")
            except OSError:
                return True
            await asyncio.sleep(0.1)
        connection.close()
        return False

    assert asyncio.run(closed())


def test_a_photo_of_a_client_that_left_is_not_decoded_on(shared):
    """Counted in `run_images`; here one that reset its connection before the decoder had all of the photo."""

    async def left():
        for _ in range(10):
            connection = await Connection.open(shared)
            await connection.send(ask(shared, NATIVE, new_photo(1) + bytes(15_000_000)))
            connection.close(reset=True)
        return await shared.until(lambda: not shared.decoding_pids(), 20)

    assert asyncio.run(left())


def test_a_photo_that_its_decoding_process_has_not_begun_with_is_given_to_the_next_one(shared):
    async def end():
        before = len(shared.events("decoder_started"))
        os.kill(shared.decoder_pid(), signal.SIGSTOP)
        asked = asyncio.create_task(outcome(shared, NATIVE, ask(shared, NATIVE, new_photo(1))))
        await asyncio.sleep(0.5)
        os.kill(shared.decoder_pid(), signal.SIGKILL)
        return (await asked).end, len(shared.events("decoder_started")) - before

    assert asyncio.run(end()) == (ANSWERED, 1)


def test_more_connections_than_open_files_do_not_keep_the_model_from_starting_again():
    async def end():
        async with running(files=200) as service:
            connections = [await Connection.open(service) for _ in range(250)]
            os.kill(service.worker_pid(), signal.SIGKILL)
            ready = await service.until(lambda: len(service.events("worker_ready")) == 2, 120)
            for connection in connections:
                connection.close()
            await service.until(lambda: not service.held(), 60)
            return ready, (await outcome(service, NATIVE, ask(service, NATIVE, new_photo(1)))).end

    assert asyncio.run(end()) == (True, ANSWERED)


def test_photos_that_wait_for_a_decoder_are_limited(shared):
    """In number, as questions are: each may have 20 MB."""

    async def codes():
        os.kill(shared.decoder_pid(), signal.SIGSTOP)
        data = ask(shared, NATIVE, new_photo(1))
        tasks = [asyncio.create_task(fetch(shared, data)) for _ in range(20)]
        await shared.until(lambda: sum(task.done() for task in tasks) >= 8, 60)
        done = [task for task in tasks if task.done()]
        waiting = [task for task in tasks if not task.done()]
        os.kill(shared.decoder_pid(), signal.SIGCONT)
        rest = await asyncio.gather(*waiting)
        return [json.loads(task.result().body)["code"] for task in done], [one.status for one in rest]

    refused, rest = asyncio.run(codes())
    assert set(refused) == {"queue_full"}
    assert len(rest) == 12
    assert set(rest) == {200}


def test_growth_is_told_from_warming_up():
    """Memory that grows at first is flat afterwards; memory that grows by 10 kB a request is not."""
    flat = [{"requests": n, "server": 50e6 + min(n, 300) * 1e5} for n in range(20, 2001, 20)]
    growing = [{"requests": n, "server": 50e6 + n * 1e4} for n in range(20, 2001, 20)]
    assert max(map(abs, memory_growth(flat, "server", 400))) < 1
    slope, total = memory_growth(growing, "server", 400)
    assert slope == pytest.approx(MOST_SLOPE * 2)
    assert total > MOST_GROWTH
