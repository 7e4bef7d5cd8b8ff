"""`skingpt`: ask about pictures of skin on this machine.

Exit codes: 0 done, 2 usage, 3 a picture or question cannot be used, 4 the bundle, 6 an engine failed.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from ...engines.errors import EngineError, InputError, SkinGPTError
from ..printable import one_line
from . import chat, diagnose, info, trace, tune, verify
from .arguments import UsageError, name_flag

INTERRUPTED, PIPE_CLOSED = 130, 141


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
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    given = parser.parse_args(arguments)
    command: Command = given.command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter still shows the rest
    try:
        code = command.run(_parse(parser, command, given))
        sys.stdout.flush()
    except SkinGPTError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # for instance a full disk behind a redirected output
        print(f"error: {error.strerror or error}", file=sys.stderr)
        return EngineError.exit_code
    except MemoryError:
        print("error: the machine has too little memory for this bundle", file=sys.stderr)
        return EngineError.exit_code
    return code


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
        prog="skingpt", description="Ask about pictures of skin, on this machine and nowhere else."
    )
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = sub.add_parser(name, help=command.HELP)
        command.configure(added)
        added.set_defaults(command=command)
    return parser
