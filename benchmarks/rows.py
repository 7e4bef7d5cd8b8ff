"""What llama.cpp takes for so many rows in one call: `python -m skingpt_edge.benchmarks.rows GGUF…`.

A row is a token that is multiplied by all weights: one for decoding, one for each of several answers, one for each
item of a prompt. Where one row takes longer than reading the weights, the processor is the limit and not the memory,
and where ten rows take hardly longer than one, ten answers are nearly as cheap as one.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..engines.base import Run
from ..engines.huge_pages import collapse
from ..engines.llama_cpp_model import KV_TYPES, LlamaCppModel
from ..runtime.amx_trial import amx_works
from ..runtime.threads import default_threads

ANSWERS = (1, 2, 3, 4, 6, 8, 10, 12, 16)
PROMPTS = (16, 32, 44, 64, 128)
CONTEXT = 256  # tokens; answers go on after PREFIX of them
PREFIX = 64
ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """One call's work, and the seconds of each trial of it."""

    kind: str
    """`answers`: a token of each of so many sequences; `prompt`: so many tokens of one."""
    rows: int
    seconds: list[float]


def measure(path: Path, threads: int, kv_type: str, *, amx: bool, rounds: int = ROUNDS) -> list[Timing]:
    """Every size in turn, round after round, so that a slow minute meets them all. Raises EngineError, InputError."""
    model = LlamaCppModel(
        path,
        context=CONTEXT,
        cells=PREFIX + max(*ANSWERS, *PROMPTS),
        threads=threads,
        precision="as in the file",
        kv_type=kv_type,
        flash_attention=kv_type != "q8_0/f16",
        sequences=max(ANSWERS),
        amx=amx,
    )
    collapse()
    model.evaluate_tokens(0, 0, range(5, 5 + PREFIX))
    for sequence in range(1, max(ANSWERS)):
        model.fork(0, sequence, PREFIX)
    found = [Timing("answers", count, []) for count in ANSWERS] + [Timing("prompt", count, []) for count in PROMPTS]
    for number in range(rounds + 1):
        for timing in found:
            seconds = _once(model, timing.kind, timing.rows)
            if number:  # the first round warms up
                timing.seconds.append(seconds)
    model.close()
    return found


def _once(model: LlamaCppModel, kind: str, count: int) -> float:
    runs = [Run(0, PREFIX, tuple(range(5, 5 + count)))]
    if kind == "answers":
        runs = [Run(sequence, PREFIX, (7,)) for sequence in range(count)]
    begun = time.perf_counter()
    model.evaluate_together(runs)
    seconds = time.perf_counter() - begun
    for run in runs:
        model.rewind(run.sequence, PREFIX)
    return seconds


def table(path: Path, found: list[Timing], *, amx: bool) -> str:
    """The figures as Markdown."""
    lines = [
        f"## {path.parent.name}/{path.name}, {path.stat().st_size / 1e9:.2f} GB, {'AMX' if amx else 'no AMX'}",
        "",
        "| rows in a call | median | min | a row | weights read in a second |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for timing in found:
        middle, least = median(timing.seconds), min(timing.seconds)
        each, rate = middle / timing.rows * 1e3, path.stat().st_size / middle / 1e9
        lines.append(
            f"| {timing.kind}, {timing.rows} | {middle:.3f} s | {least:.3f} s | {each:.0f} ms | {rate:.1f} GB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m skingpt_edge.benchmarks.rows", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="GGUF")
    parser.add_argument("--threads", type=int, default=default_threads(), metavar="N", help="(%(default)s)")
    parser.add_argument("--kv-type", choices=KV_TYPES, default="q8_0/f16", help="(%(default)s)")
    options = parser.parse_args()
    for path in options.files:
        for amx in (True, False) if amx_works() else (False,):
            found = measure(path, options.threads, options.kv_type, amx=amx)
            print(table(path, found, amx=amx), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
