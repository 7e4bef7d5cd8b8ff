"""What the processor says of itself in Linux's /proc/cpuinfo; elsewhere nothing."""

from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@cache
def facts() -> dict[str, str]:
    """The first processor's entry."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def flags() -> frozenset[str]:
    """The processor's features, as Linux spells them."""
    return frozenset((facts().get("flags") or facts().get("Features") or "").split())
