"""Count what a report says right.

Parsing is strict: what is not said, said twice and differently, or said and denied, is wrong.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..share import Share
from .answers import ABSENT, BORDER, COUNT, MILLIMETRES, SIZE, SURFACE
from .conditions import CONDITIONS, VALUES, Findings

PHRASES: dict[str, dict[str, str]] = {
    "count": COUNT,
    "size": {size: rf"(?:{SIZE[size]}|{MILLIMETRES[size]} mm)" for size in SIZE},
    "colour": {colour: colour for colour in VALUES["colour"]},
    "kind": {kind: rf"{kind}(?:s|es)?" for kind in VALUES["kind"]},
    "surface": SURFACE,
    "border": BORDER,
    "arrangement": {"alone": "stands alone", "scattered": "scattered", "grouped": "grouped"},
    "condition": {condition.name: condition.name for condition in CONDITIONS},
}
"""How each value is said, as regular expressions of whole words."""


def stated(text: str) -> dict[str, str | None]:
    """The value a text states for each attribute and the condition; None if it states none, or several."""
    found: dict[str, str | None] = {}
    for name, phrases in PHRASES.items():
        values = {value for value, phrase in phrases.items() if re.search(rf"\b{phrase}\b", text, re.IGNORECASE)}
        found[name] = values.pop() if len(values) == 1 else None
    if (surface := found["surface"]) in ABSENT and ABSENT[surface] in text:
        found["surface"] = None
    return found


@dataclass(frozen=True)
class Case:
    """A picture's truth and the text said about it."""

    tone: str
    truth: Findings
    text: str
    followed: tuple[bool, ...] = ()
    """Which of the follow-ups were answered right."""


def score(cases: Sequence[Case]) -> dict[str, Share]:
    """Shares by attribute, of `attributes` together, of the `condition`, and of `everything` in a picture at once.

    If follow-ups were asked, of the `follow-ups` too.
    """
    rows = [{name: said == getattr(case.truth, name) for name, said in stated(case.text).items()} for case in cases]
    result = {name: _share(row[name] for row in rows) for name in PHRASES}
    condition = result.pop("condition")
    result["attributes"] = _share(row[name] for row in rows for name in VALUES)
    result["condition"] = condition
    result["everything"] = _share(all(row.values()) for row in rows)
    if any(case.followed for case in cases):
        result["follow-ups"] = _share(right for case in cases for right in case.followed)
    return result


def _share(right: Iterable[bool]) -> Share:
    values = list(right)
    return Share(sum(values), len(values))
