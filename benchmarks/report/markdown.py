"""A document as a list of blocks, written as GitHub's Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ...runtime.printable import printable

SIGNS = re.compile(r"([\\`*\[\]|])")


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 3


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading each."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    """A letter for each column: `l` for words, `r` for numbers."""


@dataclass(frozen=True)
class Picture:
    """A PNG in the same folder as the document."""

    file: Path
    alt: str
    caption: str = ""


Block = Heading | Paragraph | Bullets | Table | Picture


def as_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Picture(file, alt, caption):
            picture = f"![{_plain(alt)}]({file.name})"
            return f"{picture}\n\n{_plain(caption)}" if caption else picture
        case Table(columns, rows, align):
            rule = tuple("---:" if letter == "r" else "---" for letter in align)
            lines = [tuple(map(_plain, columns)), rule, *(tuple(map(_plain, row)) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(printable(text).split())
    return SIGNS.sub(r"\\\1", escape(line, quote=False)).replace("&gt;", ">")
