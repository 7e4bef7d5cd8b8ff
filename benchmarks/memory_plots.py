"""What processes held, drawn: their own memory and the file content beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from .plots import DARK, INK, LIGHT, SIGNAL, label_bar, label_rows, legend_below, new_axes
from .report_input import Results
from .tables import engines_of
from .wording import ENGINES, HELD, OURS, name_of, prefix_of, si

MEMORY_PARTS = (
    ("rss_anon", "memory of its own (RssAnon)", DARK),
    ("rss_file", "file content, which the system may drop (RssFile)", LIGHT),
    ("swap", "swapped out (VmSwap)", SIGNAL),
)


def plot_memory(results: Results) -> Any | None:
    """What each process held after each stage, and its own memory's highest point."""
    engines = engines_of(results, "memory")
    if not engines:
        return None
    groups = {engine: [item for item in results["memory"] if item["engine"] == engine] for engine in engines}
    counts = [len(entries) for entries in groups.values()]
    most = max(max(m["rss_anon"] + m["rss_file"] + m["swap"], m["peak_anon"]) for m in results["memory"])
    factor, prefix = prefix_of(most, "B")
    height = 1.2 + 0.34 * sum(counts) + 0.35 * len(engines)
    figure, axes = new_axes(len(engines), 1, height, height_ratios=counts, sharex=True)
    for axis, (engine, entries) in zip(axes, groups.items(), strict=True):
        _memory_bars(axis, entries, factor)
        axis.set_title(name_of(ENGINES, engine), loc="left", fontsize=10.5)
    limit = (results["ratios"].get("peak_memory", {}).get("target") or {}).get("at_most")
    if limit and OURS in groups:
        axes[0].axvline(limit * 1e9 / factor, color=SIGNAL, lw=1.4, ls="--", label=f"target: {limit:g} GB", zorder=1.5)
    axes[-1].set(xlabel=f"{prefix}B; the figure is the memory of its own", xlim=(0, 1.14 * most / factor))
    legend_below(figure, axes[0])
    return figure


def _memory_bars(axis: Any, entries: Sequence[Mapping[str, Any]], factor: float) -> None:
    rows, left = range(len(entries)), [0.0] * len(entries)
    for key, label, colour in MEMORY_PARTS:
        widths = [item[key] / factor for item in entries]
        if any(widths):
            axis.barh(rows, widths, left=left, color=colour, height=0.62, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    peaks = [item["peak_anon"] / factor for item in entries]
    # A line and not a scatter: the legend names lines after bars.
    axis.plot(peaks, rows, "|", ms=11, color=INK, mew=1.8, label="highest of its own so far")
    for row, (end, peak, item) in enumerate(zip(left, peaks, entries, strict=True)):
        label_bar(axis, max(end, peak), row, si(item["rss_anon"], "B"))
    label_rows(axis, [name_of(HELD, item["stage"]) for item in entries])
