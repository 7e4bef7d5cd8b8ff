"""Peak memory and time of a command: `python -m skingpt_edge.benchmarks.tools.peak_memory COMMAND…`. Linux only.

RssAnon is the memory that a process has taken for itself. RssFile is content of files, which the system may drop at any
time. Most tools show only their sum, and then weights that are read from a mapped file seem to be needed twice.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from ...runtime.machine import process_family, process_memory

INTERVAL = 0.05  # seconds between samples


@dataclass
class Peak:
    """Highest values seen of a command and its children together, in bytes, and its time in seconds."""

    rss_anon: int = 0
    rss_file: int = 0
    rss: int = 0
    swap: int = 0
    seconds: float = 0.0


def measure(command: list[str]) -> tuple[int, Peak]:
    """Run a command; its exit code and what it took."""
    peak, begun = Peak(), time.perf_counter()
    process = subprocess.Popen(command)
    while process.poll() is None:
        family = [process_memory(pid) for pid in process_family(process.pid)]
        for field in ("rss_anon", "rss_file", "rss", "swap"):
            now = sum(getattr(memory, field) for memory in family)
            setattr(peak, field, max(getattr(peak, field), now))
        time.sleep(INTERVAL)
    peak.seconds = round(time.perf_counter() - begun, 2)
    return process.returncode, peak


def main() -> int:
    if len(sys.argv) < 2:
        print(f"usage: python -m {__spec__.name} COMMAND…", file=sys.stderr)
        return 2
    code, peak = measure(sys.argv[1:])
    print(json.dumps(asdict(peak)), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
