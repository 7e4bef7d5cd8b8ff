"""The table of measurements that run in a child process, and how such a process opens a bundle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...engines.errors import EngineError
from ...runtime.bundle import Bundle
from ...runtime.options import Options, Setup
from ...runtime.resolving import resolve
from ...runtime.verification import open_bundle

ROLES = {
    "vision": f"{__package__}.bundle_trials:VisionStages",
    "whole": f"{__package__}.bundle_trials:WholeModel",
    "scaling": f"{__package__}.scaling:Scaling",
    "memory": f"{__package__}.scaling:ConversationMemory",
    "kernels": f"{__package__}.kernels:Kernels",
    "operators": f"{__package__}.operators:Operators",
    "torch": f"{__package__}.torch_baseline:TorchBaseline",
    "ceilings": f"{__package__}.ceilings:Ceilings",
    "gpu_ceilings": f"{__package__}.gpu_ceilings:GpuCeilings",
}
"""By role, the class that a `Worker` makes."""


def open_as_asked(bundle: str, options: Mapping[str, Any], threads: int) -> tuple[Bundle, Options, Setup]:
    """The checked bundle, the options given as JSON, and the setup that they resolve to here.

    Raises BundleError, InputError, EngineError if the setup has other threads than this process was started for.
    """
    opened, requested = open_bundle(Path(bundle)), Options(**options)
    setup = resolve(opened, requested)
    if most_threads(setup) != threads:
        raise EngineError(f"{most_threads(setup)} threads were resolved in a process started for {threads}")
    return opened, requested, setup


def most_threads(setup: Setup) -> int:
    """The most threads that any stage uses: what the baseline and the peaks of this machine get, too."""
    return max(setup.vision.threads, setup.language_model.threads, setup.language_model.prefill_threads)


def without_huge_pages(setup: Setup) -> Setup:
    """For a `SkinGPT` around engines whose memory the worker itself moves to huge pages."""
    return replace(setup, huge_pages=False)
