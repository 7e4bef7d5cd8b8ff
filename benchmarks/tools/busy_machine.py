"""How fast answers are while other programs keep the processor busy, by how long llama.cpp's threads spin.

`python -m skingpt_edge.benchmarks.tools.busy_machine BUNDLE [--tokens 24] [--rounds 3] [-o FILE.json]`

The threads of llama.cpp wait for each other several hundred times a token. A thread that spins there keeps its core
from the very thread that it waits for. `GOMP_SPINCOUNT` says how often GNU's OpenMP looks before it sleeps. Each line
is a process of its own: alone, and beside one program for each core that does nothing but count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

from ...runtime import SkinGPT
from ...runtime.machine import logical_cpus, processor_name
from .service_load import QUESTION, new_photo

ITSELF = "skingpt_edge.benchmarks.tools.busy_machine"
SPINS = (300_000, 20_000, 3000, 1000, 100, 0)  # the first is what OpenMP takes by itself


def measure(bundle: str, tokens: int, photos: int) -> dict[str, float]:
    """Milliseconds of an answer's stages, the median of some photos."""
    found: dict[str, list[float]] = {"vision": [], "first token": [], "token": []}
    with SkinGPT.open(bundle) as model:
        for number in range(photos + 1):
            begun = time.perf_counter()
            image = model.embed(new_photo(number))
            vision = 1000 * (time.perf_counter() - begun)
            answer = model.conversation(image).ask(QUESTION, replace(model.defaults, max_new_tokens=tokens))
            if number:  # the first one warms up
                found["vision"].append(vision)
                found["first token"].append(1000 * answer.first_token_seconds)
                found["token"].append(1000 * answer.decode_seconds / max(len(answer.token_ids) - 1, 1))
    return {stage: round(median(times), 3) for stage, times in found.items()}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that keep a core each."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def in_process(bundle: str, spins: int, tokens: int, photos: int) -> dict[str, float]:
    """`measure` in a process with this GOMP_SPINCOUNT."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    environment["GOMP_SPINCOUNT"] = str(spins)
    command = [sys.executable, "-m", ITSELF, bundle, "--tokens", str(tokens), "--photos", str(photos), "--measure"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {ITSELF}", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--photos", type=int, default=5, help="asked about in each process")
    parser.add_argument("--spins", type=int, nargs="+", default=SPINS)
    parser.add_argument("--rounds", type=int, default=2, help="of all settings")
    parser.add_argument("-o", "--output", type=Path, help="add the figures to this JSON file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.measure:
        print(json.dumps(measure(given.bundle, given.tokens, given.photos)))
        return 0
    rows = []
    for turn, programs, spins in product(range(given.rounds), (0, logical_cpus()), given.spins):
        with busy(programs):
            found = in_process(given.bundle, spins, given.tokens, given.photos)
        rows.append({"round": turn, "programs beside": programs, "spins": spins, "ms": found})
        print(f"{programs} programs beside, {spins} spins: {found}", file=sys.stderr, flush=True)
    result = {"processor": processor_name(), "cpus": logical_cpus(), "tokens": given.tokens, "rows": rows}
    if given.output:
        known = json.loads(given.output.read_text()) if given.output.exists() else {}
        given.output.write_text(json.dumps({**known, Path(given.bundle).name: result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
