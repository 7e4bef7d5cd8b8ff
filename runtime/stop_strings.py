"""Finds the stop string that ends an answer. Text that may be the start of one is held back until it is certain."""

from collections.abc import Sequence

from .manifest import Template


def cut_answer(text: str, template: Template, stop: Sequence[str] = ()) -> str:
    """The answer in a generated text as the original has it: up to the first stop string, after the last `Assistant:`.

    `stop` are stop strings beside the template's.
    """
    text = text.lstrip()  # the space with which a first token begins is no stop string
    text = text[: find_stop(text, (*template.stop, *stop))]
    if template.answer_after:
        text = text.rpartition(template.answer_after)[2]
    return text.strip()


def find_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins; the text's length if there is none."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))


class StopFilter:
    """Passes text on as it comes, without leading or trailing white space and nothing from a stop string on.

    Text that may still turn out to be one is held back. The pieces joined are the text cut and stripped. A `mark`
    before the answer, such as `Assistant:`, is left out. A later one stays, because what is before it has been shown.
    """

    def __init__(self, stops: Sequence[str], mark: str = "") -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._mark = mark
        self._held = ""
        self._started = False

    def push(self, text: str) -> str:
        """The part of the text so far that is now certain."""
        if self.stopped:
            return ""
        self._held += text
        if not self._begin():
            return ""
        at = find_stop(self._held, self._stops)
        if at < len(self._held):
            self.stopped = True
            ready, self._held = self._held[:at].rstrip(), ""
            return ready
        certain = len(self._held) - self._possible_stop()
        certain = len(self._held[:certain].rstrip())
        ready, self._held = self._held[:certain], self._held[certain:]
        return ready

    def finish(self) -> str:
        """What was held back and is text after all."""
        ready, self._held = self._held[: find_stop(self._held, self._stops)].rstrip(), ""
        return "" if self.stopped else ready

    def _begin(self) -> bool:
        """Whether the answer has begun; white space and marks before it are left out."""
        if not self._started:
            self._held = self._held.lstrip()
            while self._mark and self._held.startswith(self._mark):
                self._held = self._held[len(self._mark) :].lstrip()
            self._started = not self._mark.startswith(self._held)
        return self._started

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
