"""What this machine is and what it has free, from Linux's /proc and /sys; elsewhere the unknown is None or empty."""

import os
import platform
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engines import processor
from ..engines.cuda_driver import gpu_uuid
from ..engines.errors import EngineError

PROC = Path("/proc")
NVIDIA_SMI_SECONDS = 20  # a driver that nothing holds open is loaded for it


def physical_cores() -> int:
    """The physical cores this process may use: two threads on one core slow llama.cpp down."""
    return max(1, len({_core(cpu) for cpu in _cpus()}))


def logical_cpus() -> int:
    """The hardware threads this process may use."""
    return max(1, len(_cpus()))


def _cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core(cpu: int) -> str:
    return _read(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")) or str(cpu)


def processor_name() -> str:
    return processor.facts().get("model name") or platform.machine()


def processor_times() -> list[int]:
    """Ticks of all processors: user, nice, system, idle, iowait, irq, softirq, steal; empty where unknown."""
    # User and nice hold the guests' times already.
    return [int(value) for value in _read(PROC / "stat").partition("\n")[0].split()[1:9]]


def available_memory() -> int | None:
    """Bytes that can be had without swapping."""
    return _field(_read(PROC / "meminfo"), "MemAvailable")


def total_memory() -> int | None:
    """The machine's memory in bytes."""
    return _field(_read(PROC / "meminfo"), "MemTotal")


def free_gpu_memory() -> int | None:
    """Bytes that are free on the NVIDIA GPU that this process would use, the first; None where it cannot be told.

    `nvidia-smi` is asked, because it comes with every driver. NVML's package for Python would have to be installed,
    and CUDA itself would take memory of the GPU to answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        command = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={gpu_uuid()}"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except (EngineError, OSError, subprocess.TimeoutExpired):
        return None
    mebibytes = found.stdout.strip()  # a GPU that cannot say has words in its place
    return int(mebibytes) << 20 if found.returncode == 0 and mebibytes.isdigit() else None


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of a process in bytes."""

    rss_anon: int
    """What it has taken for itself."""
    rss_file: int
    """Content of files, which the system may drop at any time."""
    rss: int
    swap: int


def process_memory(pid: int | str = "self") -> ProcessMemory:
    """Memory of a process now; zeros for one that has ended."""
    text = _read(PROC / str(pid) / "status")
    return ProcessMemory(*(_field(text, name) or 0 for name in ("RssAnon", "RssFile", "VmRSS", "VmSwap")))


def process_family(pid: int) -> list[int]:
    """A process, its children, their children and so on."""
    children = _read(PROC / str(pid) / "task" / str(pid) / "children").split()
    return [pid, *(member for child in children for member in process_family(int(child)))]


def read_bandwidth(threads: int, size: int = 1 << 28, trials: int = 3) -> list[float]:
    """Bytes a second that this many threads read from memory together, in each trial.

    `size` bytes are read; they should be far more than the caches hold.
    """
    # Written first: pages that were never written all share one page of zeros.
    parts = np.array_split(np.full(size // 8, 7, np.uint64), threads)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(trials + 1):  # the first also starts the threads
            begun = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            found.append(size / (time.perf_counter() - begun))
    return found[1:]


def _field(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.M)
    return int(match[1]) * 1024 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
