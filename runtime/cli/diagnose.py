"""`skingpt diagnose`: a report for each picture, or several sampled answers and how far they agree."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...engines.errors import InputError
from ..client import Client
from ..condition_names import read_conditions
from ..consistency import compare
from ..html_report import BEGINNING, Entry, write_html_report
from ..image import read_image_file, thumbnail
from ..manifest import Question
from ..printable import one_line, printable
from ..report import Report, error_json
from ..skingpt import SkinGPT
from ..text_file import read_text
from .arguments import (
    Generation,
    Model,
    UsageError,
    add_generation,
    add_model,
    parse_generation,
    parse_model,
)
from .output_paths import check_output
from .served import add_server, parse_client, served_report
from .terminal import note_lines, print_heading, print_report_end, show_progress

HELP = "write a report about each picture: the bundle's questions and their answers"
SAMPLING_TEMPERATURE = 1.0  # the original's


@dataclass(frozen=True)
class Arguments:
    images: tuple[Path, ...]
    questions: tuple[Question, ...]
    """Empty: the bundle's own."""
    json: bool
    html: Path | None
    samples: int
    """0: a report instead of samples."""
    conditions: Path | None
    reproducible: bool
    model: Model
    generation: Generation
    client: Client | None
    """Of a service that answers, in place of a model in this process."""


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="photos: JPEG, PNG or WebP")
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="ask the questions in this file, one a line, in place of the bundle's",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each picture")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a web page with pictures and reports")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="sample N answers to the first question, and show how far they agree"
    )
    parser.add_argument(
        "--conditions", type=Path, metavar="FILE", help="with --samples: file with the conditions' names, one a line"
    )
    parser.add_argument(
        "--reproducible", action="store_true", help="with --samples: generate one after the other, not together"
    )
    add_server(parser)
    add_model(parser)
    add_generation(parser)


def parse(given: Namespace) -> Arguments:
    client = parse_client(given, configure)
    _check_html(given)
    samples = given.samples is not None
    if samples and given.html:
        raise UsageError("--samples and --html do not go together: there is no page of samples")
    if not samples and (given.conditions or given.reproducible):
        raise UsageError("--conditions and --reproducible need --samples")
    generation = parse_generation(given, sampled=samples)
    room = {"samples": given.samples, "sample_tokens": generation.max_new_tokens} if samples else {}
    return Arguments(
        images=tuple(given.images),
        questions=read_questions(given.questions) if given.questions else (),
        json=given.json,
        html=given.html,
        samples=given.samples or 0,
        conditions=given.conditions,
        reproducible=given.reproducible,
        model=parse_model(given, **room),
        generation=generation,
        client=client,
    )


def _check_html(given: Namespace) -> None:
    html: Path | None = given.html
    if html is None:
        return
    if not html.absolute().parent.is_dir():
        raise UsageError(f"--html: there is no folder {html.absolute().parent}")
    if html.is_symlink() or (html.exists() and not html.is_file()):
        raise UsageError(f"--html: {html} is not a regular file, and would be replaced by one")
    inputs = [*given.images, given.questions, given.conditions]
    check_output("--html", html, inputs, BEGINNING, given.bundle)


def read_questions(path: Path) -> tuple[Question, ...]:
    """Questions from a text file, one a line; blank lines and lines that begin with # are left out."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except InputError as error:
        raise UsageError(f"--questions: {error}") from None
    questions = [line for line in lines if line and not line.startswith("#")]
    if not questions:
        raise UsageError(f"--questions: {path} holds no question")
    return tuple(Question(f"Question {i}", question) for i, question in enumerate(questions, 1))


def run(arguments: Arguments) -> int:
    """Answer for each picture."""
    if client := arguments.client:
        generation, as_json = arguments.generation, arguments.json
        return _each_picture(arguments, partial(served_report, client, generation=generation, as_json=as_json))
    conditions = read_conditions(arguments.conditions) if arguments.samples else ()
    entries: list[Entry] = []
    with arguments.model.open() as model:

        def answer(data: bytes, name: str) -> None:
            if arguments.samples:
                _samples(model, data, name, arguments, conditions)
            elif (report := _report(model, data, name, arguments)) and arguments.html:
                entries.append(Entry(thumbnail(data, name), report))

        try:
            return _each_picture(arguments, answer)
        finally:  # what is finished is kept, whatever stopped the rest
            if entries and arguments.html:
                write_html_report(arguments.html, entries)
                show_progress(f"page: {arguments.html}")


def _each_picture(arguments: Arguments, answer: Callable[[bytes, str], None]) -> int:
    """The exit code; a picture that cannot be used does not keep the others from their reports."""
    code = 0
    for number, path in enumerate(arguments.images, 1):
        show_progress(f"picture {number} of {len(arguments.images)}: {path.name}")
        try:
            answer(read_image_file(path), path.name)
        except InputError as error:
            code = error.exit_code
            _show_error(path.name, error, as_json=arguments.json)
    return code


def _show_error(name: str, error: InputError, *, as_json: bool) -> None:
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    if as_json:
        print(json.dumps(error_json(name, str(error))), flush=True)


def _report(model: SkinGPT, data: bytes, name: str, arguments: Arguments) -> Report:
    """A picture's report, streamed to standard output unless it is JSON."""
    config = arguments.generation.config(model.defaults)
    questions = arguments.questions or model.bundle.manifest.questions
    current = -1
    image = model.embed(data, name)
    if not arguments.json:
        print(note_lines(note.text for note in image.notes), end="", flush=True)
    for event in model.stream_report(image, questions, config):
        section, text = (len(questions) - 1, "") if isinstance(event, Report) else event
        while current < section and not arguments.json:  # an answer may be empty
            current += 1
            print_heading(current, questions[current].section)
        if not arguments.json:
            print(printable(text), end="", flush=True)
    assert isinstance(event, Report)
    print_report_end(event.to_json(), as_json=arguments.json)
    return event


def _samples(model: SkinGPT, data: bytes, name: str, arguments: Arguments, conditions: tuple[str, ...]) -> None:
    """Several answers to one question, and how far they agree."""
    config = arguments.generation.config(model.defaults)
    if config.temperature == 0:
        config = replace(config, temperature=SAMPLING_TEMPERATURE)
    image, together = model.embed(data, name), not arguments.reproducible
    if not arguments.json:
        print(note_lines(note.text for note in image.notes), end="", flush=True)
    for item in arguments.questions or model.bundle.manifest.questions[:1]:
        begun = time.perf_counter()
        answers = model.samples(image, item.question, config, arguments.samples, together=together)
        found = compare(image, item.question, answers, conditions)
        notice = model.bundle.notice
        if arguments.json:
            print(json.dumps({**found.to_json(), "seed": config.seed, "notice": notice}), flush=True)
            continue
        print(f"\n{printable(item.question)}\n")
        for number, (answer, condition) in enumerate(zip(found.answers, found.named, strict=True), 1):
            print(f"{number:>3}  [{condition or 'no condition named'}] {one_line(printable(answer.text))}")
        counts = ", ".join(f"{condition or 'none named'} {count}" for condition, count in found.counts)
        print(f"\n{found.agreement:.0%} of {len(answers)} answers name the same condition ({counts})")
        print(f"[{time.perf_counter() - begun:.2f} s, temperature {config.temperature:g}, seed {config.seed}]")
        print(f"{printable(notice)}\n", flush=True)
