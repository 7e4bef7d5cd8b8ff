"""From a conversation to what the language model is given.

The original builds the whole conversation as text at every turn, splits it at the image and tokenises the two
parts separately: the part before the image with BOS, both with SentencePiece's dummy prefix. Earlier answers
are in it as text, not as the tokens they were generated as; keeping those would be another function.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .manifest import Template

IMAGE_MARK = "<ImageHere>"
SPECIAL_TOKENS = {"<unk>": 0, "<s>": 1, "</s>": 2}
"""A Llama's special tokens as the original's tokenizer spells them."""


@dataclass(frozen=True)
class Special:
    """A special token between two texts."""

    token: int
    text: str


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str
    """As the original has it: special tokens the model generated are spelled out."""


@dataclass(frozen=True)
class Prompt:
    """The two text segments around the image."""

    before: str
    after: tuple[str | Special, ...]

    @property
    def text(self) -> str:
        return self.before + IMAGE_MARK + "".join(p if isinstance(p, str) else p.text for p in self.after)


def build_prompt(template: Template, turns: Sequence[Turn], question: str) -> Prompt:
    """The prompt of `question` after `turns`.

    Special tokens spelled out in an answer become tokens again, as in the original. A question is plain text,
    whatever it holds: nobody types a token.
    """
    before, first = (template.system + template.first).split(IMAGE_MARK)
    questions = [*(turn.question for turn in turns), question]
    parts: list[str | Special] = [first.replace("{question}", questions[0])]
    for turn, following in zip(turns, questions[1:], strict=True):
        for part in _split_special(template.answer.replace("{answer}", turn.answer)):
            _append(parts, part)
        _append(parts, template.next.replace("{question}", following))
    return Prompt(before, tuple(parts))


def _split_special(text: str) -> list[str | Special]:
    words = re.split("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")", text)
    return [Special(SPECIAL_TOKENS[word], word) if i % 2 else word for i, word in enumerate(words)]


def _append(parts: list[str | Special], part: str | Special) -> None:
    """Add a part; text after text is one text, because the tokenizer sees it whole."""
    if isinstance(part, str) and isinstance(parts[-1], str):
        parts[-1] += part
    elif part:
        parts.append(part)
