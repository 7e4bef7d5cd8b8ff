"""The server's side of the process that decodes photos, `decode_worker.py`."""

import asyncio
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from .framing import FramingError, Message, pack, receive_async
from .logs import log
from .problems import Problem, worker_problem

AT_ONCE = 2  # photos; each may need a gigabyte
SECONDS = 35  # a little longer than the worker gives itself


@dataclass(frozen=True)
class Photo:
    """A decoded photo as the server passes it on."""

    description: dict[str, Any]
    """What `PreparedPhoto.description` says."""
    pixels: bytes

    @property
    def sha256(self) -> str:
        """Of the file's bytes."""
        return str(self.description["sha256"])


class Decoder:
    """Decodes photos in processes of their own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._free = asyncio.Semaphore(AT_ONCE)
        self._starting = asyncio.Lock()

    async def decode(self, data: bytes, size: int) -> Photo:
        """A JPEG, PNG or WebP file as pixels (size, size, 3). Raises Problem."""
        async with self._free:
            ours, theirs = socket.socketpair()
            with theirs:
                await self._pass(theirs)
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                writer.write(pack(Message({"kind": "decode", "size": size}, data)))
                async with asyncio.timeout(SECONDS):
                    message = await receive_async(reader)
            except (OSError, FramingError, TimeoutError):  # TimeoutError is an OSError, too
                message = None
            finally:
                writer.close()
        if message is None:
            log("decoder_died", level="warning")
            raise Problem("image_decoder_died", "Decoding the photo failed: save it anew as JPEG.")
        if message.kind == "error":
            raise worker_problem(message.header)
        return Photo(message.header["photo"], message.payload)

    async def _pass(self, theirs: socket.socket) -> None:
        """Give the process a socket, on which it decodes one photo; it is started if it does not run."""
        async with self._starting:
            if self._control and self._send(theirs):
                return
            await self.start()
            if not self._send(theirs):
                raise Problem("image_decoder_died", "The photo decoder could not be started.", retry_after=5)

    def _send(self, theirs: socket.socket) -> bool:
        assert self._control
        try:
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        except OSError:
            return False
        return True

    async def start(self) -> None:
        """Start the process, in place of one that has ended."""
        self.close()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.decode_worker"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(60):
                started = await loop.sock_recv(self._control, 1)
        except (OSError, TimeoutError):
            started = b""
        log("decoder_started" if started else "decoder_not_started", pid=self._process.pid)

    def close(self) -> None:
        """End the process; a photo that is being decoded still gets its reply."""
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
