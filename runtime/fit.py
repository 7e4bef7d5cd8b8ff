"""Beforehand: whether a bundle fits into this machine's memory, and how long an answer will take.

Memory is counted from the files. Time is what `skingpt tune` measured here, or else an estimate: decoding reads every
weight of the language model once a token, so the machine's read bandwidth, measured on the spot, bounds it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engines.gguf_header import GgufHeader, read_gguf_header
from .bundle import Bundle
from .threads import default_threads

KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0/f16": (34 / 32 + 2) / 2, "q8_0": 34 / 32}  # of a key or value, in the mean
EVERYTHING_ELSE = 300_000_000  # bytes of libraries, activations and buffers, measured with 7B and 13B
BUFFER = 1 << 28  # bytes read to measure the bandwidth; far beyond most caches
SHARE = 0.43  # of the bandwidth that decoding reaches where it is slow: 7B on a Xeon, benchmarks/results
PREFILL = 0.5  # seconds of an item of a prompt in seconds of a generated token, if not measured
ANSWER_TOKENS = 120
PROMPT_ITEMS = 60  # the picture and a question; the system prompt is computed once


@dataclass(frozen=True)
class Fit:
    """What a bundle needs and what this machine has, in bytes; and seconds of one answer, as estimated."""

    needed: int
    available: int | None
    """None where the system does not say."""
    answer_seconds: float
    measured: bool = False
    """The seconds come from `skingpt tune`, not from the read bandwidth."""

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= self.available

    def sentence(self) -> str:
        """For a person, in one sentence."""
        if self.available is None:
            verdict = f"It needs {_gb(self.needed)} of memory; this system does not say what is free"
        elif self.fits:
            verdict = f"It fits: it needs {_gb(self.needed)} of memory and {_gb(self.available)} are free"
        else:
            verdict = f"It does not fit: it needs {_gb(self.needed)} of memory and only {_gb(self.available)} are free"
        how = "as `skingpt tune` measured" if self.measured else "estimated from the memory's speed"
        took = f"about {_time(self.answer_seconds)}, {how}"
        return f"{verdict}; an answer of {ANSWER_TOKENS} words or parts of words will take {took}."


def measure_fit(bundle: Bundle, speed: tuple[float, float] | None = None) -> Fit:
    """Count what the bundle needs at its own context.

    `speed`: seconds of a prompt's item and of a token as measured here; without it the memory is measured for half a
    second. Raises BundleError.
    """
    header = read_gguf_header(bundle.file(bundle.manifest.llm.file))
    llm = bundle.manifest.llm
    if speed:
        item, token = speed
    else:
        token = bundle.manifest.files[llm.file].size / (SHARE * read_bandwidth(default_threads()))
        item = PREFILL * token
    seconds = answer_seconds(item, token)
    return Fit(needed_memory(bundle, header, llm.kv_type), available_memory(), seconds, measured=speed is not None)


def answer_seconds(item: float, token: float) -> float:
    """Seconds until an answer is whole, from those of a prompt's item and of a token."""
    return ANSWER_TOKENS * token + PROMPT_ITEMS * item


def needed_memory(bundle: Bundle, header: GgufHeader, kv_type: str) -> int:
    """Bytes of its own that a process with this bundle takes: all weights, the KV cache and a rest."""
    manifest = bundle.manifest
    weights = sum(entry.size for entry in manifest.files.values())
    cell = 2 * header.n_layer * header.kv_width * KV_BYTES[kv_type]
    return weights + int(cell * manifest.llm.context) + EVERYTHING_ELSE


def available_memory() -> int | None:
    """Bytes that can be had without swapping, as Linux says; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def read_bandwidth(threads: int) -> float:
    """Bytes a second that this many threads read from memory, the best of three."""
    parts = np.array_split(np.full(BUFFER // 8, 7, np.uint64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):  # the first also starts the threads
            begun = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            best = max(best, BUFFER / (time.perf_counter() - begun))
    return best


def _gb(value: int) -> str:
    return f"{value / 1e9:.1f} GB"


def _time(seconds: float) -> str:
    return (
        "a second or less"
        if seconds < 1
        else f"{seconds:.0f} seconds"
        if seconds < 120
        else f"{seconds / 60:.0f} minutes"
    )
