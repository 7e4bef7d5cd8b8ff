"""The folder for what is kept between runs. It never holds anything of a picture or an answer.

What is read from it decides whether a bundle counts as verified. So only files of this user are read, from folders that
no one else can write to.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .write_whole import write_whole

MAX_BYTES = 1 << 30
FOREIGN_WRITERS = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Raises RuntimeError if there is no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skingpt-edge"


def keep(target: Path, data: bytes) -> None:
    """Write a file of the cache, and the folders above it.

    Raises OSError, also for a folder that another user owns or can write to.
    """
    cache_folder().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in _own_folders(target):
        folder.mkdir(exist_ok=True, mode=0o700)
        if not _is_ours(folder.lstat(), stat.S_ISDIR):
            raise PermissionError(f"{folder}: a link, or another user owns it or can write to it")
    write_whole(target, data)


def read_kept(target: Path, limit: int = MAX_BYTES) -> bytes | None:
    """What `keep` wrote, at most `limit` bytes; None if it is not there, or not a file of this user alone."""
    with suppress(OSError):
        if not all(_is_ours(folder.lstat(), stat.S_ISDIR) for folder in _own_folders(target)):
            return None
        # Not blocking: a FIFO in its place would otherwise wait for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(target, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if _is_ours(found, stat.S_ISREG) and found.st_size <= limit:
                return file.read(limit)
    return None


def forget(target: Path) -> None:
    """Remove what `keep` wrote, if it is there. Raises OSError."""
    target.unlink(missing_ok=True)


def _own_folders(target: Path) -> list[Path]:
    """The folders that are this program's, outermost first: `cache_folder` and those in it, above `target`."""
    root = cache_folder()
    return [folder for folder in reversed(target.parents) if folder == root or root in folder.parents]


def _is_ours(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    if not is_kind(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows keeps a user's cache from others by itself
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & FOREIGN_WRITERS
