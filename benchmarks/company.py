"""How often company changes a token: `python -m skingpt_edge.benchmarks.company BUNDLE PICTURE…`.

Every question of the protocol is answered about every picture, greedily: alone, and again with three others beside it.
A matrix product of several rows may add in another order than that of one, so that of two tokens that are equally
likely the other may win. From the first token that differs on the two answers are different texts, so it ends the
count of its answer.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.options import Options
from ..runtime.sampling import GenerationConfig
from ..runtime.skingpt import SkinGPT

AT_ONCE = 4


@dataclass(frozen=True)
class Company:
    """What company changed."""

    answers: int
    changed: int
    """Answers with a token that differs."""
    tokens: int
    """Tokens compared: all up to the first that differs."""

    def sentence(self) -> str:
        often = f"one token in {self.tokens / self.changed:.0f}" if self.changed else "no token"
        return f"{AT_ONCE} at once: {often} changed, in {self.changed} of {self.answers} answers, {self.tokens} tokens"


def measure(bundle: Path, pictures: Sequence[Path], tokens: int) -> Company:
    """Compare answers of exactly `tokens` tokens. Raises BundleError, ImageError, EngineError."""
    config = GenerationConfig(max_new_tokens=tokens, temperature=0.0, ignore_stop=True)
    with SkinGPT.open(bundle, options=Options(conversations=AT_ONCE)) as model:
        questions = [item.question for item in model.bundle.manifest.questions]
        asked = [(model.embed(path.read_bytes(), path.name), text) for path in pictures for text in questions]
        alone = [model.ask(image, question, config).token_ids for image, question in asked]
        scheduler = model.scheduler()
        conversations = [model.conversation(image) for image, _ in asked]
        tickets = [
            scheduler.add(conversation.job(question, config))
            for conversation, (_, question) in zip(conversations, asked, strict=True)
        ]
        scheduler.run()
        for ticket in tickets:
            if ticket.error:
                raise ticket.error
        return compare(alone, [conversation.answers[0].token_ids for conversation in conversations])


def compare(alone: Sequence[Sequence[int]], together: Sequence[Sequence[int]]) -> Company:
    """Count what differs between the same answers."""
    ends = [_first_difference(a, b) for a, b in zip(alone, together, strict=True)]
    changed = sum(end is not None for end in ends)
    compared = (len(a) if end is None else end + 1 for a, end in zip(alone, ends, strict=True))
    return Company(len(ends), changed, sum(compared))


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m skingpt_edge.benchmarks.company", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE")
    parser.add_argument("--tokens", type=int, default=40, metavar="N", help="of each answer (%(default)s)")
    options = parser.parse_args()
    print(measure(options.bundle, options.pictures, options.tokens).sentence())


if __name__ == "__main__":
    main()
