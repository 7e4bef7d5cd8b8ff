"""Pictures with the reports that belong to them, as the prompts and answers that the language model reads.

A quantiser that knows what a matrix is usually multiplied with rounds the columns that matter with more care.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from ..engines.errors import ExportError
from ..runtime.image import decode_image, read_image_file
from ..runtime.manifest import Question, SpecialTokens, Template
from ..runtime.prompt import Special, build_prompt
from .llama_reference import token_embeddings
from .llama_weights import LlamaSource

TEXT = ".txt"


@dataclass(frozen=True)
class Example:
    """A picture and the answers to the first questions of the protocol."""

    name: str
    picture: bytes
    answers: tuple[str, ...]


def read_examples(folder: Path, questions: int) -> list[Example]:
    """The pictures of a folder, each with the text file of the same name; its paragraphs are answers, in order.

    Raises ExportError and ImageError, before hours of work.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such directory")
    examples = []
    for text in sorted(folder.glob(f"*{TEXT}")):
        pictures = [path for path in sorted(folder.glob(f"{text.stem}.*")) if path.suffix != TEXT]
        if len(pictures) != 1:
            raise ExportError(f"{text}: expected one picture of the same name, found {len(pictures)}")
        answers = _paragraphs(text)
        if not 1 <= len(answers) <= questions:
            raise ExportError(
                f"{text}: {len(answers)} paragraphs, expected 1 to {questions}: answers to the report's questions"
            )
        picture = read_image_file(pictures[0])
        decode_image(picture, pictures[0].name)
        examples.append(Example(text.stem, picture, answers))
    if not examples:
        raise ExportError(f"{folder}: no NAME{TEXT} beside a picture of the same name")
    return examples


def _paragraphs(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExportError(f"{path}: not UTF-8 text") from None
    return tuple(" ".join(part.split()) for part in text.replace("\r\n", "\n").split("\n\n") if part.strip())


def sequence(
    llama: LlamaSource,
    template: Template,
    special: SpecialTokens,
    questions: Sequence[Question],
    answers: Sequence[str],
    image_embeds: Tensor,
) -> Tensor:
    """Embeddings (n, width) of a conversation: the prompt of its last question and the answer to it.

    `image_embeds`: (queries, width), as the bundle's vision gives them.
    """
    asked = [question.question for question in questions[: len(answers)]]
    turns = list(zip(asked[:-1], answers[:-1], strict=True))
    prompt = build_prompt(template, special, turns, asked[-1])
    tokenizer = SentencePieceProcessor(model_file=str(llama.folder / "tokenizer.model"))
    before = [tokenizer.bos_id(), *tokenizer.encode(prompt.before)]
    after: list[int] = []
    for part in (*prompt.after, answers[-1]):
        after += [part.token] if isinstance(part, Special) else tokenizer.encode(part)
    parts = (token_embeddings(llama, before), image_embeds.float(), token_embeddings(llama, after))
    return torch.cat(parts)
