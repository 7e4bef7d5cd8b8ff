"""`skingpt remove`: remove an installed bundle."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass

from .arguments import JSON_HELP

HELP = "remove an installed bundle, or the version of it that is kept to go back to"


@dataclass(frozen=True)
class Arguments:
    name: str
    previous: bool
    json: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the bundle, as `skingpt bundles` lists it")
    parser.add_argument("--previous", action="store_true", help="remove only the version before the current one")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def parse(given: Namespace) -> Arguments:
    return Arguments(given.name, given.previous, given.json)


def run(arguments: Arguments) -> int:
    from ..install.installing import remove

    removed = remove(arguments.name, previous_only=arguments.previous)
    if arguments.json:
        print(json.dumps([asdict(version) for version in removed]))
    else:
        print("\n".join(f"removed {version.name}, version {version.version}" for version in removed))
    return 0
