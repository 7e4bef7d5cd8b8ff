"""`skingpt bundles`: which bundles are installed, which version of each is used, and who signed them."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass

from ..install.store import State, stores

HELP = "list the installed bundles, their versions, and who signed them"


@dataclass(frozen=True)
class Arguments:
    json: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document")


def parse(given: Namespace) -> Arguments:
    return Arguments(given.json)


def run(arguments: Arguments) -> int:
    from ..install.installing import clean_up, list_installed

    listed = {}
    for store in stores():
        clean_up(store)
        listed[store] = list(list_installed(store))
    if arguments.json:
        print(
            json.dumps({str(store): {name: _facts(state) for name, state in found} for store, found in listed.items()})
        )
        return 0
    for store, found in listed.items():
        for name, state in found:
            for what, version in (("current", state.current), ("previous", state.previous)):
                if version:
                    print(f"{name:<24} {version.version:>18} {what:<9} {version.signature}, in {store}")
    if not any(listed.values()):
        print("no bundle is installed: skingpt install NAME.skingpt")
    return 0


def _facts(state: State) -> dict[str, object]:
    return {
        "current": asdict(state.current) if state.current else None,
        "previous": asdict(state.previous) if state.previous else None,
        "highest_version": state.highest_version,
    }
