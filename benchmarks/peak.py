"""Peak memory and time of a command: `python -m skingpt_edge.benchmarks.peak COMMAND…`.

RssAnon is the memory a process has taken for itself; RssFile is file content that the system may drop at any
time. Only the two together, as most tools show them, would count mapped weights as if they were needed twice.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL = 0.05  # seconds between samples


@dataclass
class Peak:
    """Highest values seen, in bytes, over the command and its children together; time in seconds."""

    rss_anon: int = 0
    rss_file: int = 0
    rss: int = 0
    swap: int = 0
    seconds: float = 0.0


def measure(command: list[str]) -> tuple[int, Peak]:
    """Run a command; return its exit code and what it took. Linux only."""
    peak, begun = Peak(), time.perf_counter()
    process = subprocess.Popen(command)
    while process.poll() is None:
        _sample(process.pid, peak)
        time.sleep(INTERVAL)
    peak.seconds = round(time.perf_counter() - begun, 2)
    return process.returncode, peak


def _sample(root: int, peak: Peak) -> None:
    sums = dict.fromkeys(("RssAnon", "RssFile", "VmRSS", "VmSwap"), 0)
    for pid in _family(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        for field in sums:
            if match := re.search(rf"^{field}:\s+(\d+) kB", status, re.M):
                sums[field] += int(match[1]) * 1024
    peak.rss_anon = max(peak.rss_anon, sums["RssAnon"])
    peak.rss_file = max(peak.rss_file, sums["RssFile"])
    peak.rss = max(peak.rss, sums["VmRSS"])
    peak.swap = max(peak.swap, sums["VmSwap"])


def _family(root: int) -> list[int]:
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return [root]
    return [root, *(pid for child in children for pid in _family(int(child)))]


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python -m skingpt_edge.benchmarks.peak COMMAND…", file=sys.stderr)
        return 2
    code, peak = measure(sys.argv[1:])
    print(json.dumps(asdict(peak)), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
