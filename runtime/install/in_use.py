"""Which versions of a bundle a running service still needs, so that none is removed under it."""

import fcntl
import os
from pathlib import Path


def hold(folder: Path) -> int:
    """Keep a bundle's folder from being removed by an upgrade, as long as this descriptor is open. Raises OSError.

    A program that this process becomes (`exec`) inherits it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)
    return descriptor


def in_use(folder: Path) -> bool:
    """Whether a process holds it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
