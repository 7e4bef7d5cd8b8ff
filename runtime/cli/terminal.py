"""What commands show on the terminal beside their results: progress and timings."""

import sys

from ..printable import one_line
from ..report import Report
from ..vision import ImageEmbedding


def show_progress(text: str) -> None:
    """A line on standard error."""
    print(one_line(text), file=sys.stderr, flush=True)


def show_hashing(name: str, done: int, total: int) -> None:
    """How much of a file is hashed, or that the self-test runs, on a terminal only."""
    if not sys.stderr.isatty():
        return
    if name == "self-test":
        show_progress("loading both halves and making the bundle's self-test, once on this machine")
    else:
        end = "\n" if done == total else "\r"
        print(f"checking {name} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr, flush=True)


def note_lines(image: ImageEmbedding) -> str:
    """What a person should know of a picture, a line each."""
    return "".join(f"\nNote: {one_line(note.text)}\n" for note in image.notes)


def timings(report: Report) -> str:
    """One line for a person: seconds by stage and tokens a second."""
    seconds = report.seconds
    tokens = sum(len(section.answer.token_ids) for section in report.sections)
    steps = tokens - len(report.sections)
    stages = [
        f"{stage.replace('_', ' ')} {value:.2f} s" for stage, value in seconds.items() if stage not in ("total", "load")
    ]
    speed = f"{steps / seconds['generate']:.1f} tokens/s, " if seconds["generate"] and steps else ""
    return f"[{' · '.join(stages)} · {speed}{tokens} tokens, {seconds['total']:.2f} s in all]"
