"""Write the man pages of `skingpt` and its commands: `python man_pages.py FOLDER`.

They are made of the commands' own help: `skingpt.1`, and `skingpt-diagnose.1` and so on, which `man skingpt diagnose`
shows. Their date is today's, or that of SOURCE_DATE_EPOCH.
"""

import argparse
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from argparse_manpage.manpage import Manpage
from skingpt_edge.runtime.cli import COMMANDS, EXIT_CODES, make_parser

TITLE = "SkinGPT Edge"
FILES = {
    "~/.cache/skingpt-edge": "which bundles were checked on this machine, and what was measured; nothing of a photo",
    "~/.local/state/skingpt-edge/token": "the token of the service, which you alone can read",
    "~/.local/share/skingpt-edge/bundles": "bundles that you installed",
    "/var/lib/skingpt-edge-bundles": "bundles that root installed, for all users",
    "~/.config/skingpt-edge/trusted-keys": "keys whose packages you trust",
    "/etc/skingpt-edge/trusted-keys": "keys whose packages everybody on this machine trusts",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the man pages of `skingpt` and its commands.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="such as STAGED/usr/share/man/man1")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COLUMNS"] = "100"  # argparse wraps by it
    for name, text in man_pages():
        (folder / f"{name}.1").write_text(text)


def man_pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page."""
    whole = make_parser()
    (commands,) = (action.choices for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    assert list(commands) == list(COMMANDS)
    others = [f"skingpt-{name}" for name in commands]
    yield "skingpt", _overview(whole)
    for name, parser in commands.items():
        page = _page(parser, f"skingpt-{name}", COMMANDS[name].HELP)
        _add_ends(page, ["skingpt", *(other for other in others if other != f"skingpt-{name}")])
        yield f"skingpt-{name}", str(page)


def _overview(whole: argparse.ArgumentParser) -> str:
    """The page of `skingpt` itself, which names its commands."""
    bare = argparse.ArgumentParser(prog=whole.prog, usage="skingpt COMMAND ...", description=whole.description)
    page = _page(bare, "skingpt", "ask about pictures of skin, on this machine and nowhere else")
    lines = (f".TP\n\\fBskingpt {name}\\fR\n{roff(command.HELP)}" for name, command in COMMANDS.items())
    page.add_section("commands", "=", "\n".join(lines))
    _add_ends(page, [f"skingpt-{name}" for name in COMMANDS])
    return str(page)


def _page(parser: argparse.ArgumentParser, name: str, purpose: str) -> Manpage:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = f"{datetime.fromtimestamp(seconds, UTC):%B %d, %Y}"  # no hyphens, which argparse-manpage would escape
    data = {
        "project_name": "skingpt-edge", "version": version("skingpt-edge"), "manual_title": TITLE, "date": date,
    }  # fmt: skip
    page = Manpage(parser, data)
    page.prog, page.description = name, purpose
    return page


def _add_ends(page: Manpage, others: list[str]) -> None:
    codes = {str(code): meaning for code, meaning in EXIT_CODES.items()}
    for heading, entries in (("exit status", codes), ("files", FILES)):
        lines = (f".TP\n\\fB{roff(name)}\\fR\n{roff(words)}" for name, words in entries.items())
        page.add_section(heading, "=", "\n".join(lines))
    page.add_section("see also", "=", ",\n".join(f"\\fB{roff(other)}\\fR(1)" for other in sorted(others)))


def roff(text: str) -> str:
    """Plain text in a man page. Hyphens stay hyphens, so that options and paths can be copied."""
    return text.replace("\\", "\\\\").replace("-", r"\-")


if __name__ == "__main__":
    main()
