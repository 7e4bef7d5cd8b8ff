"""The server's side of the process that holds the model, `model_worker.py`: starts it, watches it, starts it again.

Whatever happens to that process, every request that it had gets an error with a code, and the server goes on.
"""

import asyncio
import itertools
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engines.errors import BundleError
from ..install.in_use import holding
from ..install.store import current_version
from .framing import FramingError, Message, pack, receive_async
from .logs import log, log_error
from .problems import Problem, worker_problem
from .settings import LOAD_SECONDS, MAX_GONE, READY_SECONDS, Settings

PING_SECONDS = 1.0
FREE_CRASHES = 2  # in a row without an answer in between; from then on starting waits longer each time
MAX_DELAY = 30.0
UNHEALTHY_CRASHES = 5

Event = Mapping[str, Any]
"""A message of the worker, as its docstring describes."""
Events = AsyncGenerator[Event, None]


class BundleUnusable(Exception):
    """The model could not be loaded, and trying again would not help."""


@dataclass(eq=False)
class Asked:
    """A request to the worker."""

    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    left: bool = False
    """Nobody listens any more."""

    def end(self, problem: Problem) -> None:
        """Let it end with an error."""
        self.events.put_nowait({"kind": "error", "code": problem.code, "detail": problem.detail})


class ModelProcess:
    """The model's process, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ready = asyncio.Event()
        self._asked: dict[int, Asked] = {}
        self._waiting = 0
        self._numbers = itertools.count(1)
        self._crashes = 0
        self._stopping: Problem | None = None
        self._first_memory = 0
        self._last_pong = 0.0
        self._encoding = 0.0  # seconds for which a photo was being encoded at the last sign of life
        self._draining = False
        self._hung = False
        self._bundle = Path(settings.bundle)
        self._next: Path | None = None
        """The bundle of the next process, if it is another."""
        self._before: Path | None = None
        """The bundle to go back to, until this one was loaded."""
        self._held: dict[Path, ExitStack] = {}
        """The folders of bundles that an upgrade must not remove."""
        self._hold(self._bundle)
        self.about: dict[str, Any] = {}
        """What the worker said of the model when it was last ready; empty before."""
        self.memory = 0
        """Bytes of the process."""
        self.restarts = 0
        """How often it was started again."""
        self.on_restart: Callable[[str], None] = lambda _: None
        """Called with the reason when a process has to be started again."""

    @property
    def ready(self) -> bool:
        return self._ready.is_set() and not self._stopping

    @property
    def name(self) -> str:
        """The bundle's name as OpenAI's clients write one: small letters, digits and hyphens."""
        return re.sub("[^a-z0-9.]+", "-", str(self.about.get("name", "")).lower()).strip("-")

    @property
    def healthy(self) -> bool:
        """Not so if it ends again and again."""
        return self._crashes < UNHEALTHY_CRASHES

    @property
    def requests(self) -> int:
        """Those that are answered or wait, whose clients are there."""
        return sum(not asked.left for asked in self._asked.values()) + self._waiting

    @property
    def places(self) -> int:
        """How many may be answered or wait."""
        return int(self.about.get("conversations", 1)) + self._settings.queue

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    # Asking.

    async def ask(self, asked: Asked, fields: Mapping[str, Any], payload: bytes) -> Events:
        """The worker's events for an `ask` message; the last one is `end`.

        Leaving the iterator early cancels the request. Raises Problem.
        """
        await self._admit()
        number = next(self._numbers)
        self._asked[number] = asked
        self._send("ask", payload, id=number, **fields)
        try:
            async with aclosing(self._events(asked)) as events:
                async for event in events:
                    yield event
        finally:
            asked.left = True
            if number in self._asked:
                self._send("cancel", id=number)

    def prepare(self, fields: Mapping[str, Any], payload: bytes) -> Callable[[], None] | None:
        """Let the worker see a photo before anything is asked about it; what gives that up, or None if it is not ready.

        Nobody waits for it, so it takes no place in the queue.
        """
        if not self.ready or self._draining or len(self._asked) >= int(self.about["conversations"]):
            return None  # others come first
        number = next(self._numbers)
        self._asked[number] = Asked(left=True)
        self._send("prepare", payload, id=number, **fields)
        return lambda: self._send("cancel", id=number)

    async def _events(self, asked: Asked) -> Events:
        deadline: float | None = None  # of the answer that is being generated; waiting in the queue does not count
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                async with asyncio.timeout(left):  # Python 3.11's wait_for loses a cancellation when an event comes
                    event = await asked.events.get()
            except TimeoutError:
                seconds = self._settings.answer_seconds
                raise Problem("answer_too_slow", f"The answer took more than {seconds:.0f} seconds.") from None
            if event["kind"] == "error":
                raise worker_problem(event)
            yield event
            if event["kind"] == "end":
                return
            if event["kind"] == "answer":
                deadline = None
            elif deadline is None and event.get("stage") != "vision_encoder":
                deadline = time.monotonic() + self._settings.answer_seconds

    async def _admit(self) -> None:
        """Wait until the worker can be asked. Raises Problem if too many do."""
        self._check_stopping()
        # One whose client has gone ends after a token or a chunk of its prompt, so a few of them are let be.
        if self.requests >= self.places or len(self._asked) >= self.places + MAX_GONE:
            raise Problem("queue_full", "Too many requests are waiting.", retry_after=5)
        self._waiting += 1
        try:
            await self.until_ready()
        finally:
            self._waiting -= 1

    async def until_ready(self) -> None:
        """Wait for the model. Raises Problem if it is not loaded soon."""
        self._check_stopping()
        end = time.monotonic() + READY_SECONDS
        while not self.ready:
            if not self.healthy:
                raise Problem("model_unavailable", "The model's process ends again and again.", retry_after=30)
            if time.monotonic() > end:
                raise Problem("model_loading", "The model is being loaded.", retry_after=10)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):  # then its health again
                    await self._ready.wait()
            self._check_stopping()

    def _check_stopping(self) -> None:
        if self._stopping:
            raise self._stopping

    def forget(self, sha256: str) -> None:
        """Wipe what the worker holds of a photo."""
        if self.ready:
            self._send("forget", sha256=sha256)

    def reload(self) -> None:
        """Go on with the version of the bundle that is installed now, as soon as what was asked is answered.

        Requests that come meanwhile wait. If the new version cannot be loaded, the one before is loaded again.
        """
        try:
            newest = current_version(self._bundle)
        except BundleError as error:
            log("bundle_kept", level="warning", error=str(error))
            return
        if newest == (self._next or self._bundle):
            log("bundle_kept", place=newest.name)
            return
        self._hold(newest)
        self._next, self._draining = newest, True
        self._ready.clear()  # new requests wait for the next process
        log("bundle_changes", place=newest.name)

    def _hold(self, bundle: Path) -> None:
        if bundle not in self._held:
            self._held[bundle] = ExitStack()
            self._held[bundle].enter_context(holding(bundle))

    def _release(self) -> None:
        """All bundles but the ones that may still be loaded."""
        for bundle in self._held.keys() - {self._bundle, self._next}:
            self._held.pop(bundle).close()

    def end_all(self, problem: Problem) -> None:
        """Every request ends with this error."""
        for asked in self._asked.values():
            asked.end(problem)

    def stop(self) -> None:
        """Take no more requests, end those that there are, and let `run` return."""
        self._stopping = Problem("shutting_down", "The service is being stopped.", retry_after=30)
        self.end_all(self._stopping)
        self._ready.set()  # nobody needs to wait any more
        self.kill()

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def _send(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(pack(Message({"kind": kind, **fields}, payload)))

    # Watching.

    async def run(self) -> None:
        """Keep a process running until `stop`. Raises BundleUnusable if the first one cannot load the bundle."""
        while not self._stopping:
            try:
                reason, detail = await self._one_process()
            except OSError as error:  # no process or no socket could be made: later there may be room for them
                reason, detail = "not_started", error.strerror
            if self._stopping:
                return
            self.restarts += 1
            self.on_restart(reason)
            if reason not in ("grown", "reloaded"):
                self._crashes += 1
            delay = 0.0 if self._crashes <= FREE_CRASHES else min(0.5 * 2 ** (self._crashes - 3), MAX_DELAY)
            log("worker_restarts", level="warning", code=reason, error=detail, seconds=delay)
            await asyncio.sleep(delay)

    async def _one_process(self) -> tuple[str, str | None]:
        """Start a process and serve it until it ends; why it ended."""
        if self._next:
            self._before, self._bundle, self._next = self._bundle, self._next, None
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.model_worker"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                # NumPy multiplies no large matrices there, and each of its threads would take memory.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        reader, self._writer = await asyncio.open_connection(sock=ours)
        given = self._settings
        self._send(
            "open", bundle=str(self._bundle), options=given.options, verify=given.verify, together=given.together
        )
        log("worker_started", pid=self._process.pid)
        self._last_pong, self._encoding = time.monotonic(), 0.0
        watch = asyncio.create_task(self._watch())
        failure: Event = {}
        try:
            while message := await receive_async(reader):
                if message.kind == "failed":
                    failure = message.header
                else:
                    self._on_message(message.header)
        except (OSError, FramingError):
            pass
        except Exception as error:  # what it sent is no message of ours: it is ended as if it had died
            log_error("worker_unintelligible", error)
        finally:
            watch.cancel()
            reason = await self._ended()
        self._go_back()
        if failure and not self.about and failure["code"] != "internal_error":
            raise BundleUnusable(failure["code"], failure["detail"])
        return ("not_loaded" if failure else reason), failure.get("detail")

    def _go_back(self) -> None:
        """To the bundle before, if this process was the first with another one and could not load it."""
        if self._before and not self._stopping:
            log("bundle_unusable", level="error", place=self._bundle.name)
            self._bundle, self._before = self._before, None

    async def _ended(self) -> str:
        """See to what a process leaves behind that has closed its end; why it ended."""
        assert self._process and self._writer
        if not self._stopping:
            self._ready.clear()
        hung, self._hung = self._hung, False
        drained = "reloaded" if self._next else "grown"
        reason = "stopped" if self._stopping else drained if self._draining else "hung" if hung else "ended"
        self._draining = False
        self._process.kill()
        code = await asyncio.to_thread(self._process.wait)
        self._writer.close()
        expected = reason in ("stopped", "grown", "reloaded")
        log("worker_ended", level="info" if expected else "warning", code=reason, pid=self._process.pid, exit=code)
        said = "does not answer any more" if hung else "has ended"
        self.end_all(Problem("worker_hung" if hung else "worker_ended", f"The model's process {said}: ask again."))
        self._asked.clear()
        self._process = None
        return reason

    def _on_message(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "ready":
            self.about = event["about"]
            self._first_memory = self.memory = self.about["memory"]
            self._last_pong = time.monotonic()
            self._before = None
            self._release()
            self._ready.set()
            log("worker_ready", pid=self.pid, seconds=self.about["load_seconds"], bytes=self.memory)
        elif kind == "pong":
            self._last_pong, self.memory, self._encoding = time.monotonic(), event["memory"], event["encoding"]
            self._draining = self._draining or self.memory > self._first_memory + self._settings.growth_bytes
        elif asked := self._asked.get(event["id"]):
            if kind in ("end", "error"):
                del self._asked[event["id"]]
                # A photo that was only looked at is no answer.
                self._crashes = 0 if kind == "end" and not asked.left else self._crashes
            if not asked.left:
                asked.events.put_nowait(event)

    async def _watch(self) -> None:
        """Ask for signs of life; end a process that gives none, or that has grown, when it has nothing to do."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            if self.ready or self._draining:
                self._send("ping")
            if max(time.monotonic() - self._last_pong, self._encoding) > self._limit():
                self._hung = True
                self.kill()
            elif self._draining and not self._stopping:
                self._ready.clear()  # new requests wait for the next process
                if not self._asked:
                    self.kill()

    def _limit(self) -> float:
        return self._settings.hang_seconds if self.ready or self._draining else LOAD_SECONDS
