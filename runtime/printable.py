"""Text without control characters: a model's words or a file's name must not steer a terminal."""

import unicodedata

BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def printable(text: str) -> str:
    """The text with U+FFFD for each character that could steer a terminal or turn the direction of a line around."""
    return "".join("\ufffd" if _steers(letter) else letter for letter in text)


def _steers(letter: str) -> bool:
    if letter in "\n\t":
        return False
    return unicodedata.category(letter) in ("Cc", "Cs") or unicodedata.bidirectional(letter) in BIDI_CONTROLS


def one_line(text: str) -> str:
    """Printable text on one line: a file's name may hold anything."""
    return printable(text).replace("\n", "\ufffd")
