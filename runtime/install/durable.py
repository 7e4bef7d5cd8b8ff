"""Changes to folders and small files that a power cut cannot undo or halve."""

import os
import stat
from pathlib import Path

from ..cache_folder import FOREIGN_WRITERS

FOLDER_MODE, FILE_MODE = 0o755, 0o644  # whatever the umask is: the service runs as another user than root


def make_folder(folder: Path) -> None:
    """Make a folder that its owner alone can write to, and those above it that are missing. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    folder.chmod(FOLDER_MODE)
    sync_folder(folder.parent)


def new_file(path: Path) -> int:
    """A descriptor of a new file for writing, which everybody may read. Raises OSError, also if it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def write_durably(target: Path, data: bytes) -> None:
    """Write or replace a file in a folder of ours: a reader finds all of it, or what was there before.

    Raises OSError.
    """
    temporary = temporary_file(target)
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(new_file(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # also an interrupt
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def temporary_file(target: Path) -> Path:
    """What `write_durably` leaves beside a file if its process is killed."""
    return target.with_name(f".{target.name}.new")


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in a folder stays so after a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def others_can_write(found: os.stat_result) -> bool:
    """Whether another user than this one and root owns a file or folder or can write to it."""
    if not hasattr(os, "geteuid"):  # Windows keeps a user's files from others by itself
        return False
    return found.st_uid not in (0, os.geteuid()) or bool(stat.S_IMODE(found.st_mode) & FOREIGN_WRITERS)
