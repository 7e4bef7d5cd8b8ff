"""What the server remembers of patients, in memory alone: a photo, and what was asked and answered about it.

A session holds all that is needed to go on after the model's process was started again. It is wiped when it is
deleted, and when it was not used for a while.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from .decoder import Photo
from .problems import Problem
from .settings import BUSY_SECONDS, MAX_SESSIONS

MAX_ANSWERS = 100  # of one session


@dataclass(eq=False)
class Session:
    """One photo and its conversation."""

    id: str
    photo: Photo
    stateless: bool = False
    """The client sends its whole conversation each time."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """Question and answer of each turn so far, the answer as token ids."""
    given: dict[tuple[str, str], list[int] | str] = field(default_factory=dict)
    """Answers as the next prompt has them, by question and text: a client that sends its whole conversation sends text,
    in which special tokens are missing."""
    used: float = field(default_factory=time.monotonic)
    running: int = 0
    deleted: bool = False
    on_delete: list[Callable[[], None]] = field(default_factory=list)
    """Called when it is deleted, by requests that are being answered."""
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remember(self, answer: Mapping[str, Any], turn: list[int] | str) -> None:
        """Keep an answer that was given; `turn`: its token ids, or its text where they do not tell where it was cut."""
        self.given[answer["question"], answer["text"]] = turn
        while len(self.given) > MAX_ANSWERS:
            del self.given[next(iter(self.given))]

    def turn(self, question: str, text: str) -> dict[str, Any]:
        """A turn as the worker takes it, for a question and the text of its answer."""
        return {"question": question, "answer": self.given.get((question, text), text)}

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While a question is answered, no other one is, because the next one's prompt has this one's answer.

        Raises Problem if another one is being answered. It waits for a moment, in which a client that left is noticed.
        """
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self._alone.acquire()
        except TimeoutError:
            said = "A question of this conversation is being answered: ask when its answer is whole."
            raise Problem("conversation_busy", said) from None
        try:
            yield
        finally:
            self._alone.release()

    @contextmanager
    def in_use(self, on_delete: Callable[[], None]) -> Iterator[None]:
        """While it is, it does not expire."""
        if self.deleted:
            raise Problem("conversation_deleted", "The conversation was deleted.")
        self.running += 1
        self.on_delete.append(on_delete)
        try:
            yield
        finally:
            self.running -= 1
            self.on_delete.remove(on_delete)
            self.used = time.monotonic()


class Sessions:
    """All sessions, MAX_SESSIONS of them at most; the one that was not used for the longest time makes room."""

    def __init__(self, idle_seconds: float, wipe: Callable[[str], None]) -> None:
        """`wipe` is called with a photo's SHA-256 when no session has it any more."""
        self._idle_seconds = idle_seconds
        self._wipe = wipe
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, photo: Photo, *, stateless: bool = False) -> Session:
        """A new session. Raises Problem if all that there are are being answered."""
        while len(self._sessions) >= MAX_SESSIONS:
            idle = [session for session in self._sessions.values() if not session.running]
            if not idle:
                raise Problem("queue_full", "Too many conversations are going on.", retry_after=5)
            self.delete(min(idle, key=lambda session: session.used).id)
        session = Session(secrets.token_hex(16), photo, stateless)
        self._sessions[session.id] = session
        return session

    def get(self, number: str) -> Session:
        """Raises Problem."""
        session = self._sessions.get(number)
        if session is None:
            raise Problem("conversation_unknown", "There is no such conversation, or it was wiped.")
        return session

    def stateless(self, photo: Photo) -> Session:
        """The session of clients that send their whole conversation about this photo each time. Raises as `open`."""
        for session in self._sessions.values():
            if session.stateless and session.photo.sha256 == photo.sha256:
                return session
        return self.open(photo, stateless=True)

    def delete(self, number: str) -> None:
        """Wipe a session; its requests end. Raises Problem."""
        session = self.get(number)
        del self._sessions[number]
        session.deleted = True
        for end in list(session.on_delete):
            end()
        if not any(other.photo.sha256 == session.photo.sha256 for other in self._sessions.values()):
            self._wipe(session.photo.sha256)

    def expire(self) -> None:
        """Wipe those that were not used for a while."""
        now = time.monotonic()
        for session in list(self._sessions.values()):
            if not session.running and now - session.used > self._idle_seconds:
                self.delete(session.id)

    def clear(self) -> None:
        for number in list(self._sessions):
            self.delete(number)
