"""What the machine is and which versions are installed: the frame of every figure."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtime.threads import default_threads
from . import gpu, memory

PACKAGES = ("skingpt-edge", "onnxruntime", "llama-cpp-python", "numpy", "torch", "transformers")
ISA = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
"""Instruction sets that decide how fast matrix products are, as Linux spells them."""


def describe() -> dict[str, Any]:
    """The `machine` object of the results."""
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "cpu": facts.get("model name") or platform.machine(),
        "cores": default_threads(),
        "logical": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "ram_bytes": memory.total(),
        "os": _os_name(),
        "kernel": platform.release(),
        "isa": [name for name in ISA if name in flags] or sorted(flags & {"asimd", "asimddp", "i8mm", "bf16", "sve"}),
        "gpu": gpu.names(),
    }


def versions() -> dict[str, str]:
    """The `versions` object of the results; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def busy(seconds: float = 1.0) -> float:
    """The share of the machine's processors that others keep busy, watched for so long while we wait."""
    before = _processor_times()
    time.sleep(seconds)
    return busy_share(before, _processor_times())


def busy_share(before: Sequence[int], after: Sequence[int]) -> float:
    """The busy share between two samples of /proc/stat's `cpu` line: user, nice, system, idle, iowait, …"""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def _processor_times() -> list[int]:
    # User and nice hold the guests' times already.
    return [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
