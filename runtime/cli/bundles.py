"""`skingpt bundles`: which bundles are installed, which version of each is used, and who signed it."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from ...engines.errors import BundleError
from ..install.store import State, stores
from ..printable import one_line
from .arguments import JSON_HELP

HELP = "list the installed bundles, their versions, and who signed them"


@dataclass(frozen=True)
class Arguments:
    json: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def parse(given: Namespace) -> Arguments:
    return Arguments(given.json)


def run(arguments: Arguments) -> int:
    from ..install.installing import clean_up, list_installed

    listed = {}
    for store in stores():
        clean_up(store)
        listed[store] = dict(list_installed(store))
    if arguments.json:
        facts = {str(store): {name: _facts(state) for name, state in found.items()} for store, found in listed.items()}
        print(json.dumps(facts))
    else:
        lines = [line for store, found in listed.items() for name in found for line in _lines(name, found[name], store)]
        print("\n".join(lines or ["no bundle is installed: skingpt install NAME.skingpt"]))
    wrong = any(isinstance(state, BundleError) for found in listed.values() for state in found.values())
    return BundleError.exit_code if wrong else 0


def _lines(name: str, state: State | BundleError, store: Path) -> list[str]:
    if isinstance(state, BundleError):
        return [f"{name:<24} error: {one_line(str(state))}"]
    known = {"current": state.current, "previous": state.previous}
    return [f"{name:<24} {one.version:>18} {what:<9} {one.signature}, in {store}" for what, one in known.items() if one]


def _facts(state: State | BundleError) -> dict[str, object]:
    if isinstance(state, BundleError):
        return {"error": str(state)}
    current, previous = (asdict(one) if one else None for one in (state.current, state.previous))
    return {"current": current, "previous": previous, "highest_version": state.highest_version}
