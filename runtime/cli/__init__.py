"""`skingpt`: ask about pictures of skin on this machine.

Exit codes: 0 done, 2 usage, 3 a picture or question cannot be used, 4 the bundle, 6 an engine failed.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from ...engines.errors import EngineError, InputError, SkinGPTError
from ..printable import one_line
from . import bundles, chat, diagnose, info, install, kiosk, remove, rollback, serve, trace, tune, verify
from .arguments import UsageError, name_flag, sentence

INTERRUPTED, PIPE_CLOSED = 130, 141
EXIT_CODES = {
    0: "done",
    2: "wrong usage",
    3: "the picture or question cannot be used",
    4: "the bundle is damaged or unknown",
    6: "a library or the service failed",
    INTERRUPTED: "stopped by the user",
}


class Command(Protocol):
    """What the module of a command has."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def parse(self, given: argparse.Namespace) -> Any:
        """The arguments with their types. Raises UsageError, or InputError for an option out of range."""

    def run(self, arguments: Any) -> int:
        """Do it; the exit code. Raises SkinGPTError."""
        ...


COMMANDS: dict[str, Command] = {
    "diagnose": diagnose,
    "chat": chat,
    "trace": trace,
    "tune": tune,
    "info": info,
    "verify": verify,
    "serve": serve,
    "install": install,
    "bundles": bundles,
    "rollback": rollback,
    "remove": remove,
    "kiosk": kiosk,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    given = parser.parse_args(arguments)
    command: Command = given.command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter still shows the rest
    line = ""
    try:
        code = command.run(_parse(parser, command, given))
        sys.stdout.flush()
    except SkinGPTError as error:
        code, line = error.exit_code, f"error: {one_line(str(error))}"
    except KeyboardInterrupt:
        code, line = INTERRUPTED, "\ninterrupted"
    except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
        code = PIPE_CLOSED
    except OSError as error:  # for instance a full disk behind a redirected output
        code, line = EngineError.exit_code, f"error: {error.strerror or error}"
    except MemoryError:
        code, line = EngineError.exit_code, "error: the machine has too little memory for this bundle"
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        code, line = EngineError.exit_code, "error: the machine has too little memory for another thread"
    _end(line)
    return code


def _end(line: str) -> None:
    """Say why, and write what is still to be written; or drop it, if that cannot be done."""
    if line:
        with suppress(OSError):  # standard error may be full, too
            print(line, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it is tried again at the end


def _parse(parser: argparse.ArgumentParser, command: Command, given: argparse.Namespace) -> Any:
    """The command's arguments; ends the process with a line of help if one has a value that it cannot have."""
    try:
        return command.parse(given)
    except UsageError as error:
        parser.error(str(error))
    except InputError as error:
        parser.error(name_flag(str(error)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skingpt",
        description="Ask about pictures of skin, on this machine and nowhere else. Not for diagnosis.",
        epilog="Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    )
    sub = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        added = sub.add_parser(name, help=command.HELP, description=sentence(command.HELP))
        command.configure(added)
        added.set_defaults(command=command)
    return parser
