"""Writes a file completely or not at all."""

import os
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write or replace a file, so that a reader finds all of it or what was there before. Raises OSError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
