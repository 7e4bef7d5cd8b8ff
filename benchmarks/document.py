"""A document as a list of blocks, and the same blocks as Markdown and as one HTML page that opens without a network."""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..runtime.text import printable

STYLE = """
:root { --line: #d9dee2; --soft: #f4f7f7; --muted: #5b6670; --accent: #0b6e75; --good: #0b6e4f; --bad: #a83232; }
* { box-sizing: border-box; }
html { background: #fff; color: #1b2227; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 76rem;
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 .75rem; padding-top: 1rem; border-top: 3px solid var(--accent); }
h3 { font-size: 1.05rem; margin: 2.25rem 0 .6rem; color: var(--accent); }
h2, h3, p, li, td { overflow-wrap: anywhere; }
p { max-width: 60rem; } nav a { color: var(--accent); margin-right: 1.25rem; }
.scroll { overflow-x: auto; margin: .75rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; min-width: 30rem; }
th { text-align: left; font-weight: 600; background: var(--soft); white-space: nowrap; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:hover { background: var(--soft); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); font-weight: 600; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0 1.25rem; } img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--muted); font-size: .85rem; margin-top: .35rem; max-width: 60rem; }
li { max-width: 60rem; margin: .2rem 0; }
@media print { figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]|])")


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
    """A PNG beside the document."""

    file: Path
    alt: str
    caption: str = ""


Block = Heading | Paragraph | Bullets | Table | Picture


def as_markdown(blocks: Sequence[Block]) -> str:
    """The document in GitHub's Markdown; pictures are linked by their file names."""
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
    return MARKDOWN_SIGNS.sub(r"\\\1", escape(line, quote=False)).replace("&gt;", ">")


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as a page with its pictures inside and no script."""
    chapters = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{_anchor(text)}">{_text(text)}</a>' for text in chapters)
    first, *rest = blocks
    body = "\n".join(_html(block) for block in rest)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light">
<title>{_text(title)}</title><style>{STYLE}</style></head><body>
{_html(first)}
{f"<nav>{links}</nav>" if len(chapters) > 1 else ""}
{body}
</body></html>
"""


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Picture(file, alt, caption):
            data = b64encode(file.read_bytes()).decode()
            below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
            return f'<figure><img alt="{_text(alt)}" src="data:image/png;base64,{data}">{below}</figure>'
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    kinds = ["number" if letter == "r" else "" for letter in table.align]
    head = "".join(_cell("th", kind, text) for kind, text in zip(kinds, table.columns, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(_cell('td', _mark(text) or kind, text) for kind, text in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _cell(tag: str, kind: str, text: str) -> str:
    return f'<{tag} class="{kind}">{_text(text)}</{tag}>' if kind else f"<{tag}>{_text(text)}</{tag}>"


def _mark(text: str) -> str:
    """The colour of a verdict; the sign in the text says the same without it."""
    return {"✓": "good", "✗": "bad"}.get(text[:1], "")


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _text(text: str) -> str:
    return escape(printable(text))
