"""Results as plots. Each function gives a matplotlib figure, or None where there is nothing to show."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any

from ..result_files import Results
from .labels import CURVES, ENGINES, LIMITS, MEMORY_STAGES, OURS, STAGES, digits, percent, prefix_of, si
from .lookups import PARTS, engines_of, parts_of, stages_of, warm
from .plot_style import (
    DARK,
    INK,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    STRIPE,
    bar_axes,
    label_bar,
    label_rows,
    legend_below,
    new_figure,
    style,
    title,
)

ENGINE_COLOURS = {
    OURS: DARK,
    "torch float32": ORANGE,
    "torch bfloat16": PURPLE,
    "torch float16": PURPLE,
    "torch float16 compiled": ORANGE,
}
PART_COLOURS = ("#555f66", PURPLE, "#cc79a7", "#e0a030", DARK)
LIMIT_COLOURS = {"int8_peak": DARK, "float32_peak": PURPLE, "float16_peak": PURPLE, "read_bandwidth": ORANGE}
MEMORY_PARTS = (
    ("rss_anon", "memory of its own (RssAnon)", DARK),
    ("rss_file", "file content, which the system may drop (RssFile)", LIGHT),
    ("swap", "swapped out (VmSwap)", RED),
)
GRID_COLUMNS = 6  # of the curves; a row holds 1, 2 or 3 of them
LABEL_WIDTH = 30  # letters
LEAST_GAP = 0.05  # of the x axis, between two points that both get their number
LONGEST_LABEL = 48  # letters of a kernel's name
OPERATORS_SHOWN = 12


def time(results: Results) -> Any | None:
    """Where the time to the first token and to a whole report goes, by engine."""
    work = results["work"]
    titles = {
        "first_token": "First token, new picture",
        "report": f"Report of {work['questions']} × {work['answer_tokens']} tokens",
    }
    wholes = [(text, parts) for stage, text in titles.items() if (parts := parts_of(results, stage))]
    if not wholes:
        return None
    rows = max(len(parts) for _, parts in wholes)
    figure, axes = bar_axes(1, len(wholes), 1.9 + 0.5 * rows)
    for axis, (text, engines) in zip(axes, wholes, strict=True):
        title(axis, text)
        _time_bars(axis, engines)
    legend_below(figure, axes[0])
    return figure


def _time_bars(axis: Any, engines: Mapping[str, Mapping[str, float]]) -> None:
    totals = {engine: sum(parts.values()) for engine, parts in engines.items()}
    factor, prefix = prefix_of(max(totals.values()), "s")
    left = [0.0] * len(engines)
    for colour, part in zip(PART_COLOURS, PARTS, strict=True):
        widths = [parts[part] / factor for parts in engines.values()]
        axis.barh(range(len(engines)), widths, left=left, color=colour, height=0.62, label=part, ec="white", lw=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, (engine, total) in enumerate(totals.items()):
        times = "" if engine == OURS or OURS not in totals else f"  ({digits(total / totals[OURS])}×)"
        label_bar(axis, total / factor, row, f"{si(total, 's')}{times}")
    axis.set(xlabel=f"{prefix}s" if prefix else "seconds", xlim=(0, 1.38 * max(totals.values()) / factor))
    label_rows(axis, [ENGINES[engine] for engine in engines])


def stages(results: Results) -> Any | None:
    """Seconds of each stage on a logarithmic axis: median, range of the trials, and the first use in a process."""
    names = stages_of(results)
    if not names:
        return None
    figure, (axis,) = bar_axes(1, 1, 1.4 + 0.46 * len(names))
    rows = _stage_rows(results)
    for engine in engines_of(results):
        colour = ENGINE_COLOURS[engine]
        for state, face in (("warm", colour), ("cold", "white")):
            entries = [item for item in results["stages"] if item["engine"] == engine and item["state"] == state]
            if not entries:
                continue
            y, seconds = [rows[engine, item["stage"]] for item in entries], [item["seconds"] for item in entries]
            label = f"{ENGINES[engine]}, {state}"
            axis.hlines(y, [s["min"] for s in seconds], [s["p99"] for s in seconds], color=colour, lw=1.6, alpha=0.55)
            axis.scatter([s["p50"] for s in seconds], y, s=34, fc=face, ec=colour, lw=1.4, label=label, zorder=3)
    axis.set(xscale="log", xlabel="seconds, logarithmic. Dot: p50; line: min to p99")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / prefix_of(value, 's')[0]:g} {prefix_of(value, 's')[1]}s")
    label_rows(axis, [STAGES[name] for name in names])
    for row in range(0, len(names), 2):
        axis.axhspan(row - 0.5, row + 0.5, color=STRIPE, zorder=0, lw=0)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return figure


def _stage_rows(results: Results) -> dict[tuple[str, str], float]:
    """The y of each engine's stage. The engines that have a stage share its row, around the middle."""
    found = {(item["engine"], item["stage"]) for item in results["stages"]}
    rows = {}
    for row, stage in enumerate(stages_of(results)):
        engines = [engine for engine in engines_of(results) if (engine, stage) in found]
        for number, engine in enumerate(engines):
            rows[engine, stage] = row + 0.28 * (number - (len(engines) - 1) / 2)
    return rows


def limits(results: Results) -> Any | None:
    """Each stage as a percentage of what this machine's hardware allows."""
    entries = [item for item in warm(results) if item["engine"] == OURS and item["limit"]]
    if not entries:
        return None
    figure, (axis,) = bar_axes(1, 1, 1.5 + 0.42 * len(entries))
    shares = [100 * item["limit"]["share"] for item in entries]
    for kind in dict.fromkeys(item["limit"]["by"] for item in entries):
        rows = [row for row, item in enumerate(entries) if item["limit"]["by"] == kind]
        ceiling = results["ceilings"][kind]
        label = f"of {LIMITS[kind]}, {si(ceiling['value'], ceiling['unit'])}"
        axis.barh(
            rows,
            [shares[row] for row in rows],
            color=LIMIT_COLOURS[kind.removeprefix("gpu_")],
            height=0.62,
            label=label,
        )
    for row, item in enumerate(entries):
        limit, found = item["limit"], item["seconds"]["p50"]
        text = f"{percent(limit['share'])}   {si(found, 's')}, at the limit {si(limit['seconds'], 's')}"
        label_bar(axis, shares[row], row, text)
    axis.axvline(100, color=RED, lw=1.4, ls="--", zorder=1.5)
    devices = {"GPU's" if item["limit"]["by"].startswith("gpu_") else "processor's" for item in entries}
    whose = " or ".join(sorted(devices))
    axis.set(xlabel=f"percent of the {whose} limit measured in the same run", xlim=(0, max(135, 1.4 * max(shares))))
    label_rows(axis, [STAGES[item["stage"]] for item in entries])
    legend_below(figure, axis)
    return figure


def curves(results: Results) -> Any | None:
    """Every curve that was measured, a small plot each: median and range of the trials."""
    names = [name for name in CURVES if results["growth"][name]["points"]]
    if not names:
        return None
    rows = [names[: len(names) // 2], names[len(names) // 2 :]] if len(names) > 3 else [names]
    figure = new_figure(3.4 * len(rows))
    grid = figure.add_gridspec(len(rows), GRID_COLUMNS)
    for row, members in enumerate(rows):
        wide = GRID_COLUMNS // len(members)
        for column, name in enumerate(members):
            axis = figure.add_subplot(grid[row, column * wide : (column + 1) * wide])
            title(axis, CURVES[name])
            _curve(axis, results["growth"][name])
    return figure


def _curve(axis: Any, curve: Mapping[str, Any]) -> None:
    points, unit = curve["points"], curve["unit"]
    highest = max(max(point["trials"]) for point in points)
    factor, prefix = prefix_of(highest, unit) if unit in ("s", "B") else (1.0, "")
    x = [point["x"] for point in points]
    low, high = ([edge(point["trials"]) / factor for point in points] for edge in (min, max))
    style(axis, grid="y")
    axis.fill_between(x, low, high, color=DARK, alpha=0.18, lw=0)
    axis.plot(x, [point["p50"] / factor for point in points], color=DARK, marker="o", ms=5, lw=2)
    gaps = [b - a for a, b in pairwise(x)]
    if gaps and min(gaps) >= LEAST_GAP * (x[-1] - x[0]):
        axis.set_xticks(x, [f"{value:g}" for value in x])
    label = fill(f"{curve['y_label']} [{prefix}{unit}]", LABEL_WIDTH)
    axis.set(xlabel=curve["x_label"], ylabel=label, ylim=(0, 1.12 * highest / factor))


def memory(results: Results) -> Any | None:
    """What each process held after each stage, and the highest point of its own memory."""
    engines = engines_of(results, "memory")
    if not engines:
        return None
    groups = {engine: [item for item in results["memory"] if item["engine"] == engine] for engine in engines}
    counts = [len(entries) for entries in groups.values()]
    most = max(max(m["rss_anon"] + m["rss_file"] + m["swap"], m["peak_anon"]) for m in results["memory"])
    factor, prefix = prefix_of(most, "B")
    figure, axes = bar_axes(len(engines), 1, 1.2 + 0.34 * sum(counts) + 0.35 * len(engines), height_ratios=counts)
    for axis, (engine, entries) in zip(axes, groups.items(), strict=True):
        title(axis, ENGINES[engine])
        _memory_bars(axis, entries, factor)
    target = results["ratios"]["peak_memory"]["target"]
    if target and OURS in groups:
        limit = target["at_most"]
        axes[0].axvline(limit * 1e9 / factor, color=RED, lw=1.4, ls="--", label=f"target: {limit:g} GB", zorder=1.5)
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
    label_rows(axis, [MEMORY_STAGES[item["stage"]] for item in entries])


def profile(after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> Any:
    """Seconds of the vision encoder by operator for one picture; `before` may be empty."""
    series = {"before": before, "after": after} if before else {"after": after}
    times = _largest({label: {item["op"]: item["seconds"] for item in found} for label, found in series.items()})
    names = list(times["after"])
    figure, (axis,) = bar_axes(1, 1, 1.5 + (0.42 if before else 0.34) * len(names))
    height = 0.74 / len(times)
    for number, (label, found) in enumerate(times.items()):
        total = sum(found.values()) or 1.0
        rows = [row + height * (number - (len(times) - 1) / 2) for row in range(len(names))]
        milliseconds = [1000 * seconds for seconds in found.values()]
        colour = DARK if label == "after" else ORANGE
        axis.barh(rows, milliseconds, color=colour, height=height, label=f"{label}: {si(total, 's')} in all")
        for row, seconds in zip(rows, found.values(), strict=True):
            text = f"{si(seconds, 's')}, {percent(seconds / total)}" if seconds else "–"
            label_bar(axis, 1000 * seconds, row, text, size=8 if before else 9)
    axis.set(xlabel="ms a picture", xlim=(0, 1200 * max(max(found.values()) for found in times.values()) or 1))
    label_rows(axis, [name if len(name) <= LONGEST_LABEL else f"{name[:LONGEST_LABEL]}…" for name in names])
    if before:
        axis.legend(loc="lower right", frameon=False, fontsize=9.5)
    return figure


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
