"""How long a process takes until a bundle is open, for each layout of the weights.

`python -m skingpt_edge.benchmarks.tools.start_times BUNDLE [--repeat 6] [-o FILE]`

Each start is a process of its own; the layouts take turns. The files should be in the page cache: the first start of
each layout is not counted. In a virtual machine the kernel's share differs much from one start to the next, because
memory that was not used for a while is the host's again. So user and kernel time and the page faults are told apart.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from ...engines.base import LAYOUTS
from ...engines.errors import SkinGPTError
from ...runtime.options import Options
from ...runtime.skingpt import SkinGPT


def start(bundle: Path, options: Options) -> dict[str, float]:
    """What opening takes in this process, which has opened nothing before. Raises what `SkinGPT.open` raises."""
    begun = time.perf_counter()
    with SkinGPT.open(bundle, options=options):
        ready = time.perf_counter() - begun
        used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ready_s": ready,
        "user_s": used.ru_utime,  # also of the interpreter and its modules
        "kernel_s": used.ru_stime,
        "page_faults": used.ru_minflt,
        "major_page_faults": used.ru_majflt,
    }


def measure(bundle: Path, repeat: int) -> dict[str, Any]:
    """Each layout's medians and all its starts. Raises SkinGPTError if one fails."""
    starts: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    for _ in range(repeat + 1):
        for layout in LAYOUTS:
            command = [sys.executable, "-m", __spec__.name, str(bundle), "--one", layout]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                raise SkinGPTError(found.stderr.strip())
            starts[layout].append(json.loads(found.stdout))
            print(f"{layout}: {starts[layout][-1]['ready_s']:.2f} s", file=sys.stderr)
    counted = {layout: found[1:] for layout, found in starts.items()}
    medians = {
        layout: {name: median(one[name] for one in found) for name in found[0]} for layout, found in counted.items()
    }
    return {"median": medians, "starts": counted}


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--repeat", type=int, default=6)
    parser.add_argument("--one", choices=LAYOUTS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error(f"--repeat is {args.repeat}, expected 1 or more")
    try:
        if args.one:
            print(json.dumps(start(args.bundle, Options(layout=args.one, tuning=False))))
            return 0
        text = json.dumps(measure(args.bundle, args.repeat), indent=1)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
