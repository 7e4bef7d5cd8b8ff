"""The messages between the server and its worker processes."""

import asyncio
import socket

import pytest
from skingpt_edge.runtime.serve.framing import (
    LENGTHS,
    MAX_HEADER,
    FramingError,
    Message,
    pack,
    receive,
    receive_async,
    send,
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_async(data: bytes) -> Message | None:
    async def read() -> Message | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await receive_async(reader)

    return asyncio.run(read())


def read_blocking(pair, data: bytes) -> Message | None:
    ours, theirs = pair
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)
    return receive(theirs)


MESSAGES = [
    Message({"kind": "a"}),
    Message({"kind": "b", "text": "ü\n\0"}, b"\0" * 10),
    Message({"kind": "c"}, b"x" * 99_999),
]


@pytest.mark.parametrize("message", MESSAGES, ids=["empty", "text", "large"])
def test_a_message_arrives_as_it_was_sent(pair, message):
    assert read_async(pack(message)) == message
    assert read_blocking(pair, pack(message)) == message


def test_messages_follow_one_another(pair):
    ours, theirs = pair
    send(ours, "first", b"1", number=1)
    send(ours, "second")
    assert receive(theirs) == Message({"kind": "first", "number": 1}, b"1")
    assert receive(theirs) == Message({"kind": "second"})
    ours.close()
    assert receive(theirs) is None


BROKEN = {
    "lengths cut": b"\1\0\0",
    "header cut": pack(MESSAGES[0])[:-1],
    "payload cut": pack(MESSAGES[1])[:-1],
    "header too long": LENGTHS.pack(MAX_HEADER + 1, 0),
    "payload too long": LENGTHS.pack(2, 2**32 - 1),
    "no JSON": LENGTHS.pack(4, 0) + b"\x80\x04N.",
    "no object": LENGTHS.pack(2, 0) + b"[]",
    "no kind": LENGTHS.pack(2, 0) + b"{}",
    "kind of another type": LENGTHS.pack(10, 0) + b'{"kind":1}',
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_message_is_refused(pair, data):
    with pytest.raises(FramingError):
        read_async(data)
    with pytest.raises(FramingError):
        read_blocking(pair, data)


def test_the_end_between_messages_is_none(pair):
    assert read_async(b"") is None
    assert read_blocking(pair, b"") is None
