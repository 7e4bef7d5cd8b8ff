"""`skingpt verify`: check every byte of a bundle, and that its parts fit together by their own headers."""

import json
from argparse import ArgumentParser, Namespace

from ..bundle import check_hashes, check_language_model, read_bundle
from ..loading import load_vision
from ..options import Options
from ..printable import printable
from ..resolve import resolve
from .arguments import BundleOnly, add_bundle, parse_bundle
from .terminal import show_hashing

HELP = "check every byte of a bundle and that its parts fit"


def configure(parser: ArgumentParser) -> None:
    add_bundle(parser)


def parse(given: Namespace) -> BundleOnly:
    return parse_bundle(given)


def run(arguments: BundleOnly) -> int:
    bundle = read_bundle(arguments.bundle)
    check_hashes(bundle, show_hashing)
    check_language_model(bundle)
    load_vision(bundle, resolve(bundle, Options()).vision).close()
    notice = bundle.manifest.notice
    if arguments.json:
        print(json.dumps({"bundle": str(bundle.path), "id": bundle.id, "ok": True, "notice": notice}))
    else:
        print(f"{bundle.path}: whole and unchanged, {len(bundle.manifest.files)} files, id {bundle.id[:16]}")
        print(printable(notice))
    return 0
