"""Outputs never take the place of something else: checked before any work starts."""

from collections.abc import Iterable
from pathlib import Path

from ..bundle import default_bundle
from .arguments import UsageError


def check_output(
    option: str, target: Path, inputs: Iterable[Path | None], begins: bytes, bundle: Path | None = None
) -> None:
    """Raise UsageError if writing `target` would replace an input, or any file but an earlier output.

    An earlier output is empty or begins with `begins`. Missing inputs (None) are left out. Nothing may be written into
    the bundle, which would not be opened again.
    """
    if target.absolute().parent.resolve() == (bundle or default_bundle()).resolve():
        raise UsageError(f"{option}: {target} would lie in the bundle: give a place outside of it")
    if not target.exists():
        return
    for path in inputs:
        if path is not None and path.exists() and path.samefile(target):
            raise UsageError(f"{option}: {target} is an input and would be overwritten: give another name")
    try:
        with target.open("rb") as file:
            found = file.read(len(begins))
    except OSError as error:
        raise UsageError(f"{option}: {target} exists and cannot be read: {error.strerror}") from None
    if found and found != begins:
        raise UsageError(f"{option}: {target} exists and was not written by this command: give another name")
