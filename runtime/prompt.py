"""Builds the prompt of a conversation.

As in the original, the whole conversation is built as text at every turn and tokenised in two parts: the text before
the image, with BOS, and the text after it. Each part gets the space that SentencePiece puts before a text. Earlier
answers are tokenised from their text. Reusing the tokens they were generated as would give other results than the
original.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .manifest import IMAGE_MARK, SpecialTokens, Template


@dataclass(frozen=True)
class Special:
    """A special token between two texts."""

    token: int
    text: str


@dataclass(frozen=True)
class Prompt:
    """The two text segments around the image."""

    before: str
    after: tuple[str | Special, ...]

    @property
    def text(self) -> str:
        return self.before + IMAGE_MARK + "".join(p if isinstance(p, str) else p.text for p in self.after)


def build_prompt(template: Template, special: SpecialTokens, turns: Sequence[tuple[str, str]], question: str) -> Prompt:
    """The prompt of `question` after earlier turns, each a question and the text of its answer.

    Special tokens spelled out in an answer become tokens again, as in the original. A question is plain text,
    whatever it holds: nobody types a token.
    """
    before, first = (template.system + template.first).split(IMAGE_MARK)
    questions = [*(asked for asked, _ in turns), question]
    parts: list[str | Special] = [first.replace("{question}", questions[0])]
    for (_, answer), following in zip(turns, questions[1:], strict=True):
        for part in _split_special(template.answer.replace("{answer}", answer), special):
            _append(parts, part)
        _append(parts, template.next.replace("{question}", following))
    return Prompt(before, tuple(parts))


def _split_special(text: str, special: SpecialTokens) -> list[str | Special]:
    tokens = special.by_text
    words = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text)
    return [Special(tokens[word], word) if i % 2 else word for i, word in enumerate(words)]


def _append(parts: list[str | Special], part: str | Special) -> None:
    """Add a part; text after text is one text, because the tokenizer sees it whole."""
    if isinstance(part, str) and isinstance(parts[-1], str):
        parts[-1] += part
    elif part:
        parts.append(part)
