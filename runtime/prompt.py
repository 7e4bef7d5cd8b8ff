"""From a conversation to what the language model is given.

The original builds the whole conversation as text at every turn, splits it at the image and tokenises the two
parts separately: the part before the image with BOS, both with SentencePiece's dummy prefix. Earlier answers
are in it as text, not as the tokens they were generated as; keeping those would be another function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .manifest import Template

IMAGE_MARK = "<ImageHere>"


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """The two text segments around the image."""

    before: str
    after: str

    @property
    def text(self) -> str:
        return self.before + IMAGE_MARK + self.after


def build_prompt(template: Template, turns: Sequence[Turn], question: str) -> Prompt:
    """The prompt of `question` after `turns`.

    Question and answers are put in as plain text: an image mark in them stays text.
    """
    before, first = (template.system + template.first).split(IMAGE_MARK)
    questions = [*(turn.question for turn in turns), question]
    after = first.replace("{question}", questions[0])
    for turn, following in zip(turns, questions[1:], strict=True):
        after += template.answer.replace("{answer}", turn.answer)
        after += template.next.replace("{question}", following)
    return Prompt(before, after)
