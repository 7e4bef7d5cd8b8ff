"""The service's token: made once, and kept in a file that its owner alone can read."""

import os
import secrets
import stat
from pathlib import Path

from ...engines.errors import InputError

LEAST, MOST = 32, 1000  # characters


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


def get_token(path: Path) -> tuple[str, bool]:
    """The token in a file, which is made if it is not there; and whether it was made. Raises InputError."""
    return (read_token(path), False) if os.path.lexists(path) else (make_token(path), True)


def check_token(path: Path) -> None:
    """Raises InputError if `get_token` would; makes nothing."""
    if os.path.lexists(path):
        read_token(path)
        return
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"the token file {path} cannot be written: {folder} is not a folder that we can write to")


def read_token(path: Path) -> str:
    """The token in a file. Raises InputError if others can read the file, or if it holds no token."""
    if path.is_symlink():
        raise InputError(f"the token file {path} is a symbolic link: give the file itself as --token-file")
    # Not blocking: a FIFO in its place would otherwise wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise InputError(f"the token file {path} cannot be read: {error.strerror}") from None
    try:
        _check_owner(path, os.fstat(descriptor))
        data = os.read(descriptor, MOST + 1)
    finally:
        os.close(descriptor)
    if len(data) > MOST:
        raise InputError(f"the token file {path} is longer than {MOST} bytes: delete it for a new one")
    token = data.decode(errors="replace").strip()
    if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"the token file {path} holds no token of {LEAST} characters or more: delete it for a new one")
    return token


def _check_owner(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"the token file {path} is a folder or a device, not a file: give another --token-file")
    if os.name != "posix":
        return
    if found.st_uid != os.geteuid():
        raise InputError(f"the token file {path} belongs to another user: give another --token-file")
    if found.st_mode & 0o077:
        raise InputError(f"the token file {path} can be read by others: chmod 600 it, or delete it for a new token")


def make_token(path: Path) -> str:
    """Write a new token into a new file. Raises InputError."""
    token = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask
                file.write(token + "\n")
        except OSError:  # for instance a full disk; half a token would be refused at the next start
            path.unlink()
            raise
    except OSError as error:
        raise InputError(f"the token file {path} cannot be written: {error.strerror}") from None
    return token
