"""From a token's bytes to the words a user sees: UTF-8, stop strings, white space, terminal safety."""

import codecs
import unicodedata
from collections.abc import Sequence

from .manifest import Template

BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")

# The original's SentencePiece gives one U+FFFD for each byte that is not UTF-8; Python's own "replace" gives
# one for a whole broken sequence, and the next turn's prompt would then differ.
codecs.register_error(
    "skingpt-each-byte",
    lambda error: ("\ufffd" * (error.end - error.start), error.end),  # type: ignore[attr-defined]
)


def utf8_decoder() -> codecs.IncrementalDecoder:
    """A decoder that holds back the bytes of an unfinished character."""
    return codecs.getincrementaldecoder("utf-8")(errors="skingpt-each-byte")


def cut_answer(text: str, template: Template) -> str:
    """The answer in a generated text: up to the first stop string, after the last `Assistant:`, stripped."""
    text = text[: find_stop(text, template.stop)]
    if template.answer_after:
        text = text.rpartition(template.answer_after)[2]
    return text.strip()


def find_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins; the text's length if there is none."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))


class StopFilter:
    """Passes text on as it comes, without leading or trailing white space and nothing from a stop string on.

    Text that may still turn out to be one is held back. The pieces joined are the text cut and stripped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""
        self._started = False

    def push(self, text: str) -> str:
        """The part of the text so far that is now certain."""
        if self.stopped:
            return ""
        self._held += text
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
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
        ready, self._held = self._held.rstrip(), ""
        return "" if self.stopped else ready

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


def printable(text: str) -> str:
    """Text without control characters: a model's words must not steer a terminal or turn lines around."""
    return "".join("\ufffd" if _steers(letter) else letter for letter in text)


def _steers(letter: str) -> bool:
    if letter in "\n\t":
        return False
    return unicodedata.category(letter) in ("Cc", "Cs") or unicodedata.bidirectional(letter) in BIDI_CONTROLS


def one_line(text: str) -> str:
    """Printable text on one line: a file's name may hold anything."""
    return printable(text).replace("\n", "\ufffd")
