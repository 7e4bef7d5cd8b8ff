"""Does to the installation of bundles what must not harm it, and counts.

python -m skingpt_edge.benchmarks.tools.install_faults [--counts quick|full] [--only PART…] -o DIR

What it finds is put into DIR/faults.json and DIR/faults.md beside what other parts found before, and printed as a
Markdown table. The exit code is 1 if something is not as it must be. Linux only; needs strace.
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
from .install_disks import run_errors, run_full, run_sticks
from .install_forgeries import run_forgeries
from .install_kills import run_calls, run_kills, run_power_cuts
from .service_checks import Findings, Say, table

Part = Callable[[int, Say], Coroutine[Any, Any, Findings]]
PARTS: dict[str, tuple[Part, int, int]] = {
    "forgeries": (run_forgeries, 50, 1000),
    "kills": (run_kills, 20, 400),
    "calls": (run_calls, 10, 1),
    "power cuts": (run_power_cuts, 1, 10),
    "full disks": (run_full, 5, 50),
    "errors": (run_errors, 10, 1),
    "sticks": (run_sticks, 2, 20),
}
"""Each part with its count for a quick run and for a full one; of `calls` and `errors`, every so manyth is taken."""
RESULTS, TABLE = "faults.json", "faults.md"


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
        write_whole(given.output / TABLE, f"# Faults of an installation, counted\n\n{table(found['parts'])}\n".encode())
    print(table({name: found["parts"][name] for name in given.only}))
    return 0 if all(check["met"] for name in given.only for check in found["parts"][name]["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
