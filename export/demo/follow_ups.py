"""Questions after the four answers that refer back to them, or ask whether something is there, and what is right."""

from collections.abc import Callable
from dataclasses import dataclass

from .conditions import Findings
from .score import stated


@dataclass(frozen=True)
class FollowUp:
    """A question, and whether an answer to it is right."""

    question: str
    is_right: Callable[[Findings, str], bool]


def _whether(surface: str) -> Callable[[Findings, str], bool]:
    def is_right(truth: Findings, text: str) -> bool:
        return text.startswith("Yes" if truth.surface == surface else "No")

    return is_right


def _value(name: str) -> Callable[[Findings, str], bool]:
    return lambda truth, text: stated(text)[name] == getattr(truth, name)


WHETHER = (
    FollowUp("Is there scale?", _whether("scale")),
    FollowUp("Is there crust?", _whether("crust")),
    FollowUp("Are there fissures?", _whether("fissure")),
)
BACK = (
    FollowUp("How many did you say there are?", _value("count")),
    FollowUp("And how large is that?", _value("size")),
    FollowUp("Which condition did you name?", _value("condition")),
)


def follow_ups(number: int) -> tuple[FollowUp, ...]:
    """Those for the picture of this number, so that all are asked equally often."""
    return WHETHER[number % len(WHETHER)], BACK[number // len(WHETHER) % len(BACK)]
