"""How far several sampled answers to one question agree: the paper's consistency test.

Answers agree when they name the same condition.
"""

from dataclasses import dataclass
from typing import Any

from .condition_names import agreement, condition_named, counted
from .conversation import Answer
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
        return counted(self.named)

    @property
    def agreement(self) -> float:
        """The part of the answers that name the condition named most often; answers that name none never agree."""
        return agreement(self.named)

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
