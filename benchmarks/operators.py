"""Where the vision encoder's time goes, by type of operator: ONNX Runtime's own profile; runs in a worker."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..engines.huge_pages import collapse
from ..engines.onnx_runtime import session_options
from ..runtime.bundle import open_bundle

WARM_UP_RUNS = 2


class Operators:
    """A bundle's vision encoder with profiling on."""

    def __init__(self, bundle: str, threads: int) -> None:
        self._bundle = open_bundle(Path(bundle))
        self._threads = threads

    def vision_encoder(self, runs: int, graph: str | None = None) -> list[dict[str, Any]]:
        """Calls and seconds for one picture by operator type, the largest first: the mean of `runs` warm runs.

        `graph`: another vision encoder than the bundle's, an earlier export of the same model.
        """
        import onnxruntime

        size = self._bundle.manifest.image.size
        pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
        with TemporaryDirectory() as folder:
            options = session_options(self._threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "encoder")
            path = graph or str(self._bundle.file(self._bundle.manifest.vision.encoder))
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            collapse()
            for _ in range(WARM_UP_RUNS + runs):
                session.run(["image_features"], {"pixels": pixels})
            events = json.loads(Path(session.end_profiling()).read_text())
        return by_operator(events, WARM_UP_RUNS, runs)


def by_operator(events: list[dict[str, Any]], skipped: int, runs: int) -> list[dict[str, Any]]:
    """Sum the profile's kernel events after the first `skipped` runs, for one of the `runs` that follow."""
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
