"""Energy counted by the machine itself: RAPL for the CPU packages, NVML for GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .system import open_nvml

RAPL = Path("/sys/class/powercap")


@dataclass
class Meter:
    """Counts joules from `start` on, or says in `note` why it cannot."""

    source: str | None
    """`nvml` or `rapl`; None if there is no counter that can be read."""
    note: str
    _begun: Sequence[int] = ()

    def joules(self) -> float | None:
        """Joules since `start`, of all GPUs or all CPU packages; None without a source."""
        if self.source == "nvml":
            return sum(now - then for now, then in zip(_gpu_millijoules(), self._begun, strict=True)) / 1e3
        if self.source == "rapl":
            used = (
                (_energy(zone) - then) % (_read(zone / "max_energy_range_uj") + 1)  # the counters wrap around
                for zone, then in zip(_packages(), self._begun, strict=True)
            )
            return sum(used) / 1e6
        return None


def start(*, on_gpu: bool) -> Meter:
    """Begin to count with the counter that there is; what runs on a GPU is given a GPU's joules or none."""
    if on_gpu:
        if gpus := _gpu_millijoules():
            return Meter("nvml", "energy of the GPU boards, without the CPU's", gpus)
        return Meter(None, "unavailable: the GPU does not tell, or nvidia-ml-py is not installed")
    packages = _packages()
    if not packages:
        return Meter(None, f"unavailable: {RAPL} has no intel-rapl package counter (usual in a virtual machine)")
    try:
        return Meter("rapl", "CPU packages, idle power included", [_energy(zone) for zone in packages])
    except OSError as error:
        return Meter(None, f"unavailable: {packages[0]}/energy_uj cannot be read: {error.strerror} (needs root)")


def per_answer(meter: Meter, answers: int) -> dict[str, Any]:
    """The `energy` object of the results, after so many answers."""
    joules = meter.joules()
    each = None if joules is None else joules / answers
    return {"joules_per_answer": each, "source": meter.source, "note": meter.note}


def _gpu_millijoules() -> list[int]:
    """Energy of each GPU since its driver was loaded; empty if there is none or one cannot tell."""
    nvml, gpus = open_nvml()
    if not gpus:
        return []
    try:
        return [int(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) for gpu in gpus]
    except nvml.NVMLError:
        return []


def _packages() -> list[Path]:
    return sorted(path for path in RAPL.glob("intel-rapl:*") if path.name.count(":") == 1)


def _energy(zone: Path) -> int:
    return _read(zone / "energy_uj")


def _read(path: Path) -> int:
    return int(path.read_text())
