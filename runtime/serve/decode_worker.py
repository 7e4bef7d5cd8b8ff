"""The process that decodes photos: a new child of it for each photo.

It has loaded the decoders, but has never seen a photo. For each photo the server passes it a socket; it makes a child
by `fork`, and the child decodes this one photo under limits of memory and time, replies on the socket and ends. So a
photo that kills its decoder, or takes it over, meets no other patient's photo.
"""

import os
import resource
import signal
import socket
from typing import NoReturn

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
        if message := receive(channel):
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


def _reply(channel: socket.socket, data: bytes, size: int) -> None:
    try:
        photo = prepare_photo(data, NAME, size)
    except ImageError as error:
        send(channel, "error", code="image_unusable", detail=str(error))
    except MemoryError:
        send(channel, "error", code="image_unusable", detail=f"{NAME}: decoding it takes too much memory")
    else:
        send(channel, "photo", photo.pixels.tobytes(), photo=photo.description())


if __name__ == "__main__":
    main()
