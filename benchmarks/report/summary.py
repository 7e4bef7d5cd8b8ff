"""The figures that matter most, with a column for each bundle: for the README and for the top of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..result_files import Results
from .labels import OURS, quantity, si, target
from .lookups import warm
from .markdown import Table


def key_figures(every: Sequence[Results]) -> Table:
    """The six figures of the README, with a column for each bundle."""
    memory, start = (
        [quantity(results["ratios"][key]["value"], results["ratios"][key]["unit"]) for results in every]
        for key in ("peak_memory", "start_to_ready")
    )
    return _side_by_side(every, {**_speeds(every), "peak memory of a report": memory, "process start to ready": start})


def summary(every: Sequence[Results]) -> Table:
    """Size, speeds and all ratios with their targets, with a column for each bundle."""
    rows = {"bundle on disk": [si(results["bundle"]["size_bytes"], "B") for results in every], **_speeds(every)}
    for key, entry in every[0]["ratios"].items():
        rows[entry["what"]] = [
            _with_target(results["ratios"][key]) if key in results["ratios"] else "–" for results in every
        ]
    return _side_by_side(every, rows)


def _side_by_side(every: Sequence[Results], rows: Mapping[str, Sequence[str]]) -> Table:
    columns = ("", *(results["bundle"]["name"] for results in every))
    return Table(columns, tuple((name, *cells) for name, cells in rows.items()), "l" + "r" * len(every))


def _speeds(every: Sequence[Results]) -> dict[str, list[str]]:
    return {
        "picture encoded": [_median(results, "vision_encoder") for results in every],
        "first token, new picture": [_median(results, "first_token") for results in every],
        "each further token": [_median(results, "next_token") for results in every],
        "report in all": [_report(results) for results in every],
    }


def _median(results: Results, stage: str) -> str:
    ours = (item for item in warm(results) if (item["engine"], item["stage"]) == (OURS, stage))
    return next((si(item["seconds"]["p50"], "s") for item in ours), "–")


def _report(results: Results) -> str:
    work, seconds = results["work"], _median(results, "report")
    return seconds if seconds == "–" else f"{seconds} ({work['questions']} × {work['answer_tokens']} tokens)"


def _with_target(entry: Mapping[str, Any]) -> str:
    """A ratio with its target: `7.61× (≥ 7.5× ✓)`."""
    found = quantity(entry["value"], entry["unit"])
    sign = {True: " ✓", False: " ✗"}.get(entry["met"], "")
    return f"{found} ({target(entry)}{sign})" if entry["target"] else found
