"""Does to a running service what must not harm it, and counts.

python -m skingpt_edge.benchmarks.tools.service_faults [--counts quick|full] [--only PART…] -o DIR

Each part starts a real `skingpt serve` of the demonstration bundle. What it finds is put into DIR/faults.json and
DIR/faults.md beside what other parts found before, and printed as a Markdown table. The exit code is 1 if something is
not as it must be.
Linux only.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ...runtime.write_whole import write_whole
from ..measure.system import describe, versions
from .service_checks import Findings, Say, table
from .service_disconnects import run_disconnects
from .service_guard import run_guard
from .service_images import run_images
from .service_kills import run_hangs, run_kills
from .service_memory import plot_memory, run_memory
from .service_slow import run_slow

Part = Callable[[int, Say], Coroutine[Any, Any, Findings]]
PARTS: dict[str, tuple[Part, int, int]] = {
    "kills": (run_kills, 6, 200),
    "hangs": (run_hangs, 1, 20),
    "slow": (run_slow, 5, 50),
    "disconnects": (run_disconnects, 24, 500),
    "guard": (run_guard, 1, 1),
    "images": (run_images, 30, 300),
    "memory": (run_memory, 40, 2000),
}
"""Each part with its count for a quick run and for a full one; `slow` takes four times as many slow clients."""
RESULTS, TABLE, PLOT = "faults.json", "faults.md", "memory.png"


def run_part(name: str, count: int) -> dict[str, Any]:
    """The findings of a part as JSON."""
    begun = time.monotonic()
    findings = asyncio.run(PARTS[name][0](count, lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)))
    return {**findings.to_json(), "seconds": round(time.monotonic() - begun, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", choices=("quick", "full"), default="quick")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    results = given.output / RESULTS
    found = json.loads(results.read_text()) if results.exists() else {"parts": {}}
    for name in given.only:
        _, quick, full = PARTS[name]
        found["parts"][name] = run_part(name, full if given.counts == "full" else quick)
        found["parts"] = {one: found["parts"][one] for one in PARTS if one in found["parts"]}
        found |= {"machine": describe(), "versions": versions()}
        write_whole(results, json.dumps(found, indent=1).encode())
        write_whole(given.output / TABLE, f"# Faults of the service, counted\n\n{table(found['parts'])}\n".encode())
        if name == "memory":
            plot_memory(found["parts"][name]["more"], given.output / PLOT)
    print(table({name: found["parts"][name] for name in given.only}))
    return 0 if all(check["met"] for name in given.only for check in found["parts"][name]["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
