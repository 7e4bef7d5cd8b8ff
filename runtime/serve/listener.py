"""The one address that the service listens on: 127.0.0.1, or a Unix socket of its owner alone."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from ...engines.errors import EngineError, InputError

HOST = "127.0.0.1"
BACKLOG = 128
ADVICE = {
    errno.EADDRINUSE: "another program uses it: give another --port, or stop that program",
    errno.EACCES: "this user may not: give a --port of 1024 or more",
}


def listen(port: int, path: Path | None) -> socket.socket:
    """An open listening socket. Raises EngineError if the address is taken, InputError if it cannot be used."""
    return _listen_unix(path) if path else _listen_loopback(port)


def _listen_loopback(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = ADVICE.get(error.errno or 0, error.strerror)
        raise EngineError(f"port {port} of {HOST} cannot be opened: {reason}") from None
    return listener


def _listen_unix(path: Path) -> socket.socket:
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # from the first moment on, nobody else can connect
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"the socket {path} cannot be made: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return listener


def _clear(path: Path) -> None:
    """Remove a socket that a service left behind that has ended. Raises EngineError, InputError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"the socket {path} cannot be made: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} is there already, and is no socket: give another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)  # a service that is stopped in a debugger takes no more connections
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with suppress(OSError):
                path.unlink()
            return
        except TimeoutError:
            pass
        except OSError as error:  # for instance another user's
            raise InputError(f"the socket {path} cannot be made: {error.strerror or error}") from None
    raise EngineError(f"the socket {path} is in use: another service is running")
