"""What a part of the service's fault tests found: figures, and whether each is as it must be."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Say = Callable[[str], None]
"""Shows progress."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    found: str
    wanted: str
    met: bool
    timing: bool = False
    """It depends on how fast the machine is."""


@dataclass
class Findings:
    """Of one part."""

    counts: dict[str, int] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """Further figures."""

    def none(self, what: str, found: Iterable[object]) -> None:
        """There must be none of these."""
        listed = list(found)
        self.checks.append(Check(what, str(len(listed)), "0", not listed))
        if listed:
            self.more[f"{what} (first)"] = [str(one)[:300] for one in listed[:5]]

    def equal(self, what: str, found: object, wanted: object) -> None:
        self.checks.append(Check(what, str(found), str(wanted), found == wanted))

    def most(self, what: str, found: float, limit: float, unit: str = "s") -> None:
        """A figure of time that must not be larger."""
        self.checks.append(Check(what, f"{found:.2f} {unit}", f"≤ {limit:.2f} {unit}", found <= limit, timing=True))

    def most_bytes(self, what: str, found: float, limit: float) -> None:
        """A figure of memory that must not be larger."""
        shown = [f"{value / 1e6:.1f} MB" for value in (found, limit)]
        self.checks.append(Check(what, shown[0], f"≤ {shown[1]}", found <= limit))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tally(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """All checks as a Markdown table, from the parts' JSON."""
    lines = ["| part | what | found | wanted | |", "| --- | --- | ---: | ---: | --- |"]
    for name, part in parts.items():
        counts = ", ".join(f"{count:,} {what}" for what, count in part["counts"].items())
        lines.append(f"| **{name}** | {counts} | | | |")
        for check in part["checks"]:
            sign = "as wanted" if check["met"] else "**NOT MET**"
            lines.append(f"| | {check['what']} | {check['found']} | {check['wanted']} | {sign} |")
    return "\n".join(lines)
