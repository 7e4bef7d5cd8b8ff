"""Energy from the counters a machine has: RAPL of the CPU packages, NVML of the GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import gpu

RAPL = Path("/sys/class/powercap")


@dataclass
class Meter:
    """Joules since it was made, if a counter can be read; else a note that says why not."""

    source: str | None
    note: str
    _begun: Sequence[int] = ()

    def joules(self) -> float | None:
        """Joules used by the whole machine's CPU packages or GPUs since `start`."""
        if self.source == "nvml":
            return sum(now - then for now, then in zip(gpu.millijoules(), self._begun, strict=True)) / 1e3
        if self.source == "rapl":
            counters = _packages()
            used = (
                (now - then) % (_read(zone / "max_energy_range_uj") + 1)  # the counters wrap around
                for zone, now, then in zip(counters, map(_energy, counters), self._begun, strict=True)
            )
            return sum(used) / 1e6
        return None


def start() -> Meter:
    """Begin to measure with whichever counter there is."""
    if boards := gpu.millijoules():
        return Meter("nvml", "GPU board energy, the CPU's not included", boards)
    packages = _packages()
    if not packages:
        return Meter(None, f"unavailable: {RAPL} has no intel-rapl package counter (usual in a virtual machine)")
    try:
        return Meter("rapl", "CPU packages, idle power included", [_energy(zone) for zone in packages])
    except OSError as error:
        return Meter(None, f"unavailable: {packages[0]}/energy_uj cannot be read: {error.strerror} (needs root)")


def per_answer(meter: Meter, answers: int) -> dict[str, Any]:
    """The `energy` object of the results, after `answers` answers."""
    joules = meter.joules()
    return {
        "joules_per_answer": None if joules is None else joules / answers,
        "source": meter.source,
        "note": meter.note,
    }


def _packages() -> list[Path]:
    return sorted(path for path in RAPL.glob("intel-rapl:*") if path.name.count(":") == 1)


def _energy(zone: Path) -> int:
    return _read(zone / "energy_uj")


def _read(path: Path) -> int:
    return int(path.read_text())
