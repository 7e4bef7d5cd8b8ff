"""Starts the commands. What must hold before anything large is imported is done here.

A command ends with one line and its exit code also when it is interrupted while it starts, when there is too little
memory to import a library, and when it was started without standard streams.
"""

from __future__ import annotations

# Built in; `signal` itself would import more, and nobody sees to interrupts yet.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # so would `typing`
    from types import FrameType
    from typing import Any, NoReturn

FAILED, INTERRUPTED = 6, 130
MOST = 200  # letters of a library's own words
NO_MEMORY = ("failed to map segment", "annot allocate memory")  # the loader's words


AGAIN = 0.05  # seconds


def _interrupt(_: int, frame: FrameType | None) -> None:
    while frame:
        if "importlib" in frame.f_code.co_filename:  # a half-imported library would make another error of it
            _end_or_try_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_or_try_again() -> None:
    """Where an interrupt cannot be raised: end at once, or raise it a moment later if files must be removed first."""
    if _may_wait():
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
    else:
        _end_interrupted()


def wait_for_imports() -> None:
    """From now on an interrupt waits until the library that is being imported is whole, so that files are removed."""
    if INTERRUPTIBLE and hasattr(signal, "SIGALRM"):  # not on Windows
        signal.signal(signal.SIGALRM, _interrupt)


def _may_wait() -> bool:
    return hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) is _interrupt


def _end_interrupted() -> NoReturn:
    os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)  # nothing is half-written


def _end_if_interrupted(unraisable: Any) -> None:
    """An interrupt in a function that a library called cannot be raised, and would be lost."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _end_or_try_again()
    else:
        sys.__unraisablehook__(unraisable)


INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so after `nohup` or `&`
if INTERRUPTIBLE:
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _end_if_interrupted


def skingpt() -> int:
    """`skingpt`"""
    # NumPy multiplies no large matrices here, and each of its threads would take memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return _run("skingpt_edge.runtime.cli")


def export() -> int:
    """`skingpt-export`"""
    wait_for_imports()
    return _run("skingpt_edge.export.cli")


def bench() -> int:
    """`skingpt-bench`"""
    return _run("skingpt_edge.benchmarks.cli")


def _run(module: str) -> int:
    from importlib import import_module

    _exit_on_abort()
    if not _open_standard_streams():
        return _fail("standard output is closed")
    try:
        return int(import_module(module).main())
    except KeyboardInterrupt:
        _end_interrupted()
    except (MemoryError, SystemError):  # where CPython itself finds no memory, it may only know that a call failed
        return _fail("the machine has too little memory")
    except ImportError as error:
        little = any(words in str(error) for words in NO_MEMORY)
        return _fail("the machine has too little memory" if little else f"cannot start: {error}")
    finally:
        if INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done; the interpreter's end would print a traceback


def _exit_on_abort() -> None:
    """A C library that gives up, for want of memory for instance, has said why; it then aborts the process."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    # `_exit` gets the signal's number, which happens to be FAILED.
    libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))


def _open_standard_streams() -> bool:
    """Whether there is a standard output; other streams that are closed become empty."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a file opened later would get this number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stderr is None:  # `print` would write to standard output instead
        sys.stderr = os.fdopen(2, "w")
    return sys.stdout is not None


def _fail(reason: str) -> int:
    line = reason.strip().splitlines()[-1]  # NumPy's has advice before it
    os.write(2, f"error: {line[:MOST]}\n".encode(errors="replace"))
    return FAILED
