"""`skingpt rollback`: go back to the version of an installed bundle that was current before."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass

from .arguments import JSON_HELP

HELP = "go back to the version of an installed bundle before the current one"


@dataclass(frozen=True)
class Arguments:
    name: str
    json: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the bundle, as `skingpt bundles` lists it")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def parse(given: Namespace) -> Arguments:
    return Arguments(given.name, given.json)


def run(arguments: Arguments) -> int:
    from ..install.installing import roll_back

    current, before = roll_back(arguments.name)
    if arguments.json:
        print(json.dumps(asdict(current)))
    else:
        print(f"{current.name}: back to version {current.version}, {current.signature}; before: {before.version}")
    return 0
