"""Where a graph's time goes by operator, drawn; before and after where both are known."""

from collections.abc import Mapping, Sequence
from typing import Any

from .plots import DARK, label_bar, label_rows, new_axes
from .wording import percent, si

OPERATORS_SHOWN = 12


def plot_profile(after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] | None = None) -> Any | None:
    """Seconds of the vision encoder by operator for one picture, before and after where both are known."""
    if not after:
        return None
    series = {"before": _by_operator(before)} if before else {}
    series["after"] = _by_operator(after)
    series = _largest(series)
    names = list(series["after"])
    figure, (axis,) = new_axes(1, 1, 1.5 + (0.42 if before else 0.34) * len(names))
    height = 0.74 / len(series)
    for number, (label, times) in enumerate(series.items()):
        total = sum(times.values()) or 1.0
        rows = [row + height * (number - (len(series) - 1) / 2) for row in range(len(names))]
        colour = DARK if label == "after" else "#c77700"
        widths = [1000 * seconds for seconds in times.values()]
        axis.barh(rows, widths, color=colour, height=height, label=f"{label}: {si(total, 's')} in all")
        for row, seconds in zip(rows, times.values(), strict=True):
            text = f"{si(seconds, 's')}, {percent(seconds / total)}" if seconds else "–"
            label_bar(axis, 1000 * seconds, row, text, size=8 if before else 9)
    axis.set(xlabel="ms a picture", xlim=(0, 1200 * max(max(times.values()) for times in series.values()) or 1))
    label_rows(axis, names)
    if before:
        axis.legend(loc="lower right", frameon=False, fontsize=9.5)
    return figure


def _by_operator(profile: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    times: dict[str, float] = {}
    for item in profile:
        times[item["op"]] = times.get(item["op"], 0.0) + item["seconds"]
    return times


def _largest(series: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same operators in every series, the longest first; many short ones are summed."""
    names = list(dict.fromkeys(name for times in series.values() for name in times))
    names.sort(key=lambda name: -max(times.get(name, 0.0) for times in series.values()))
    shown = names if len(names) <= OPERATORS_SHOWN else names[: OPERATORS_SHOWN - 1]
    others = names[len(shown) :]
    found = {}
    for label, times in series.items():
        found[label] = {name: times.get(name, 0.0) for name in shown}
        if others:
            found[label][f"{len(others)} others"] = sum(times.get(name, 0.0) for name in others)
    return found
