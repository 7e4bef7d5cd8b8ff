"""What a run has measured so far, before any statistics."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from .statistics import Json

OURS = "skingpt"

Key = tuple[str, str, str]
"""Engine, stage, and `cold` or `warm`."""


@dataclass
class Measured:
    """Trials of every stage, curve and ceiling, and what each step of the run reported beside them."""

    seconds: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    ceilings: Json = field(default_factory=dict)
    setup: Json = field(default_factory=dict)
    """Options `requested` and the setup that was `resolved` from them, as the process that ran the reports says."""
    engines: Json = field(default_factory=dict)
    turns: list[Mapping[str, list[int]]] = field(default_factory=list)
    """Token ids of each turn: `before` and `after` the picture, and of the `answer`."""
    image_rows: int = 0
    memory: list[Json] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    """Highest RssAnon in bytes of each process of ours, from its start to the end of its first report."""
    gpu_peaks: list[int] = field(default_factory=list)
    """Most GPU memory in bytes of each of these processes; empty where that cannot be read."""
    energy: Json = field(default_factory=dict)
    growth: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """By curve and x, the trials of y."""
    operators: list[Json] = field(default_factory=list)
    operators_before: list[Json] = field(default_factory=list)
    python_share: list[float] = field(default_factory=list)
    """Percent of a report that is spent outside the engines."""
    ten_runs: list[float] = field(default_factory=list)
    ten_samples: list[float] = field(default_factory=list)
    computed_reports: dict[str, str] = field(default_factory=dict)
    """By engine, how the time of its report was computed. Only of reports that were too long to be run."""
    skipped: list[str] = field(default_factory=list)
    """Sentences: what was not measured, and why."""

    def add(self, engine: str, state: str, seconds: Mapping[str, float]) -> None:
        """One trial of each of these stages."""
        for stage, value in seconds.items():
            self.seconds[engine, stage, state].append(value)

    def add_to_curve(self, name: str, values: Mapping[str, float]) -> None:
        """One trial at each x of a curve. The x are text, because JSON has no other keys."""
        for x, value in values.items():
            self.growth[name][int(x)].append(value)

    def device(self, half: str) -> str:
        """What ran `vision` or the `language_model`, `cpu` or `cuda`."""
        return str(self.setup["resolved"][half]["device"])

    def warm(self, engine: str, stage: str) -> list[float]:
        """Trials of a stage in a warm process; empty if it was not measured."""
        return self.seconds.get((engine, stage, "warm"), [])
