"""The process that decodes photos: a new child of it for each photo.

It has loaded the decoders, but has never seen a photo. For each photo the server passes it a socket; it makes a child
by `fork`, and the child says `begun`, decodes this one photo under limits of memory and time, replies on the socket and
ends. So a photo that kills its decoder, or takes it over, meets no other patient's photo.
"""

import fcntl
import os
import resource
import signal
import socket
import sys
from typing import Any, NoReturn

from ...engines.errors import ImageError
from ..prepared_photo import prepare_photo
from .child import begin
from .framing import receive, send

MEMORY = 3 << 30  # bytes of address space; 64 megapixels with a colour profile and transparency need 1 GB
CPU_SECONDS, SECONDS = 20, 30
NAME = "the photo"


def main() -> None:
    control = begin()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    control.sendall(b"+")
    while True:
        data, passed, *_ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            _decode(socket.socket(fileno=passed[0]))
        os.close(passed[0])


def _decode(channel: socket.socket) -> NoReturn:
    """Read one photo from the channel, reply, and end this process."""
    try:
        _limit()
        send(channel, "begun")
        message = receive(channel)
        if message and _end_with(channel):
            _reply(channel, message.payload, message.header["size"])
    except OSError:  # the server has given this photo up
        pass
    finally:
        os._exit(0)


def _limit() -> None:
    signal.alarm(SECONDS)  # ends the process
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _end_with(channel: socket.socket) -> bool:
    """Let the system end this process when the server closes its end, because nobody waits for the photo any more.

    False if it has done so already.
    """
    if sys.platform == "linux":
        fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(channel, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO, which nothing here handles
    try:
        return bool(channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True


def _reply(channel: socket.socket, data: bytes, size: int) -> None:
    kind, payload, fields = _outcome(data, size)
    fcntl.fcntl(channel, fcntl.F_SETFL, 0)  # sending would end this process, too
    send(channel, kind, payload, **fields)


def _outcome(data: bytes, size: int) -> tuple[str, bytes, dict[str, Any]]:
    """Kind, payload and fields of the reply."""
    try:
        photo = prepare_photo(data, NAME, size)
    except ImageError as error:
        return "error", b"", {"code": "image_unusable", "detail": str(error)}
    except MemoryError:
        return "error", b"", {"code": "image_unusable", "detail": f"{NAME}: decoding it takes too much memory"}
    return "photo", photo.pixels.tobytes(), {"photo": photo.description()}


if __name__ == "__main__":
    main()
