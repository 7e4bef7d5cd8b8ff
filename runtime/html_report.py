"""Reports as one HTML page that opens without a network: pictures inside, no script, nothing loaded."""

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..engines.errors import InputError
from .printable import printable
from .report import Report, Section
from .write_whole import write_whole

BEGINNING = b"<!doctype html><!-- SkinGPT Edge report -->"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --muted: #777; --accent: #0b6e75; }
@media (prefers-color-scheme: dark) { :root { --accent: #5cc3ca; --muted: #aaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1.1rem 0 .2rem; color: var(--accent); }
.muted { color: var(--muted); font-size: .85rem; }
.notice { border-left: 4px solid #c77700; background: #c7770018; padding: .7rem 1rem; margin: 1.25rem 0 2rem; }
article { display: grid; grid-template-columns: minmax(14rem, 1fr) 2fr; gap: 2rem; padding: 1.75rem 0;
  border-top: 1px solid var(--line); }
figure { margin: 0; } img { width: 100%; border-radius: .5rem; display: block; }
.picture-note { border-left: 4px solid #c77700; padding-left: .7rem; margin: 0 0 .75rem; font-size: .9rem; }
.question { margin: 0; font-style: italic; }
.answer { margin: .15rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.question:first-of-type + .answer { font-size: 1.15rem; }
details { margin-top: .6rem; font-size: .85rem; color: var(--muted); } summary { cursor: pointer; }
table { border-collapse: collapse; width: 100%; margin-top: .4rem; }
td { padding: .2rem 0; border-bottom: 1px solid var(--line); } td + td { text-align: right;
  font-variant-numeric: tabular-nums; }
@media (max-width: 42rem) { article { grid-template-columns: 1fr; } }
@media print { article { break-inside: avoid; } }
"""

STAGES = {
    "image_decode": "reading the picture",
    "preprocess": "resizing it",
    "vision_encoder": "vision encoder",
    "qformer": "Q-Former",
    "prefill_system": "prompt: system",
    "prefill_image": "prompt: picture",
    "prefill_text": "prompt: questions",
    "generate": "generation",
    "load": "loading the bundle, once",
}


@dataclass(frozen=True)
class Entry:
    """A picture's JPEG and its report."""

    jpeg: bytes
    report: Report


def write_html_report(path: Path, entries: list[Entry]) -> None:
    """Write the page, whole or not at all. Raises InputError if it cannot be written."""
    try:
        write_whole(path, html_report(entries).encode())
    except OSError as error:
        raise InputError(f"{path}: the page cannot be written: {error.strerror}") from None


def html_report(entries: list[Entry]) -> str:
    """The page's text; all reports are of one bundle."""
    last = entries[-1].report
    engines = "; ".join(
        f"{stage.replace('_', ' ')}: {info.engine} ({info.version}), {info.device}, {info.threads} threads"
        for stage, info in last.engines.items()
    )
    articles = "\n".join(_article(entry) for entry in entries)
    return f"""{BEGINNING.decode()}
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SkinGPT report</title><style>{STYLE}</style></head><body>
<h1>SkinGPT report</h1>
<p class="muted">{_text(last.bundle_name)} · {len(entries)} picture{"s" if len(entries) > 1 else ""}</p>
<p class="notice" role="note">{_text(last.notice)}</p>
{articles}
<p class="muted">Bundle {_text(last.bundle_id)}{_text(_origin(last))}. {_text(engines)}.</p>
</body></html>
"""


def _article(entry: Entry) -> str:
    report = entry.report
    picture = b64encode(entry.jpeg).decode()
    sections = "\n".join(_section(section) for section in report.sections)
    return f"""<article><figure><img alt="The picture asked about" src="data:image/jpeg;base64,{picture}">
{_timings(report)}</figure>
<div><h2>{_text(report.image.name)}</h2>
{"".join(f'<div class="picture-note">{_text(note.text)}</div>' for note in report.image.notes)}
{sections}</div></article>"""


def _section(section: Section) -> str:
    answer = section.answer
    text = _text(answer.text) or '<span class="muted">(no answer)</span>'
    notes = ["cut at the longest answer allowed"] if answer.finish_reason == "length" else []
    notes += [f"{answer.dropped_turns} earlier turns left out"] if answer.dropped_turns else []
    note = f'<p class="muted">({"; ".join(notes)})</p>' if notes else ""
    return (
        f'<h3>{_text(section.title)}</h3><p class="question muted">{_text(answer.question)}</p>'
        f'<p class="answer">{text}</p>{note}'
    )


def _timings(report: Report) -> str:
    """The seconds in all, with the stages behind them for who wants to know."""
    stages = ((STAGES.get(stage, stage), value) for stage, value in report.seconds.items() if stage != "total")
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{value * 1000:,.0f} ms</td></tr>" for name, value in stages)
    return f"<details><summary>{report.seconds['total']:.2f} seconds</summary><table>{rows}</table></details>"


def _origin(report: Report) -> str:
    installed = report.installed
    return f", {installed.name} version {installed.version}, {installed.signature}" if installed else ""


def _text(text: str) -> str:
    return escape(printable(text))
