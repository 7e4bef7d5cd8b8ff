"""`skingpt-export`: make bundles, and measure how often the demonstration model is right.

Exit codes: 0 done, 2 usage, 3 a picture cannot be used, 4 checkpoints or bundle, 6 an engine failed.
"""

import argparse
import sys
from collections.abc import Sequence

from ...engines.errors import ExportError, SkinGPTError
from .bundles import add_bundle_commands
from .demonstration import add_demo_commands
from .packages import add_package_commands


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; {options.kept}", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return ExportError.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skingpt-export", description="Make bundles for skingpt, and judge them.")
    parser.set_defaults(kept="nothing was written")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    add_bundle_commands(commands)
    add_package_commands(commands)
    add_demo_commands(commands)
    return parser
