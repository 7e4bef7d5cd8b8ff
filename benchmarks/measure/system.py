"""What the machine is, which versions are installed, how busy it is, and how much memory this process takes."""

import os
import platform
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self

from ...engines import processor
from ...engines.llama_cpp_library import import_llama_cpp
from ...runtime import machine

PACKAGES = ("skingpt-edge", "numpy", "torch", "transformers")
ISA = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
"""Instruction sets that decide how fast matrix products are, as Linux spells them."""
ARM_ISA = ("asimd", "asimddp", "bf16", "i8mm", "sve")
SAMPLING_INTERVAL = 0.05  # seconds


def describe() -> dict[str, Any]:
    """The `machine` object of the results."""
    flags = processor.flags()
    nvml, gpus = open_nvml()
    return {
        "cpu": machine.processor_name(),
        "cores": machine.physical_cores(),
        "logical": machine.logical_cpus(),
        "ram_bytes": machine.total_memory() or 0,
        "os": _os_name(),
        "kernel": platform.release(),
        "isa": [name for name in (*ISA, *ARM_ISA) if name in flags],
        "gpu": [str(nvml.nvmlDeviceGetName(gpu)) for gpu in gpus],
    }


def versions() -> dict[str, str]:
    """The `versions` object of the results, without packages that are not installed.

    The engines say theirs themselves. A list of packages may name another build that is not the one imported.
    """
    found = {"python": platform.python_version()}
    for package, ask in {"onnxruntime": _onnxruntime, "llama-cpp-python": _llama_cpp}.items():
        try:
            found[package] = ask()
        except ImportError:
            continue
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _onnxruntime() -> str:
    """Such as `1.32.0`, or `1.31.1 (onnxruntime-gpu, CUDA 13.0)` for a build of another name."""
    version = str(import_module("onnxruntime").__version__)
    try:
        build = import_module("onnxruntime.capi.build_and_package_info")
    except ImportError:  # a build without it
        return version
    name, cuda = getattr(build, "package_name", "onnxruntime"), getattr(build, "cuda_version", None)
    if name == "onnxruntime":
        return version
    return f"{version} ({name}{f', CUDA {cuda}' if cuda else ''})"


def _llama_cpp() -> str:
    """Such as `0.3.36`, or `0.3.36 (CUDA)` for a build that uses a GPU."""
    lib = import_llama_cpp()
    system = str(lib.llama_print_system_info().decode())
    if not lib.llama_supports_gpu_offload():
        return str(lib.__version__)
    return f"{lib.__version__} ({'CUDA' if 'CUDA' in system else 'GPU'})"


def busy(seconds: float = 1.0) -> float:
    """The share of all processor time that other programs use while this process sleeps for `seconds`."""
    before = machine.processor_times()
    time.sleep(seconds)
    return busy_share(before, machine.processor_times())


def busy_share(before: Sequence[int], after: Sequence[int]) -> float:
    """The busy share of the time between two samples of `machine.processor_times`."""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))  # all but idle and iowait


class PeakSampler:
    """The highest RssAnon of this process, sampled by a thread while the context is open."""

    def __init__(self) -> None:
        self.peak = machine.process_memory().rss_anon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLING_INTERVAL):
            self.peak = max(self.peak, machine.process_memory().rss_anon)

    def snapshot(self) -> dict[str, int | None]:
        """What the process holds now and the peak so far, in bytes; `vram` is None without a GPU."""
        now = machine.process_memory()
        self.peak = max(self.peak, now.rss_anon)
        sizes = {"rss_anon": now.rss_anon, "rss_file": now.rss_file, "swap": now.swap}
        return {**sizes, "peak_anon": self.peak, "vram": _gpu_memory()}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def open_nvml() -> tuple[Any, list[Any]]:
    """NVIDIA's management library and a handle for each GPU; no handles without nvidia-ml-py or a driver."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None, []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # there is no driver
        return nvml, []
    return nvml, [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]


def _gpu_memory() -> int | None:
    """Bytes of GPU memory that this process uses; None without a GPU."""
    nvml, gpus = open_nvml()
    users = [user for gpu in gpus for user in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
    return sum(user.usedGpuMemory or 0 for user in users if user.pid == os.getpid()) if gpus else None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
