"""Memory of this process and of the machine, in bytes. Linux only."""

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..runtime.fit import available_memory
from . import gpu

INTERVAL = 0.05  # seconds between samples
STATUS = Path("/proc/self/status")


def _field(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.M)
    return int(match[1]) * 1024 if match else 0


def rss_anon() -> int:
    """Memory this process has taken for itself, in bytes."""
    return _field(STATUS.read_text(), "RssAnon")


def available() -> int:
    """Memory that can be taken without swapping, in bytes."""
    return available_memory() or 0


def total() -> int:
    """The machine's memory in bytes."""
    return _field(Path("/proc/meminfo").read_text(), "MemTotal")


class PeakSampler:
    """Highest RssAnon of this process, sampled by a thread while the context is open."""

    def __init__(self) -> None:
        self.peak = rss_anon()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.peak = max(self.peak, rss_anon())

    def snapshot(self) -> dict[str, Any]:
        """What the process holds now, and the peak so far."""
        text = STATUS.read_text()
        now = _field(text, "RssAnon")
        self.peak = max(self.peak, now)
        return {
            "rss_anon": now,
            "rss_file": _field(text, "RssFile"),
            "swap": _field(text, "VmSwap"),
            "peak_anon": self.peak,
            "vram": gpu.memory_of_this_process(),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
