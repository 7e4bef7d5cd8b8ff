"""`keygen` and `pack`: a bundle as one signed file."""

import argparse
import json
from pathlib import Path

from ...engines.errors import ExportError
from .command import Commands, add


def add_package_commands(commands: Commands) -> None:
    keygen = add(commands, "keygen", help="make a pair of keys to sign packages with, in minisign's format")
    keygen.add_argument("-o", "--output", type=Path, required=True, metavar="NAME", help="writes NAME.key and NAME.pub")
    keygen.add_argument(
        "--no-password", action="store_true", help="make a key without a password: whoever has NAME.key can then sign"
    )
    keygen.set_defaults(run=_keygen)

    pack = add(commands, "pack", help="put a bundle into one signed file for `skingpt install`")
    pack.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    pack.add_argument(
        "--key", type=Path, metavar="FILE", help="secret key of `keygen` or minisign (default: not signed)"
    )
    pack.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: NAME.skingpt in this folder)"
    )
    pack.add_argument(
        "--name", metavar="NAME",
        help="name to install it under: a-z, 0-9, dot, hyphen, underscore (default: the folder's)",
    )  # fmt: skip
    pack.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="must grow with each package of this name (default: the time at which the bundle was made)",
    )
    pack.add_argument("--force", action="store_true", help="replace an existing file")
    pack.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    pack.set_defaults(run=_pack)


def _keygen(options: argparse.Namespace) -> None:
    from ..signing import ask_password, make_keys

    # Added, not replaced: a name may have a dot.
    secret, public = (options.output.with_name(options.output.name + ending) for ending in (".key", ".pub"))
    password = None
    if not options.no_password:
        password = ask_password("Password of the new key: ")
        if not password or password != ask_password("The same again: "):
            raise ExportError("the two passwords differ, or are empty; --no-password makes a key without one")
    number = make_keys(secret, public, password=password)
    print(f"{secret}: the secret key; nobody else may read it")
    print(f"{public}: the public key {number}, to be given away")


def _pack(options: argparse.Namespace) -> None:
    from ..pack import pack_bundle
    from ..signing import read_secret_key

    key = read_secret_key(options.key) if options.key else None
    packed = pack_bundle(
        options.bundle, options.output, key=key, name=options.name, version=options.version, force=options.force
    )
    facts = {"package": str(packed.path), "name": packed.index.name, "version": packed.index.version}
    if options.json:
        print(json.dumps({**facts, "bundle_id": packed.index.bundle_id, "signed": packed.signed}))
        return
    signed = "signed" if packed.signed else "NOT SIGNED: it can be installed with --unsigned only"
    megabytes = packed.path.stat().st_size / 1e6
    print(f"{packed.path}: {packed.index.name}, version {packed.index.version}, {megabytes:,.0f} MB, {signed}")
