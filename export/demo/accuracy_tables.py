"""The tables of docs/demonstration-model.md, in Markdown, from what `evaluate` counted for several precisions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..share import Z95, Share
from .conditions import CONDITIONS, TONES, VALUES

RESAMPLES = 4000

Rows = Mapping[str, Mapping[str, Any]]
"""Evaluations as JSON, by the precision's name; the first is the one that the others are held against."""


class Difference(NamedTuple):
    """Of the attributes that two models say right about the same pictures, in parts of all; `low` to `high`: 95 %."""

    part: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether it is more than chance."""
        return self.low > 0 or self.high < 0


def difference(of: Mapping[str, Any], against: Mapping[str, Any]) -> Difference:
    """The first's share of right attributes less the second's.

    Pictures are drawn again at random (a paired bootstrap, Efron and Tibshirani 1993, percentile interval): the
    attributes of one picture are not independent, pictures are.
    """
    own, other = (np.array(row["attributes_right_by_picture"], float) / len(VALUES) for row in (of, against))
    chosen = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
    low, high = np.quantile((own - other)[chosen].mean(axis=1), (0.025, 0.975))
    return Difference(float((own - other).mean()), float(low), float(high))


def smallest_difference(rows: Rows) -> float:
    """The difference between two of these models that a 95 % interval can just tell from none, as a part.

    1.96 standard errors of the mean difference by picture: the widest of the pairs that it does not tell apart. 0 if it
    tells all of them apart.
    """
    right = [np.array(row["attributes_right_by_picture"], float) / len(VALUES) for row in rows.values()]
    pairs = [a - b for i, a in enumerate(right) for b in right[:i]]
    widths = [float(Z95 * pair.std(ddof=1) / np.sqrt(len(pair))) for pair in pairs]
    return max((width for width, pair in zip(widths, pairs, strict=True) if abs(pair.mean()) <= width), default=0.0)


def by_precision(rows: Rows) -> str:
    """Attributes, conditions and follow-ups right by precision, with intervals, and the difference to the first row."""
    first = next(iter(rows.values()))
    lines = _head("", "attributes right", "conditions right", "follow-ups right", "attributes, difference", "shuffled")
    for name, row in rows.items():
        shares = [Share(**row["scores"][what]).cell for what in ("attributes", "condition", "follow-ups")]
        mixed = [Share(**row["shuffled"][what]).part for what in ("attributes", "condition")]
        found = "" if row is first else _points(difference(row, first))
        lines.append(_line(name, *shares, found, " / ".join(f"{part:.1%}" for part in mixed)))
    return "\n".join(lines) + "\n"


def by_attribute(rows: Rows) -> str:
    """What is right of every attribute by precision."""
    lines = _head("", *rows)
    for name in (*VALUES, "condition", "everything"):
        lines.append(_line(name, *(f"{Share(**row['scores'][name]).part:.1%}" for row in rows.values())))
    return "\n".join(lines) + "\n"


def by_tone(rows: Rows) -> str:
    """Attributes and conditions right by skin tone and precision."""
    return _grouped(rows, "by_tone", TONES)


def by_condition(rows: Rows) -> str:
    """Attributes and conditions right by condition and precision."""
    return _grouped(rows, "by_condition", [condition.name for condition in CONDITIONS])


def _grouped(rows: Rows, by: str, names: Sequence[str]) -> str:
    first = next(iter(rows.values()))
    lines = _head("", "pictures", *rows)
    for name in names:
        if name in first[by]:
            pairs = [
                [Share(**row[by][name][what]).part for what in ("attributes", "condition")] for row in rows.values()
            ]
            cells = [" / ".join(f"{part:.0%}" for part in pair) for pair in pairs]
            lines.append(_line(name, str(first[by][name]["condition"]["of"]), *cells))
    return "\n".join(lines) + "\n"


def _points(found: Difference) -> str:
    sure = " *" if found.is_told else ""
    return f"{100 * found.part:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}){sure}"


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
