"""NVIDIA GPUs as their driver tells of them, through nvidia-ml-py; without it or a driver there are none."""

import os
from importlib import import_module
from typing import Any


def names() -> list[str]:
    """The GPUs' names."""
    nvml, handles = _open()
    return [str(nvml.nvmlDeviceGetName(handle)) for handle in handles]


def memory_of_this_process() -> int | None:
    """Bytes of GPU memory this process uses; None without a GPU."""
    nvml, handles = _open()
    if not handles:
        return None
    users = [user for handle in handles for user in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return sum(user.usedGpuMemory or 0 for user in users if user.pid == os.getpid())


def millijoules() -> list[int]:
    """Energy each GPU has used since its driver was loaded; empty if one cannot tell."""
    nvml, handles = _open()
    if not handles:
        return []
    try:
        return [int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles]
    except nvml.NVMLError:
        return []


def _open() -> tuple[Any, list[Any]]:
    """The library and a handle for each GPU."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None, []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # there is no driver
        return nvml, []
    return nvml, [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
