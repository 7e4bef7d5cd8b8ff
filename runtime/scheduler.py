"""Runs jobs on a language model: one alone, or several whose next tokens are evaluated together.

One call of the model for four sequences reads the weights once instead of four times. A prompt is evaluated in
chunks. So it can be cancelled after a chunk, and other answers go on between its chunks.

Prompts are first come, first served. If they took turns, all of them would be finished only when the last one is.
"""

import itertools
from bisect import insort
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from operator import attrgetter
from threading import RLock
from typing import Any, Generic, TypeVar

from ..engines.base import Floats, LanguageModel, Segment, TokenSegment
from ..engines.errors import EngineError

CHUNK = 32  # items of a prompt evaluated in one call where other answers go on; else a chunk is a whole batch

Result = TypeVar("Result")
Job = Generator[Segment, Floats, Result]
"""Yields what the model is to evaluate and is sent the logits (n_vocab,) after it; returns its result."""


@dataclass(eq=False)
class Ticket(Generic[Result]):
    """A job that was handed in."""

    job: Job[Result]
    turn: int | None = None
    """Its number among those that wait for a prompt; none while it generates."""
    segment: Segment | None = None
    """What it waits for."""
    evaluated: int = 0
    """Items of `segment` evaluated so far."""
    running: bool = False
    """The job's own code is running, and may be what cancels it."""
    cancelled: bool = False
    finished: bool = False
    result: Result | None = None
    """What the job returned; None if it failed or was cancelled."""
    error: Exception | None = None
    """Why it failed."""

    def remaining(self) -> int:
        return len(self.segment) - self.evaluated if self.segment else 0

    def next_chunk(self, count: int) -> Segment:
        """Raises EngineError if the segment may no longer be evaluated."""
        assert self.segment is not None
        return self.segment.part(self.evaluated, count)


class Scheduler:
    """Runs jobs, at most `at_once` of them at the same time, in the order in which they came.

    A prompt is computed to its end before the next one begins, and before another job begins, which can then reuse it.
    Answers that are being generated get a token between two chunks of a prompt.

    With `together` false each call of the model serves one job alone, and everything takes as long as one job after the
    other. Other jobs then change what is computed by rounding alone: by the cells that they take, because llama.cpp
    splits the attention to more than 512 cells among its threads.

    `add` and `cancel` may be called by other threads while one runs the jobs.
    """

    def __init__(self, model: LanguageModel, *, at_once: int = 1, together: bool = True) -> None:
        self._model = model
        self._at_once = at_once
        self._together = together
        self._waiting: deque[Ticket[Any]] = deque()
        self._active: deque[Ticket[Any]] = deque()
        self._prompts: list[Ticket[Any]] = []  # those active jobs that wait for a prompt, by their turns
        self._computing: Ticket[Any] | None = None  # the one of these whose prompt has begun
        self._turns = itertools.count()
        self._stepping = RLock()
        self.hold = False
        """Begin no prompt and no job for now. Answers that are being generated go on."""

    def add(self, job: Job[Result]) -> Ticket[Result]:
        """Hand in a job."""
        ticket = Ticket(job, next(self._turns))
        self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket[Result]) -> None:
        """End a job where it stands; the others do not notice. A job may cancel itself while it runs.

        A job that another thread is computing ends after the call of the model that is being made.
        """
        ticket.cancelled = True
        if self._stepping.acquire(blocking=False):
            try:
                self._end_if_cancelled(ticket)
            finally:
                self._stepping.release()

    @property
    def between_prompts(self) -> bool:
        """Whether no prompt has been begun that is not at its end."""
        return self._computing is None

    def end_prompt(self, ticket: Ticket[Any]) -> None:
        """Called by a job whose prompt is over and which goes on with another one: that comes last in the line.

        A job that has generated tokens in between need not say so.
        """
        if ticket in self._prompts:
            self._prompts.remove(ticket)
        if self._computing is ticket:
            self._computing = None
        ticket.turn = None

    def run(self) -> None:
        """Work until no job is left. Errors of a job are in its ticket.

        Raises EngineError if the model is closed, or in use by another thread.
        """
        with self._model.exclusive:
            while self.step():
                pass

    def step(self) -> bool:
        """Make one call of the model, for one token of each job or a chunk of a prompt; false if no job is left.

        Raises as `run` does.
        """
        with self._model.exclusive, self._stepping:
            for ticket in [*self._active, *self._waiting]:
                self._end_if_cancelled(ticket)
            return self._step()

    def _end_if_cancelled(self, ticket: "Ticket[Any]") -> None:
        if ticket.cancelled and not ticket.finished and not ticket.running:
            self._end(ticket)

    def _step(self) -> bool:
        while self._waiting and len(self._active) < self._at_once and self._is_next(self._waiting[0]):
            ticket = self._waiting.popleft()
            self._active.append(ticket)
            self._advance(ticket, None)
        if not self._active:
            return bool(self._waiting)
        if chosen := self._choose():  # nothing if all wait for prompts and none may begin
            self._evaluate(chosen)
        return True

    def _is_next(self, waiting: "Ticket[Any]") -> bool:
        """Whether no prompt of an active job comes before this job's."""
        if self.hold:
            return False
        if not self._prompts:
            return True
        first = self._prompts[0]
        assert waiting.turn is not None and first.turn is not None
        return first is not self._computing and waiting.turn < first.turn

    def _choose(self) -> list[tuple["Ticket[Any]", int]]:
        """Who is served by the next call, and with how many items: the first prompt, and all other answers."""
        prompt, batch = self._next_prompt(), self._model.n_batch
        self._computing = prompt
        if not self._together:
            return self._choose_one(prompt)
        generating = [(ticket, 1) for ticket in self._active if ticket not in self._prompts][:batch]
        self._active.rotate(-1)
        if not prompt:
            return generating
        if not generating:
            return [(prompt, min(prompt.remaining(), batch))]
        room = min(prompt.remaining(), CHUNK, batch - len(generating))
        return [*generating, (prompt, room)] if room else generating

    def _next_prompt(self) -> "Ticket[Any] | None":
        return self._computing if self.hold or not self._prompts else self._prompts[0]

    def _choose_one(self, prompt: "Ticket[Any] | None") -> list[tuple["Ticket[Any]", int]]:
        """The first prompt and the answers that are being generated, in turns."""
        ready = (ticket for ticket in self._active if ticket is prompt or ticket not in self._prompts)
        chosen = next(ready, None)
        if not chosen:
            return []
        self._active.remove(chosen)
        self._active.append(chosen)
        return [(chosen, min(chosen.remaining(), self._model.n_batch))]

    def _evaluate(self, chosen: list[tuple["Ticket[Any]", int]]) -> None:
        try:
            logits = self._model.evaluate([ticket.next_chunk(count) for ticket, count in chosen])
        except EngineError as error:
            if len(chosen) == 1:
                self._end(chosen[0][0], error=error)
                return
            for one in chosen:  # only those whose own work fails are to end
                self._evaluate([one])
            return
        for (ticket, count), row in zip(chosen, logits, strict=True):
            ticket.evaluated += count
            if not ticket.remaining():
                self._advance(ticket, row)

    def _advance(self, ticket: "Ticket[Any]", logits: Floats | None) -> None:
        """Give a job its logits and let it go on to what it needs next, or to its end."""
        ticket.running = True
        try:
            # None starts a generator.
            segment = ticket.job.send(logits) if logits is not None else next(ticket.job)
        except StopIteration as end:
            self._end(ticket, result=end.value)
        except Exception as error:  # kept for whoever handed the job in; the other jobs go on
            self._end(ticket, error=error)
        else:
            ticket.segment, ticket.evaluated = segment, 0
            self._note_prompt(ticket, segment)
            if ticket.cancelled:
                self._end(ticket)
        finally:
            ticket.running = False

    def _note_prompt(self, ticket: "Ticket[Any]", segment: Segment) -> None:
        """Whether a job now waits for a prompt. One that goes on with its prompt keeps its place."""
        if len(segment) == 1 and isinstance(segment, TokenSegment):
            self.end_prompt(ticket)
        elif ticket not in self._prompts:
            if ticket.turn is None:
                ticket.turn = next(self._turns)
            insort(self._prompts, ticket, key=attrgetter("turn"))

    def _end(self, ticket: Ticket[Result], *, result: Result | None = None, error: Exception | None = None) -> None:
        ticket.finished, ticket.result, ticket.error, ticket.segment = True, result, error, None
        ticket.job.close()
        for queue in (self._active, self._waiting):
            if ticket in queue:
                queue.remove(ticket)
        self.end_prompt(ticket)


def run_alone(model: LanguageModel, job: Job[Result]) -> Result:
    """Run one job to its end; its result. Raises what the job and the model raise."""
    scheduler = Scheduler(model)
    ticket = scheduler.add(job)
    try:
        scheduler.run()
    finally:
        job.close()
    if ticket.error:
        raise ticket.error
    assert ticket.result is not None
    return ticket.result
