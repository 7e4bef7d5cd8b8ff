"""The folder for what is kept between runs. It never holds anything of a picture or an answer."""

import os
from pathlib import Path

from .write_whole import write_whole


def cache_folder() -> Path:
    """Raises RuntimeError if there is no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skingpt-edge"


def keep(target: Path, data: bytes) -> None:
    """Write a file of the cache, and the folders above it. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(target, data)
