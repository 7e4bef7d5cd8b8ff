"""Where the runtime keeps what it found out about bundles and this machine; nothing of a picture or an answer."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Raises RuntimeError if there is no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skingpt-edge"


def write_whole(target: Path, data: bytes) -> None:
    """Write a file in the cache so that a reader finds all of it or the one before. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
