"""From a conversation to what the language model is given.

The original builds the whole conversation as text at every turn, splits it at the image and tokenises the two
parts separately: the part before the image with BOS, both with SentencePiece's dummy prefix. Earlier answers
are in it as text, not as the tokens they were generated as; keeping those would be another function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .manifest import Template

IMAGE_MARK = "<ImageHere>"
EOS_MARK = "</s>"


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str
    """As the prompt holds it; if it ends in EOS_MARK, the model ended it with that token."""


@dataclass(frozen=True)
class Prompt:
    """The two text segments around the image."""

    before: str
    after: tuple[str, ...]
    """Between two parts stands an end-of-sequence token; it is the token, not its letters, that the model sees."""

    @property
    def text(self) -> str:
        return self.before + IMAGE_MARK + EOS_MARK.join(self.after)


def build_prompt(template: Template, turns: Sequence[Turn], question: str) -> Prompt:
    """The prompt of `question` after `turns`.

    Question and answers are put in as plain text: a mark inside them stays text.
    """
    before, first = (template.system + template.first).split(IMAGE_MARK)
    questions = [*(turn.question for turn in turns), question]
    parts = [first.replace("{question}", questions[0])]
    for turn, following in zip(turns, questions[1:], strict=True):
        words = turn.answer.removesuffix(EOS_MARK)
        parts[-1] += template.answer.replace("{answer}", words)
        if words != turn.answer:
            parts.append("")
        parts[-1] += template.next.replace("{question}", following)
    return Prompt(before, tuple(parts))
