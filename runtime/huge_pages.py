"""Puts the memory of loaded weights on huge pages, so that reading it needs fewer address translations. Linux only.

The engines allocate it by `malloc`, which asks for pages of 4 KiB on most systems. On two cores of a virtual Xeon a 7B
model on huge pages decodes a fifth faster. What is computed does not change. It concerns every large memory block of
the process, not only ours, so a program that embeds the runtime has to ask for it (`Options(huge_pages=True)`).
"""

import ctypes
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

MADV_COLLAPSE = 25  # Linux 6.1; it works with transparent huge pages set to `madvise`, too
LEAST = 64 << 20  # bytes of a mapping that is worth it; a small model's are not
BLOCK = 16 << 20
REST = 4  # times as long as a block took, for the engines, which compute beside it
ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0\s*$")
MAPS = Path("/proc/self/maps")


def collapse(rest: Callable[[float], bool] = lambda _: True) -> int:
    """Move this process's large private mappings to huge pages; bytes moved, 0 where the system cannot do it.

    What is not on huge pages yet is copied, block by block. After each, `rest` is given the seconds it took; when it
    returns false the rest is left as it is.
    """
    moved = 0
    for start, size in _blocks():
        begun = time.monotonic()
        if _madvise(start, size):
            moved += size
        elif not moved:  # not known to this system: the rest would fail, too
            break
        if not rest(time.monotonic() - begun):
            break
    return moved


class Collapsing:
    """`collapse` in a thread of its own, with little of the machine's time."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="huge pages")
        self._thread.start()

    def _run(self) -> None:
        with suppress(MemoryError):  # slower then, not wrong
            collapse(self._rest)

    def _rest(self, seconds: float) -> bool:
        return not self._stop.wait(REST * seconds)

    def stop(self) -> None:
        """End it within one block, before the memory is freed."""
        self._stop.set()
        self._thread.join()


def _blocks() -> Iterator[tuple[int, int]]:
    """Address and size of each block of the mappings."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if match := ANONYMOUS.match(line):
            start, end = int(match[1], 16), int(match[2], 16)
            if end - start >= LEAST:
                yield from ((at, min(BLOCK, end - at)) for at in range(start, end, BLOCK))


def _madvise(start: int, size: int) -> bool:
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return False
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(advise(start, size, MADV_COLLAPSE) == 0)
