"""`skingpt install`: put a bundle that came as one file into the folder of installed bundles."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from .arguments import JSON_HELP
from .terminal import show_progress

HELP = "install a bundle that came as one signed file"


@dataclass(frozen=True)
class Arguments:
    package: Path
    unsigned: bool
    older: bool
    json: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("package", type=Path, metavar="NAME.skingpt", help="file that `skingpt-export pack` made")
    parser.add_argument(
        "--unsigned", action="store_true",
        help="also install a package that no trusted key has signed; every report will say so",
    )  # fmt: skip
    parser.add_argument(
        "--older", action="store_true", help="also install a version that is not newer than all before it"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def parse(given: Namespace) -> Arguments:
    return Arguments(given.package, given.unsigned, given.older, given.json)


def run(arguments: Arguments) -> int:
    from ..install.installing import install

    options = {"unsigned": arguments.unsigned, "older": arguments.older}
    installed, before = install(arguments.package, **options, progress=show_copying)
    if arguments.json:
        print(json.dumps(asdict(installed)))
        return 0
    print(f"installed {installed.name}, version {installed.version}, {installed.signature}")
    if before.current:
        print(f"before: version {before.current.version}; `skingpt rollback {installed.name}` goes back to it")
    print(f"try it: skingpt diagnose PHOTO --bundle {installed.name}")
    if not installed.signer:
        show_progress("every report will say that this model's package was not signed by a trusted key")
    return 0


def show_copying(name: str, done: int, total: int) -> None:
    """How much of a file is copied and checked, on a terminal only."""
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"copying {name} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr, flush=True)
