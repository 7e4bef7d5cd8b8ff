"""Estimates the memory that a bundle needs and the time of an answer.

Memory is counted from the files. Time comes from `skingpt tune`, if it was run here. Otherwise it is estimated from
the memory's read bandwidth, because every generated token reads all weights once.
"""

from dataclasses import dataclass

from ..engines.gguf_header import read_gguf_header
from .bundle import Bundle
from .gpu_layers import layers_on_gpu, weights_in_memory
from .machine import available_memory, physical_cores, read_bandwidth
from .options import Setup

KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}  # of one key or value
EVERYTHING_ELSE = 300_000_000  # bytes of libraries, activations and buffers, measured with 7B and 13B
FOR_A_GPU = 500_000_000  # bytes more of CUDA and its libraries, measured with 7B on an H200
SHARE = 0.43  # of the bandwidth that decoding reaches where it is slow: 7B on a Xeon, benchmarks/results
PREFILL = 0.5  # seconds of a prompt's token in seconds of a generated token, if not measured
ANSWER_TOKENS = 120
PROMPT_TOKENS = 60  # the picture and a question; the text before them is computed once


@dataclass(frozen=True)
class Speed:
    """Seconds of a prompt's token and of a generated token."""

    prefill: float
    decode: float

    @property
    def answer(self) -> float:
        """Seconds until an answer of ANSWER_TOKENS is whole."""
        return ANSWER_TOKENS * self.decode + PROMPT_TOKENS * self.prefill


@dataclass(frozen=True)
class Requirements:
    """What a bundle needs and what this machine has, in bytes; and seconds of one answer."""

    needed: int
    available: int | None
    """None where the system does not say."""
    answer_seconds: float | None
    """None on a GPU, where it is not estimated."""
    measured: bool = False
    """The seconds come from `skingpt tune`, not from the read bandwidth."""

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= self.available

    def sentence(self) -> str:
        """For a person."""
        if self.available is None:
            verdict = f"It needs {gigabytes(self.needed)} of memory; this system does not say what is free"
        elif self.fits:
            verdict = f"It fits: it needs {gigabytes(self.needed)} of memory and {gigabytes(self.available)} are free"
        else:
            verdict = (
                f"It does not fit: it needs {gigabytes(self.needed)} of memory "
                f"and only {gigabytes(self.available)} are free"
            )
        if self.answer_seconds is None:
            return f"{verdict}. How long an answer takes on a GPU is not estimated."
        how = "as `skingpt tune` measured" if self.measured else "estimated from the memory's speed"
        took = f"about {_time(self.answer_seconds)}, {how}"
        return f"{verdict}; an answer of {ANSWER_TOKENS} words or parts of words will take {took}."


def requirements(bundle: Bundle, setup: Setup, speed: Speed | None = None) -> Requirements:
    """What a bundle needs with this setup.

    `speed` is what was measured here; without it the memory's speed is measured for half a second if it is what counts.
    Raises BundleError.
    """
    on_cpu = setup.language_model.device == "cpu"
    known = speed or (estimated_speed(bundle) if on_cpu else None)
    answer = known.answer if known else None
    return Requirements(needed_memory(bundle, setup), available_memory(), answer, measured=speed is not None)


def estimated_speed(bundle: Bundle) -> Speed:
    """A speed estimated from the memory's read bandwidth."""
    weights = bundle.manifest.files[bundle.manifest.llm.file].size
    token = weights / (SHARE * max(read_bandwidth(physical_cores())))
    return Speed(PREFILL * token, token)


def needed_memory(bundle: Bundle, setup: Setup) -> int:
    """Bytes of the machine's memory that a process with this setup takes: weights, KV cache and a rest.

    What a GPU holds is not among them. Raises BundleError.
    """
    manifest, model = bundle.manifest, setup.language_model
    header = read_gguf_header(bundle.file(manifest.llm.file))
    graphs = {name for graph in (manifest.vision.encoder, manifest.vision.qformer) for name in (graph, f"{graph}.data")}
    vision = sum(entry.size for name, entry in manifest.files.items() if name in graphs)
    keys, _, values = model.kv_type.partition("/")
    layers = header.n_layer - layers_on_gpu(header, model)
    cell = layers * header.kv_width * (KV_BYTES[keys] + KV_BYTES[values or keys])
    needed = weights_in_memory(header, model) + int(cell * model.cells) + EVERYTHING_ELSE
    if setup.vision.device == "cpu":
        needed += vision
    return needed + (FOR_A_GPU if "cuda" in (setup.vision.device, model.device) else 0)


def gigabytes(value: int) -> str:
    return f"{value / 1e9:.1f} GB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "a second or less"
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
