"""Starts `skingpt serve` for a measurement, and says how its processes are. Linux only."""

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ...runtime.bundle import default_bundle
from ...runtime.machine import process_family, process_memory
from ...runtime.serve.settings import Settings

READY_SECONDS = 120
START = """
import sys
from skingpt_edge.runtime.serve import settings
for name, value in {limits!r}.items():
    getattr(settings, name)
    setattr(settings, name, value)
from skingpt_edge.runtime.serve.__main__ import main
sys.exit(main())
"""
"""The server's process with other fixed limits: a test need not wait a minute for a time limit."""


@dataclass(frozen=True)
class Level:
    """What a process holds."""

    descriptors: int | None
    """None if the system does not say: it does so to root alone, because these processes protect their memory."""
    threads: int
    rss: int
    """Bytes."""

    def same_as(self, other: "Level") -> bool:
        """Apart from memory."""
        return (self.descriptors, self.threads) == (other.descriptors, other.threads)


def level(pid: int) -> Level:
    """Raises OSError if the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads = int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
    try:
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        descriptors = None
    return Level(descriptors, threads, process_memory(pid).rss)


class RunningService:
    """A service on a free port, its log and its processes."""

    rest_seconds = 10
    """After which nothing is left of requests that have ended."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], limits: Mapping[str, float], files: int) -> None:
        """`limits`: names and values of `settings.py`; `files`: open files that each process may have."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.token = secrets.token_urlsafe(32)
        token_file, self._log_file = folder / "token", folder / "log"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        given = {"port": self.port, "token_file": str(token_file), **settings}
        if limits:
            program = START.format(limits=dict(limits))
            command = [sys.executable, "-P", "-c", program, Settings(str(default_bundle()), **given).to_json()]
        else:
            options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
            command = [sys.executable, "-m", "skingpt_edge.runtime.cli", "serve", *options]
        if files:
            command = ["prlimit", f"--nofile={files}", *command]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._lines: list[dict[str, Any]] = []
        self._read = 0

    @property
    def pid(self) -> int:
        """The server's."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> Sequence[Mapping[str, Any]]:
        """All lines of its log so far."""
        with self._log_file.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self._lines += [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return self._lines

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """The lines of its log about one kind of event."""
        return [line for line in self.log() if line["event"] == name]

    def text(self) -> str:
        """Everything it wrote."""
        return self._log_file.read_text(errors="replace")

    def worker_pid(self) -> int:
        """Of the model's process that was started last."""
        return int(self.events("worker_started")[-1]["pid"])

    def decoder_pid(self) -> int:
        """Of the process that decodes photos."""
        return int(self.events("decoder_started")[-1]["pid"])

    def decoding_pids(self) -> list[int]:
        """Of the processes that decode a photo at this moment."""
        return process_family(self.decoder_pid())[1:]

    def levels(self) -> dict[str, Level]:
        """Of each process that lasts."""
        pids = {"server": self.pid, "model": self.worker_pid(), "decoder": self.decoder_pid()}
        return {name: level(pid) for name, pid in pids.items()}

    async def until(self, condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
        """Whether a condition came true in time. Raises RuntimeError if the server ends."""
        end = asyncio.get_running_loop().time() + seconds
        while not condition():
            if self.ended:
                raise RuntimeError(f"the server has ended with {self._process.returncode}: {self.text()[-2000:]}")
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(pause)
        return True

    def held(self) -> set[int]:
        """The ports of the clients whose connections the server has open, from /proc/net/tcp."""
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        ours = f"0100007F:{self.port:04X}"
        # A connection without an inode belongs to no process any more.
        return {int(row[2].split(":")[1], 16) for row in rows if row[1] == ours and row[9] != "0" and row[3] != "0A"}

    def stop(self) -> int:
        """Its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@asynccontextmanager
async def running(
    *, limits: Mapping[str, float] | None = None, files: int = 0, **settings: Any
) -> AsyncIterator[RunningService]:
    """A service of the demonstration bundle that is ready; `settings`: fields of `Settings` that are options, too."""
    with tempfile.TemporaryDirectory() as folder:
        service = RunningService(Path(folder), settings, limits or {}, files)
        try:
            if not await service.until(lambda: bool(service.events("worker_ready")), READY_SECONDS):
                raise RuntimeError(f"not ready: {service.text()[-2000:]}")
            yield service
        finally:
            service.stop()


def seconds_between(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Between two lines of the log."""
    times = [datetime.fromisoformat(line["time"]) for line in (first, second)]
    return (times[1] - times[0]).total_seconds()


def as_json(levels: Mapping[str, Level]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in levels.items()}
