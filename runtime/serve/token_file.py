"""The service's token: made once, and kept in a file that its owner alone can read."""

import os
import secrets
import stat
from pathlib import Path

from ...engines.errors import InputError

LEAST = 32  # characters


def default_token_file() -> Path:
    """Where the token is kept unless told otherwise. Raises InputError if there is no home directory."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd's
    if state:
        return Path(state) / "token"
    home = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(home) if home else Path.home() / ".local" / "state"
    except RuntimeError:
        raise InputError("there is no home directory to keep the token in: give --token-file") from None
    return folder / "skingpt-edge" / "token"


def read_token(path: Path) -> str:
    """The token in a file. Raises InputError if others can read the file, or if it holds no token."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise InputError(f"the token file {path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor) as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or (os.name == "posix" and mode & 0o077):
            raise InputError(f"the token file {path} can be read by others: chmod 600 it, or delete it for a new token")
        token = file.read(1000).strip()
    if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"the token file {path} holds no token of {LEAST} characters or more: delete it for a new one")
    return token


def make_token(path: Path) -> str:
    """Write a new token into a new file. Raises InputError."""
    token = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(token + "\n")
    except OSError as error:
        raise InputError(f"the token file {path} cannot be written: {error.strerror}") from None
    return token
