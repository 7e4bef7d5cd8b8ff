"""`skingpt chat`: questions and follow-ups about one picture, from the command line or typed in."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from ...engines.errors import SkinGPTError
from ..conversation import Conversation
from ..image import read_image_file
from ..printable import one_line, printable
from ..report import Section
from ..sampling import GenerationConfig
from .arguments import (
    Generation,
    Model,
    UsageError,
    add_generation,
    add_model,
    parse_generation,
    parse_model,
)
from .terminal import note_lines, timings

HELP = "ask questions of your own about one picture, with follow-ups"


@dataclass(frozen=True)
class Arguments:
    image: Path
    asked: tuple[str, ...]
    """Empty: questions are typed in."""
    json: bool
    model: Model
    generation: Generation


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="photo: JPEG, PNG or WebP")
    parser.add_argument(
        "-q",
        dest="asked",
        action="append",
        metavar="QUESTION",
        help="ask this, and do not wait for typed questions; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end; needs -q")
    add_model(parser)
    add_generation(parser)


def parse(given: Namespace) -> Arguments:
    if given.json and not given.asked:
        raise UsageError("--json needs the questions: -q QUESTION")
    asked = tuple(given.asked or ())
    return Arguments(given.image, asked, given.json, parse_model(given), parse_generation(given))


def run(arguments: Arguments) -> int:
    data = read_image_file(arguments.image)
    with arguments.model.open() as model:
        config = arguments.generation.config(model.defaults)
        conversation = model.conversation(model.embed(data, arguments.image.name))
        if not arguments.json:
            print(note_lines(note.text for note in conversation.image.notes), end="", flush=True)
        prepared = None if arguments.asked else _preparing(conversation)
        for question in arguments.asked or _typed():
            if prepared:
                prepared.join()
            _ask(conversation, question, config, arguments)
        sections = [Section(f"Question {i}", answer) for i, answer in enumerate(conversation.answers, 1)]
        if not sections:  # the picture may still be on its way into the prompt; that ends when the model is closed
            return 0
        report = model.make_report(conversation.image, sections, config)
        if arguments.json:
            print(json.dumps(report.to_json()))
        else:
            print(f"{timings(report.to_json())}\n{printable(report.notice)}")
    return 0


def _preparing(conversation: Conversation) -> Thread:
    """A thread that puts the picture into the prompt, while the first question is being typed.

    It ends after a chunk of the prompt when the model is closed.
    """

    def prepare() -> None:
        with suppress(Exception):  # the question meets the same error, and tells it
            conversation.prepare()

    thread = Thread(target=prepare)
    thread.start()
    return thread


def _ask(conversation: Conversation, question: str, config: GenerationConfig, arguments: Arguments) -> None:
    if arguments.json:
        conversation.ask(question, config)
        return
    if arguments.asked:
        print(f"> {one_line(question)}")
    try:
        for text in conversation.stream(question, config):
            print(printable(text), end="", flush=True)
    except SkinGPTError as error:
        if arguments.asked:
            raise
        print(f"error: {error}", file=sys.stderr)
        return
    dropped = conversation.answers[-1].dropped_turns
    print(f"\n({dropped} earlier turns no longer fit into the context)\n" if dropped else "\n")


def _typed() -> Iterator[str]:
    """Lines typed at the prompt, until an empty one or the end of input."""
    print("Ask about the picture; an empty line ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
