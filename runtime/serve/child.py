"""What every worker process does first."""

import ctypes
import os
import resource
import signal
import socket
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
M_ARENA_MAX = -8
M_MMAP_THRESHOLD = -3


def begin() -> socket.socket:
    """Tie this process to the server; the socket that connects them, which is its standard input.

    It dies with the server, leaves no core dump, which would hold photos, and lets the server see to interrupts.
    """
    protect_memory()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_ARENA_MAX, 1)  # threads' own heaps could not be cleared
    return socket.socket(fileno=os.dup(0))


def protect_memory() -> None:
    """No core dump of this process, and no other process of the same user may read its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)


def return_memory() -> None:
    """Blocks as large as a photo go back to the system when they are freed; glibc would keep them and their content."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


def clear_freed_memory() -> None:
    """Give freed memory, which may hold photos, back to the system, which clears it. With glibc only."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
