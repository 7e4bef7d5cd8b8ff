"""How many threads the engines get."""

import os
from pathlib import Path


def default_threads() -> int:
    """The physical cores this process may use: two threads on one core slow llama.cpp down."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core(cpu) for cpu in cpus}
    return max(1, len(cores))


def _core(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text()
    except OSError:
        return str(cpu)
