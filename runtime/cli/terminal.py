"""What commands show on the terminal: progress, and the parts of a report in text."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..printable import one_line, printable


def show_progress(text: str) -> None:
    """A line on standard error."""
    print(one_line(text), file=sys.stderr, flush=True)


def show_hashing(name: str, done: int, total: int) -> None:
    """How much of a file is hashed, or what else is done once on this machine, on a terminal only."""
    if not sys.stderr.isatty():
        return
    if name == "self-test":
        show_progress("loading both halves and making the bundle's self-test, once on this machine")
    elif name == "plan":
        show_progress("compiling a part of vision for this GPU, once on this machine; it takes up to a minute")
    else:
        end = "\n" if done == total else "\r"
        print(f"checking {name} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr, flush=True)


def note_lines(notes: Iterable[str]) -> str:
    """What a person should know of a picture, a line each."""
    return "".join(f"\nNote: {one_line(note)}\n" for note in notes)


def timings(report: Mapping[str, Any]) -> str:
    """One line for a person, of a report's JSON form: seconds by stage and tokens a second."""
    seconds = {stage: value / 1000 for stage, value in report["timings_ms"].items()}
    tokens = sum(len(turn["token_ids"]) for turn in report["turns"])
    steps = tokens - len(report["turns"])
    stages = [
        f"{stage.replace('_', ' ')} {value:.2f} s" for stage, value in seconds.items() if stage not in ("total", "load")
    ]
    speed = f"{steps / seconds['generate']:.1f} tokens/s, " if seconds["generate"] and steps else ""
    return f"[{' · '.join(stages)} · {speed}{tokens} tokens, {seconds['total']:.2f} s in all]"


def print_heading(number: int, section: str) -> None:
    """Above the answer to a report's question; `number` from 0."""
    gap = "\n\n" if number else "\n"
    print(f"{gap}{printable(section)}\n", end="")


def print_report_end(report: Mapping[str, Any], *, as_json: bool) -> None:
    """What stands below a report's answers; or all of it, as JSON."""
    if as_json:
        print(json.dumps(report), flush=True)
        return
    dropped = max(turn["dropped_turns"] for turn in report["turns"])
    if dropped:
        print(f"\n\n({dropped} earlier turns no longer fit into the context)", end="")
    print(f"\n\n{timings(report)}\n{printable(report['notice'])}\n", flush=True)
