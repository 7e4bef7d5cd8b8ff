"""Which condition a text names, and how far several answers agree in that."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..engines.errors import InputError
from .text_file import read_text


def read_conditions(path: Path | None = None) -> tuple[str, ...]:
    """Names of conditions, one a line, `#` begins a comment; the package's own list without a path.

    Raises InputError.
    """
    lines = read_text(path or Path(str(files("skingpt_edge.runtime") / "conditions.txt"))).splitlines()
    names = tuple(name for line in lines if (name := line.split("#")[0].strip()))
    if not names:
        raise InputError(f"{path}: names no condition")
    return names


def condition_named(text: str, conditions: tuple[str, ...]) -> str | None:
    """The condition that a text names first, as a whole word or words; of two that begin together, the longer."""
    found = []
    for name in conditions:
        if match := re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE):
            found.append((match.start(), -len(name), name))
    return min(found)[2] if found else None


def counted(named: Sequence[str | None]) -> list[tuple[str | None, int]]:
    """Conditions named, the most frequent first."""
    return Counter(named).most_common()


def agreement(named: Sequence[str | None]) -> float:
    """The part of the answers that name the condition named most often; answers that name none never agree."""
    return max((count for name, count in counted(named) if name is not None), default=0) / len(named)
