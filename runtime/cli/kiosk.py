"""`skingpt kiosk`: the file with which a browser opens the kiosk page of a service."""

import hashlib
import json
import time
from argparse import ArgumentParser, Namespace
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ...engines.errors import InputError
from ..client import Client
from ..serve.settings import PORT
from ..serve.token_file import default_token_file, read_token
from ..write_whole import write_whole
from .arguments import UsageError
from .output_paths import check_output

HELP = "write the file with which a browser opens the service's page for touch screens"
BEGINNING = b"<!doctype html><!-- SkinGPT Edge kiosk -->"
START = """{beginning}
<html lang="en"><meta charset="utf-8"><title>SkinGPT Edge</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{hash}'">
<meta name="color-scheme" content="light dark">
<script>{script}</script></html>
"""
SCRIPT = "location.replace({page})"  # no entry of the browser's history leads back to the token
PAUSE = 0.5  # seconds


@dataclass(frozen=True)
class Arguments:
    file: Path
    port: int
    token_file: Path
    wait: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="file to write; you alone can read it, because the token is in it"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help="port of the service (default: %(default)s)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the service's token file (default: ~/.local/state/skingpt-edge/token)",
    )
    parser.add_argument("--wait", action="store_true", help="wait until the service is ready")


def parse(given: Namespace) -> Arguments:
    if not 1 <= given.port <= 65535:
        raise UsageError(f"--port is {given.port}, expected 1 to 65535")
    if not given.file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {given.file.absolute().parent}")
    if given.file.is_symlink() or (given.file.exists() and not given.file.is_file()):
        raise UsageError(f"{given.file} is not a regular file, and would be replaced by one")
    token_file = given.token_file or default_token_file()
    check_output("FILE", given.file, [token_file], BEGINNING)
    return Arguments(given.file, given.port, token_file, given.wait)


def run(arguments: Arguments) -> int:
    service = Client(f"http://127.0.0.1:{arguments.port}", token_file=arguments.token_file)
    while arguments.wait and not service.ready():  # a browser would show its own page of an error, and stay there
        time.sleep(PAUSE)
    token = read_token(arguments.token_file)
    try:
        write_whole(arguments.file, start_file(arguments.port, token).encode())
    except OSError as error:
        raise InputError(f"{arguments.file}: the file cannot be written: {error.strerror}") from None
    print(arguments.file.absolute().as_uri())
    return 0


def start_file(port: int, token: str) -> str:
    """An HTML file that opens the page.

    The token stands behind the `#` of the page's address: a browser sends that part to nobody.
    """
    page = f"http://127.0.0.1:{port}/kiosk/#token={quote(token, safe='')}"
    script = SCRIPT.format(page=json.dumps(page))
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return START.format(beginning=BEGINNING.decode(), hash=f"sha256-{digest}", script=script)
