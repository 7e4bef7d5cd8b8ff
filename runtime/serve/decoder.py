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
BEGIN_SECONDS = 10  # until a process for this photo has been made
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
            message = await self._ask(Message({"kind": "decode", "size": size}, data))
        if message is None:
            log("decoder_died", level="warning")
            raise Problem("image_decoder_died", "Decoding the photo failed: save it anew as JPEG.")
        if message.kind == "error":
            raise worker_problem(message.header)
        if message.kind != "photo" or len(message.payload) != 3 * size * size:
            log("decoder_unintelligible", level="error")
            raise Problem("image_decoder_died", "Decoding the photo failed: save it anew as JPEG.")
        return Photo(message.header["photo"], message.payload)

    async def _ask(self, request: Message) -> Message | None:
        """The reply; None if the photo's decoder has died. Raises Problem.

        A process that does not even begin has died or hangs for another reason than this photo, and is replaced.
        """
        for _ in range(2):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                process = await self._pass(theirs)
                theirs.close()
                reader, writer = await asyncio.open_connection(sock=ours)
                try:
                    if await _receive(reader, BEGIN_SECONDS):
                        writer.write(pack(request))
                        return await _receive(reader, SECONDS)
                finally:
                    writer.transport.abort()  # the photo's decoder ends, if it still runs
            await self._replace(process)
        return None

    async def _pass(self, theirs: socket.socket) -> subprocess.Popen[bytes] | None:
        """Give the process a socket, on which it decodes one photo; it is started if it does not run."""
        async with self._starting:
            if not self._control or not self._send(theirs):
                await self.start()
                if not self._send(theirs):
                    raise Problem("image_decoder_died", "The photo decoder could not be started.", retry_after=5)
            return self._process

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

    async def _replace(self, process: subprocess.Popen[bytes] | None) -> None:
        """End a process, unless another photo has done so; the next photo starts another one."""
        async with self._starting:
            if self._process is process:
                self.close()

    def close(self) -> None:
        """End the process; a photo that is being decoded still gets its reply."""
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


async def _receive(reader: asyncio.StreamReader, seconds: float) -> Message | None:
    """The next message; None if it does not come."""
    try:
        async with asyncio.timeout(seconds):
            return await receive_async(reader)
    except (OSError, FramingError):  # TimeoutError is an OSError, too
        return None
