"""A real `skingpt serve` for tests, and small ways of talking to it."""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support import ROOT

PICTURES = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))
PHOTO = PICTURES[0].read_bytes()
STOPS_LOADING = """
import os, signal, sys

if "skingpt_edge.runtime.serve.model_worker" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSTOP)
"""
"""As `sitecustomize.py`: the model's process loads for ever."""
SLOW_STEPS = """
import sys

if "skingpt_edge.runtime.serve.model_worker" in sys.orig_argv:
    import time
    from skingpt_edge.runtime.scheduler import Scheduler

    def slow_step(self, step=Scheduler.step):
        time.sleep(0.05)
        return step(self)

    Scheduler.step = slow_step
"""
"""As `sitecustomize.py`: an answer takes as long as a large model's, so that it can be met in its middle."""
SKINGPT = str(Path(sys.executable).with_name("skingpt"))


class RunningService:
    """A service in the background, and what it wrote."""

    def __init__(
        self, folder: Path, *options: str, bundle: Path | None = None, before: Sequence[str] = (), **environment: str
    ) -> None:
        """Start it on a free port; `folder` holds its token and its log, and `before` starts it, as strace does."""
        self.folder = folder
        self.token_file = folder / "token"
        self.log_file = folder / "log"
        self.port = 0 if "--socket" in options else free_port()
        where = [] if "--socket" in options else ["--port", str(self.port)]
        command = [*before, SKINGPT, "serve", *([str(bundle)] if bundle else []), *where]
        command += ["--token-file", str(self.token_file), *options]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, **environment})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far; not one that is just being written."""
        whole = self.log_file.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def worker(self) -> int:
        """The process id of the model's process that was ready last."""
        return [line["pid"] for line in self.log if line["event"] == "worker_ready"][-1]

    def requests_now(self) -> int:
        """How many are answered or wait, whose clients are there."""
        return int(float(re.search(r"(?m)^skingpt_requests_now (.*)$", self.request("GET", "/metrics")[2].decode())[1]))

    def kill_worker(self) -> None:
        """Kill the model's process. Returns when the service has noticed; a request before that would be lost, too."""
        pid = self.worker()
        os.kill(pid, signal.SIGKILL)
        until(lambda: [line for line in self.log if line["event"] == "worker_ended" and line["pid"] == pid])

    def wait_ready(self, seconds: float = 300) -> "RunningService":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log_file.read_text()
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log_file.read_text()}")

    def connect(self, timeout: float = 300) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: bytes | None = None, token: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer. Header names are written with underscores."""
        connection = self.connect()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        token = token or (self.token if self.token_file.exists() else "")
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {token}", **given})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def report(self, photo: bytes = PHOTO) -> dict[str, Any]:
        """A whole report as JSON."""
        status, _, body = self.request(
            "POST", "/v1/reports", photo, content_type="image/jpeg", accept="application/json"
        )
        assert status == 200, body
        return json.loads(body)

    def events(self, path: str, body: bytes, content_type: str) -> list[tuple[str, dict[str, Any]]]:
        """All events of a stream."""
        status, _, answer = self.request("POST", path, body, content_type=content_type)
        assert status == 200, answer
        return list(parse_events(answer.decode()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=120)


def parse_events(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of server-sent events."""
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in lines:
            yield lines.get("event", "message"), json.loads(lines["data"])


def free_port() -> int:
    """Of those that systems give to nobody who does not ask for them, so that it is still free a while later."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def running(folder: Path, *options: str, **more: Any) -> Iterator[RunningService]:
    """A service that is ready, stopped at the end."""
    service = RunningService(folder, *options, **more)
    try:
        yield service.wait_ready()
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
