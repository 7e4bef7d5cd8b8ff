"""Everything behind the routes: photos, conversations and the model's process."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any

from .bodies import Bodies
from .decoder import Decoder, Photo
from .metrics import Metrics
from .model_process import Asked, Events, ModelProcess
from .problems import Problem
from .sessions import Session, Sessions
from .settings import MAX_QUESTION, Settings

RECENT = 20  # reports, of which it is remembered how long they took


class Service:
    """One bundle, served."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bodies = Bodies()
        self.decoder = Decoder()
        self.model = ModelProcess(settings)
        self._photos = 0
        self._reports: deque[float] = deque(maxlen=RECENT)
        self.sessions = Sessions(settings.idle_seconds, self.model.forget)
        gauges: dict[str, Callable[[], float]] = {
            "requests_now": lambda: self.model.requests,
            "conversations": lambda: len(self.sessions),
            "ready": lambda: self.model.ready,
            "server_memory_bytes": own_memory,
            "worker_memory_bytes": lambda: self.model.memory,
        }
        self.metrics = Metrics(gauges)
        self.model.on_restart = self.metrics.restart

    def stop(self) -> None:
        """Every request ends with an error."""
        self.bodies.stop()
        self.model.stop()

    def took(self, seconds: float) -> None:
        """A report was made in this time, waiting included."""
        self._reports.append(seconds)

    @property
    def report_seconds(self) -> float | None:
        """How long a report takes: as the last ones did, or what was measured before the start; None if nothing was."""
        return median(self._reports) if self._reports else self.settings.report_seconds

    async def photo(self, data: bytes) -> Photo:
        """Decode a photo. Raises Problem, also if so many photos wait already as requests may."""
        if self._photos >= self.model.places:
            raise Problem("queue_full", "Too many photos are waiting.", retry_after=5)
        self._photos += 1
        try:
            with self.bodies.waiting(data):
                await self.model.until_ready()  # which says what size the model wants
                photo = await self.decoder.decode(data, self.model.about["image_size"])
        finally:
            self._photos -= 1
        self.metrics.photo(photo.description["seconds"])
        return photo

    def prepare(self, session: Session) -> None:
        """Let the model see a session's photo while its first question is being thought of."""
        fields = {"photo": session.photo.description}
        if give_up := self.model.prepare(fields, session.photo.pixels):
            session.on_delete.append(give_up)

    async def answers(
        self,
        session: Session,
        questions: Sequence[Mapping[str, str]],
        *,
        turns: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
        choices: int = 1,
    ) -> Events:
        """The worker's events for these questions about a session's photo, asked one after the other. Raises Problem.

        No questions: the bundle's own.
        """
        for item in questions:
            check_question(item["question"])
        asked = Asked()
        deleted = Problem("conversation_deleted", "The conversation was deleted.")
        fields = {
            "photo": session.photo.description,
            "turns": list(turns),
            "questions": list(questions),
            "config": dict(config),
            "choices": choices,
        }
        with session.in_use(on_delete=lambda: asked.end(deleted)):
            async with aclosing(self.model.ask(asked, fields, session.photo.pixels)) as events:
                async for event in events:
                    if event["kind"] == "answer":
                        self.metrics.answer(event["answer"])
                        session.remember(event["answer"], event["turn"])
                    yield event


def check_question(text: str) -> None:
    """Raises Problem for a question that is empty or too long."""
    if not text.strip():
        raise Problem("question_unusable", "The question is empty.")
    if len(text) > MAX_QUESTION:
        raise Problem("question_unusable", f"The question has more than {MAX_QUESTION} characters.")


def own_memory() -> float:
    """Bytes of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0
