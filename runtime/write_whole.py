"""Writes a file completely or not at all, readable by its owner alone."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write or replace a file, so that a reader finds all of it or what was there before.

    The file has mode 0600 whatever the umask is. A symbolic link at `target` is replaced, not followed; a device or a
    pipe is left alone. Raises OSError.
    """
    with suppress(FileNotFoundError):
        found = target.lstat().st_mode
        if not (stat.S_ISREG(found) or stat.S_ISLNK(found) or stat.S_ISDIR(found)):
            raise FileExistsError(None, "it is a device or a pipe, not a file", str(target))
    # Made exclusively, under a name that nobody can foresee: a link planted there would be followed.
    descriptor, temporary = tempfile.mkstemp(prefix=".skingpt-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if hasattr(os, "fchmod"):  # not on Windows
                os.fchmod(descriptor, 0o600)  # a umask may have taken the owner's own rights
            file.write(data)
            file.flush()
            os.fsync(descriptor)  # else a power cut after the renaming could leave an empty file
        Path(temporary).replace(target)
    except BaseException:  # also an interrupt
        Path(temporary).unlink(missing_ok=True)
        raise
