"""`skingpt verify`: check every byte of a bundle, that its parts fit, and that it computes here what it should."""

import json
from argparse import ArgumentParser, Namespace

from ..bundle import read_bundle
from ..printable import printable
from ..verification import verify_bundle
from .arguments import BundleOnly, add_bundle, parse_bundle
from .terminal import show_hashing

HELP = "check every byte of a bundle, and that it runs and computes here what it should"


def configure(parser: ArgumentParser) -> None:
    add_bundle(parser)


def parse(given: Namespace) -> BundleOnly:
    return parse_bundle(given)


def run(arguments: BundleOnly) -> int:
    bundle = read_bundle(arguments.bundle)
    verify_bundle(bundle, show_hashing)
    notice, tested = bundle.notice, bundle.manifest.self_test is not None
    if arguments.json:
        found = {"bundle": str(bundle.path), "id": bundle.id, "ok": True, "self_test": tested, "notice": notice}
        print(json.dumps(found))
    else:
        test = "self-test passed" if tested else "runs; it has no self-test to compare with"
        print(f"{bundle.path}: whole and unchanged, {len(bundle.manifest.files)} files, id {bundle.id[:16]}; {test}")
        print(printable(notice))
    return 0
