"""The figures that matter, of one bundle or of several side by side: for the top of a report and for the README."""

from collections.abc import Mapping, Sequence
from typing import Any

from .document import Table
from .report_input import Results
from .tables import warm
from .wording import OURS, quantity, si, target


def summary(every: Sequence[Results]) -> Table:
    """The figures that matter of several bundles side by side."""
    rows = {
        "bundle on disk": [si(results["bundle"]["size_bytes"], "B") for results in every],
        **{
            row: [_median(results, stage) for results in every]
            for row, stage in (
                ("picture encoded", "vision_encoder"),
                ("first token, new picture", "first_token"),
                ("each further token", "next_token"),
            )
        },
        "report in all": [_report(results) for results in every],
    }
    for key in dict.fromkeys(key for results in every for key in results["ratios"]):
        what = next(results["ratios"][key]["what"] for results in every if key in results["ratios"])
        rows[what] = [_found(results["ratios"].get(key)) for results in every]
    columns = ("", *(results["bundle"]["name"] for results in every))
    return Table(columns, tuple((name, *cells) for name, cells in rows.items()), "l" + "r" * len(every))


def _median(results: Results, stage: str) -> str:
    return next(
        (si(item["seconds"]["p50"], "s") for item in warm(results) if (item["engine"], item["stage"]) == (OURS, stage)),
        "–",
    )


def _report(results: Results) -> str:
    work, seconds = results["work"], _median(results, "report")
    return seconds if seconds == "–" else f"{seconds} ({work.get('questions')} × {work.get('answer_tokens')} tokens)"


def _found(entry: Mapping[str, Any] | None) -> str:
    """A value with its target: `7.61× (≥ 7.5× ✓)`."""
    if not entry:
        return "–"
    found = quantity(entry["value"], entry["unit"])
    sign = {True: " ✓", False: " ✗"}.get(entry["met"], "")
    return f"{found} ({target(entry)}{sign})" if entry["target"] else found
