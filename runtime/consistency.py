"""How far several sampled answers to one question agree: the paper's consistency test.

Answers agree when they name the same condition. The names of conditions come from `conditions.txt` or a list of one's
own.
"""

import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..engines.errors import InputError
from .conversation import Answer
from .text_file import read_text
from .vision import ImageEmbedding

SCHEMA = "skingpt-consistency/1"


@dataclass(frozen=True)
class Consistency:
    """Sampled answers about one picture, and the condition that each names first; None where it names none."""

    image: ImageEmbedding
    question: str
    answers: tuple[Answer, ...]
    named: tuple[str | None, ...]

    @property
    def counts(self) -> list[tuple[str | None, int]]:
        """Conditions named, the most frequent first."""
        return Counter(self.named).most_common()

    @property
    def agreement(self) -> float:
        """The part of the answers that name the condition named most often; answers that name none never agree."""
        most = max((count for name, count in self.counts if name is not None), default=0)
        return most / len(self.named)

    def to_json(self) -> dict[str, Any]:
        """As `report.schema.json` describes it."""
        return {
            "schema": SCHEMA,
            "image": self.image.to_json(),
            "question": self.question,
            "samples": [
                {
                    "text": answer.text,
                    "token_ids": list(answer.token_ids),
                    "finish_reason": answer.finish_reason,
                    "condition": name,
                }
                for answer, name in zip(self.answers, self.named, strict=True)
            ],
            "conditions": [{"condition": name, "count": count} for name, count in self.counts],
            "agreement": self.agreement,
        }


def compare(image: ImageEmbedding, question: str, answers: list[Answer], conditions: tuple[str, ...]) -> Consistency:
    """Find the condition in each answer."""
    named = tuple(condition_named(answer.text, conditions) for answer in answers)
    return Consistency(image, question, tuple(answers), named)


def condition_named(text: str, conditions: tuple[str, ...]) -> str | None:
    """The condition that a text names first, as a whole word or words; of two that begin together, the longer."""
    found = []
    for name in conditions:
        if match := re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE):
            found.append((match.start(), -len(name), name))
    return min(found)[2] if found else None


def read_conditions(path: Path | None = None) -> tuple[str, ...]:
    """Names of conditions, one a line, `#` begins a comment; the package's own list without a path.

    Raises InputError.
    """
    lines = read_text(path or Path(str(files("skingpt_edge.runtime") / "conditions.txt"))).splitlines()
    names = tuple(name for line in lines if (name := line.split("#")[0].strip()))
    if not names:
        raise InputError(f"{path}: names no condition")
    return names
