"""Messages between the server and its worker processes, over a socket pair.

A message is a header and a payload:

    4 bytes   length of the header, unsigned, little-endian
    4 bytes   length of the payload, unsigned, little-endian
    header    a JSON object in UTF-8; its `kind` says what the message is
    payload   bytes, for instance a photo's file or its pixels; often empty

No message is ever unpickled: a worker that was taken over can send wrong data, but no code.
"""

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

LENGTHS = struct.Struct("<II")
MAX_HEADER, MAX_PAYLOAD = 16 << 20, 64 << 20  # bytes


class FramingError(Exception):
    """What came over the socket is not a message."""


@dataclass(frozen=True)
class Message:
    header: dict[str, Any]
    payload: bytes = b""

    @property
    def kind(self) -> str:
        return str(self.header["kind"])


def pack(message: Message) -> bytes:
    """A message as it goes over the socket."""
    header = json.dumps(message.header).encode()
    return LENGTHS.pack(len(header), len(message.payload)) + header + message.payload


def send(channel: socket.socket, kind: str, payload: bytes = b"", **fields: Any) -> None:
    """Raises OSError if the other side has gone."""
    channel.sendall(pack(Message({"kind": kind, **fields}, payload)))


def receive(channel: socket.socket) -> Message | None:
    """The next message; None at the end. Raises FramingError, OSError."""
    lengths = _exactly(channel, LENGTHS.size)
    if not lengths:
        return None
    header, payload = _sizes(lengths)
    return _message(_exactly(channel, header), _exactly(channel, payload), header, payload)


async def receive_async(reader: asyncio.StreamReader) -> Message | None:
    """As `receive`."""
    try:
        header, payload = _sizes(await reader.readexactly(LENGTHS.size))
        return _message(await reader.readexactly(header), await reader.readexactly(payload), header, payload)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FramingError("the connection ended inside a message") from None
        return None


def _exactly(channel: socket.socket, count: int) -> bytes:
    """As many bytes, or fewer at the end."""
    data = bytearray()
    while len(data) < count and (part := channel.recv(min(count - len(data), 1 << 20))):
        data += part
    return bytes(data)


def _sizes(lengths: bytes) -> tuple[int, int]:
    if len(lengths) < LENGTHS.size:
        raise FramingError("the connection ended inside a message")
    header, payload = LENGTHS.unpack(lengths)
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise FramingError(f"a message of {header} + {payload} bytes, more than {MAX_HEADER} + {MAX_PAYLOAD}")
    return header, payload


def _message(header: bytes, payload: bytes, header_size: int, payload_size: int) -> Message:
    if (len(header), len(payload)) != (header_size, payload_size):
        raise FramingError("the connection ended inside a message")
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise FramingError("a message's header is not a JSON object with a kind")
    return Message(fields, payload)
