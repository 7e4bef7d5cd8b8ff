"""`skingpt trace`: every stage of one run as arrays and tokens."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from ..image import read_image_file
from ..trace import FILES, write_trace
from .arguments import Generation, Model, UsageError, add_generation, add_model, parse_generation, parse_model
from .output_paths import check_output
from .terminal import show_progress

HELP = "save the arrays and tokens of every stage, for comparing engines"


@dataclass(frozen=True)
class Arguments:
    image: Path
    asked: tuple[str, ...]
    output: Path
    model: Model
    generation: Generation


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="photo: JPEG, PNG or WebP")
    parser.add_argument(
        "-q", dest="asked", action="append", required=True, metavar="QUESTION", help="ask this; may be repeated"
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add_model(parser)
    add_generation(parser)


def parse(given: Namespace) -> Arguments:
    if given.output.exists() and not given.output.is_dir():
        raise UsageError(f"-o: {given.output} is a file, not a folder: give another name")
    for name, begins in FILES.items():
        check_output("-o", given.output / name, [given.image], begins, given.bundle)
    return Arguments(given.image, tuple(given.asked), given.output, parse_model(given), parse_generation(given))


def run(arguments: Arguments) -> int:
    data = read_image_file(arguments.image)
    with arguments.model.open() as model:
        config = arguments.generation.config(model.defaults)
        write_trace(model, data, arguments.image.name, list(arguments.asked), config, arguments.output)
        show_progress(f"trace: {arguments.output}")
        show_progress(model.bundle.notice)
    return 0
