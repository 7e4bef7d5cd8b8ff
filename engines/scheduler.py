"""Several answers on one language model at once: what they need next is evaluated together.

One call of the model for four sequences reads the weights once instead of four times. A prompt is evaluated in pieces
between the others' tokens, so that nobody who is reading an answer waits for somebody else's whole prompt.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from .base import Floats, LanguageModel, Rows, Run, Work
from .errors import EngineError

PIECE = 32  # items of a prompt evaluated beside the others' next tokens

Job = Generator[Work | str, Floats | None, None]
"""Yields work and is sent the logits (n_vocab,) after it, or yields text for a reader and is sent None."""


def evaluate_alone(model: LanguageModel, work: Work) -> Floats:
    """Evaluate one piece of work; logits (n_vocab,) after it. Raises EngineError."""
    if isinstance(work, Run):
        model.evaluate_tokens(work.sequence, work.position, work.tokens)
    else:
        model.evaluate_embeddings(work.sequence, work.position, work.embeddings)
    return model.logits()


@dataclass(eq=False)
class Ticket:
    """A job that was handed in."""

    job: Job
    on_text: Callable[[str], None]
    work: Work | None = None
    done: int = 0
    """Items of `work` evaluated so far."""
    finished: bool = False
    error: Exception | None = None
    """Why it ended early."""

    def remaining(self) -> int:
        return _size(self.work) - self.done if self.work else 0


class Scheduler:
    """Runs jobs, at most `at_once` of them at the same time, in the order in which they came.

    With `together` false each call of the model serves one job alone: who else is there then changes nothing that is
    computed, at the speed of one after the other.
    """

    def __init__(self, model: LanguageModel, *, at_once: int, together: bool = True) -> None:
        self._model = model
        self._at_once = at_once
        self._together = together
        self._waiting: deque[Ticket] = deque()
        self._active: deque[Ticket] = deque()  # its first is the next whose prompt gets a piece evaluated
        self._rows_next = True

    def add(self, job: Job, on_text: Callable[[str], None] = lambda _: None) -> Ticket:
        """Hand in a job; `on_text` hears the text it yields."""
        ticket = Ticket(job, on_text)
        self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a job where it stands; the others do not notice."""
        if not ticket.finished:
            self._end(ticket, None)

    def run(self) -> None:
        """Work until no job is left. Errors of a job are in its ticket."""
        while self.step():
            pass

    def step(self) -> bool:
        """One call of the model; false when there is nothing to do."""
        while self._waiting and len(self._active) < self._at_once:
            ticket = self._waiting.popleft()
            self._active.append(ticket)
            self._advance(ticket, None)
        if not self._active:
            return bool(self._waiting)
        if not self._together:
            ticket = self._active[0]
            self._active.rotate(-1)
            self._evaluate([(ticket, ticket.remaining())])
        else:
            self._evaluate(self._choose())
        return True

    def _choose(self) -> list[tuple[Ticket, int]]:
        """Who is served by the next call, and with how many items."""
        tokens = [ticket for ticket in self._active if isinstance(ticket.work, Run)]
        rows = next((ticket for ticket in self._active if isinstance(ticket.work, Rows)), None)
        # A call holds tokens or embeddings, never both: they take turns.
        self._rows_next = not self._rows_next or not tokens
        if rows and self._rows_next:
            return [(rows, min(rows.remaining(), PIECE))]
        chosen = [(ticket, 1) for ticket in tokens if ticket.remaining() == 1][: self._model.n_batch]
        room = min(PIECE, self._model.n_batch - len(chosen))
        for ticket in tokens:
            count = min(ticket.remaining(), room)
            if ticket.remaining() > 1 and count:
                chosen.append((ticket, count))
                room -= count
        self._active.rotate(-1)
        return chosen

    def _evaluate(self, chosen: list[tuple[Ticket, int]]) -> None:
        works = [_part(ticket, count) for ticket, count in chosen]
        try:
            if len(works) == 1:
                logits = evaluate_alone(self._model, works[0])[None]
            else:
                logits = self._model.evaluate_together([work for work in works if isinstance(work, Run)])
        except EngineError as error:
            if len(chosen) == 1:
                self._end(chosen[0][0], error)
                return
            for one in chosen:  # only those whose own work fails are to end
                self._evaluate([one])
            return
        for (ticket, count), row in zip(chosen, logits, strict=True):
            ticket.done += count
            if not ticket.remaining():
                self._advance(ticket, np.array(row))

    def _advance(self, ticket: Ticket, logits: Floats | None) -> None:
        """Give a job its logits and let it go on to its next work, or to its end."""
        try:
            event = ticket.job.send(logits)
            while isinstance(event, str):
                ticket.on_text(event)
                event = ticket.job.send(None)
        except StopIteration:
            self._end(ticket, None)
        except Exception as error:  # kept for whoever handed the job in; the other jobs go on
            self._end(ticket, error)
        else:
            ticket.work, ticket.done = event, 0

    def _end(self, ticket: Ticket, error: Exception | None) -> None:
        ticket.finished, ticket.error, ticket.work = True, error, None
        ticket.job.close()
        for queue in (self._active, self._waiting):
            if ticket in queue:
                queue.remove(ticket)


def _size(work: Work) -> int:
    return len(work.tokens if isinstance(work, Run) else work.embeddings)


def _part(ticket: Ticket, count: int) -> Work:
    work, start = ticket.work, ticket.done
    if isinstance(work, Run):
        return Run(work.sequence, work.position + start, work.tokens[start : start + count])
    assert work is not None
    return Rows(work.sequence, work.position + start, work.embeddings[start : start + count])
