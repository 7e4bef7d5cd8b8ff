"""Runs a whole suite: first checks, then each step. The results so far are given after every step."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from ...engines.errors import EngineUnavailable
from ...runtime.options import Options
from ...runtime.verification import open_bundle
from ..result_files import SCHEMA
from . import system
from .build_results import assemble
from .raw_results import Measured
from .statistics import Json
from .steps import Measurement
from .suites import SUITES

BUSY = 0.1  # of all processor time; above it, other programs disturb the measurement
BASELINES: dict[str, dict[str, tuple[str, ...]]] = {
    "torch": {"cpu": ("torch float32", "torch bfloat16"), "cuda": ("torch float16",)},
    "torch-compile": {
        "cpu": ("torch float32", "torch bfloat16"),
        "cuda": ("torch float16", "torch float16 compiled"),
    },
}
"""By what is asked for and the language model's device, the engines of `torch_baseline.py`."""
NEEDED = {"onnx": "onnx", "gguf": "gguf"}
NEEDED_BY_BASELINE = {"torch": "torch", "transformers": "transformers"}


def run_suite(
    path: Path,
    options: Options | None = None,
    *,
    suite: str = "full",
    baseline: str | None = None,
    before: Path | None = None,
) -> Iterator[Json]:
    """Measure a bundle with one of SUITES, opened with these options, and with one of BASELINES beside it.

    `before` is the vision encoder of an earlier export of the same model (an ONNX file), to be profiled, too.
    Yields results that are ever more complete. All but the last name the steps that are missing among the skipped.
    Raises BundleError, InputError, EngineError, EngineUnavailable if a package that measuring needs is not installed.
    """
    _check_installed({**NEEDED, **(NEEDED_BY_BASELINE if baseline else {})})
    bundle = open_bundle(path)  # hashes the files, so that no later start has to
    # The prefill of the text before the picture is a stage of its own, so it must not be read from disk.
    options = replace(options or Options(), prompt_snapshot=False)
    baselines = BASELINES[baseline].get(options.device, ()) if baseline else ()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    busy = system.busy()
    measurement = Measurement(bundle, SUITES[suite], options, baselines, before)
    for found, missing in measurement.run():
        if not missing:
            busy = max(busy, system.busy())
            if busy > BUSY:
                print(f"warning: not {_quiet(busy)}", file=sys.stderr)
        yield {
            "schema": SCHEMA,
            "created": created,
            "suite": suite,
            "threads": measurement.threads,
            **assemble(found, bundle, SUITES[suite]),
            "skipped": _skipped(found, busy, missing, baseline=bool(baselines)),
        }


def _skipped(found: Measured, busy: float, missing: list[str], *, baseline: bool) -> list[str]:
    skipped = list(found.skipped)
    if busy > BUSY:
        skipped.append(_quiet(busy))
    if not baseline:
        skipped.append("the baseline in PyTorch: not asked for (--baseline torch)")
    if found.energy["source"] is None:
        skipped.append(f"energy: {found.energy['note']}")
    if missing:
        skipped.append(f"the rest of this run, which ended before: {', '.join(missing)}")
    return skipped


def _quiet(busy: float) -> str:
    return f"a quiet machine: other programs used {busy:.0%} of its processors, so no figure can be relied on"


def _check_installed(packages: Mapping[str, str]) -> None:
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise EngineUnavailable(f"measuring needs {', '.join(missing)}: pip install 'skingpt-edge[bench]'")
