"""Where the vision encoder's time goes, by type of operator: ONNX Runtime's own profile. Runs in a worker."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.onnx_runtime import profile_operators
from .workers import open_as_asked

WARM_UP_RUNS = 2


class Operators:
    """A bundle's vision encoder, to be profiled."""

    def __init__(self, bundle: str, options: Mapping[str, Any], threads: int) -> None:
        self._bundle, _, self._setup = open_as_asked(bundle, options, threads)

    def vision_encoder(self, runs: int, graph: str | None = None) -> list[dict[str, Any]]:
        """Calls and seconds of each type of operator for one picture, the mean of `runs` warm runs.

        The type that takes longest comes first. `graph` is the path of another vision encoder, from an earlier
        export of the same model. Raises BundleError if it cannot be loaded.
        """
        size = self._bundle.manifest.image.size
        pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
        path = Path(graph) if graph else self._bundle.file(self._bundle.manifest.vision.encoder)
        events = profile_operators(path, self._setup.vision, {"pixels": pixels}, WARM_UP_RUNS + runs)
        return by_operator(events, WARM_UP_RUNS, runs)


def by_operator(events: list[dict[str, Any]], skipped: int, runs: int) -> list[dict[str, Any]]:
    """The sums of a profile's kernel events after the first `skipped` runs, divided by the `runs` that follow."""
    ends = sorted(event["ts"] + event["dur"] for event in events if event.get("name") == "model_run")
    begun = ends[skipped - 1]
    calls: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begun:
            kind = event["args"]["op_name"]
            calls[kind] += 1
            microseconds[kind] += event["dur"]
    return [
        {"op": kind, "calls": round(calls[kind] / runs), "seconds": total / runs / 1e6}
        for kind, total in microseconds.most_common()
    ]
