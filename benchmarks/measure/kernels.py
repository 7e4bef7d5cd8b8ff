"""Where the vision encoder's time on an NVIDIA GPU goes, by kernel. Runs in a worker.

NVIDIA's profiling library CUPTI sees every kernel of the process, whichever library launches it. It is used through
torch's profiler, because torch is there for the baseline anyway.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ...engines.errors import EngineError, EngineUnavailable
from ...runtime.loading import open_vision_graph
from .workers import open_as_asked

WARM_UP_RUNS = 2
GPU_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")
LONGEST_NAME = 200  # letters; longer ones that begin alike count as one


class Kernels:
    """A bundle's vision encoder on the GPU that was asked for, to be profiled."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        """Raises EngineUnavailable if torch finds no GPU."""
        opened, _, setup = open_as_asked(bundle, options, threads)
        if not torch.cuda.is_available():
            raise EngineUnavailable(f"torch {torch.__version__} finds no GPU: install a torch that is built for CUDA")
        self._size = opened.manifest.image.size
        self._encoder = open_vision_graph(opened, opened.manifest.vision.encoder, setup.vision)

    def vision_encoder(self, runs: int) -> list[dict[str, Any]]:
        """Calls and seconds of each kernel and copy for one picture, the mean of `runs` warm runs, the longest first.

        Raises EngineError if the profiler saw no kernel.
        """
        pixels = np.random.default_rng(0).standard_normal((1, 3, self._size, self._size), np.float32)
        for _ in range(WARM_UP_RUNS):
            self._encoder.run({"pixels": pixels})
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(runs):
                self._encoder.run({"pixels": pixels})
            torch.cuda.synchronize()
        found = by_kernel(trace_events(profiler), runs)
        if not found:
            raise EngineError("torch's profiler saw no kernel: CUPTI may not be allowed to profile on this machine")
        return found


def trace_events(profiler: profile) -> list[dict[str, Any]]:
    """What was recorded, as events of Chrome's trace format."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events: list[dict[str, Any]] = json.loads(file.read_text())["traceEvents"]
    return events


def by_kernel(events: Iterable[Mapping[str, Any]], runs: int) -> list[dict[str, Any]]:
    """The sums of what ran on the GPU, by name, divided by the number of runs."""
    calls: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in GPU_EVENTS:
            name = short_name(event["name"])
            calls[name] += 1
            microseconds[name] += event["dur"]
    return [
        {"op": name, "calls": max(1, round(calls[name] / runs)), "seconds": total / runs / 1e6}
        for name, total in microseconds.most_common()
    ]


def short_name(name: str) -> str:
    """A kernel's name without `void`, namespaces and parameters; template arguments stay as far as there is room."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    name = re.sub(r"\b(?:\w+::)+", "", _without_parameters(name))
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _without_parameters(name: str) -> str:
    """A name up to the bracket that belongs to its last one; a copy's kind, which has a space before it, stays."""
    depth = 0
    for place in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[place], 0)
        if depth == 0:
            ends_with_parameters = name.endswith(")") and name[place - 1] != " "
            return name[:place] if ends_with_parameters else name
    return name
