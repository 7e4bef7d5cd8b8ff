"""Pictures of results; each function gives a matplotlib figure, or None where there is nothing to show."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..engines.errors import EngineUnavailable
from .report_input import Results
from .tables import PARTS, engines_of, parts_of, stages_of, warm
from .wording import ENGINES, LIMITS, OURS, STAGES, digits, name_of, percent, prefix_of, si

DPI = 150
WIDTH = 11.0  # inches
ENGINE_COLOURS = {OURS: "#0b6e75", "torch float32": "#c77700", "torch bfloat16": "#7a3e9d"}
PART_COLOURS = ("#555f66", "#7a3e9d", "#cc79a7", "#e0a030", "#0b6e75")
LIMIT_COLOURS = {"int8_peak": "#0b6e75", "float32_peak": "#7a3e9d", "read_bandwidth": "#c77700"}
OTHER = "#777777"
LIGHT, DARK, SIGNAL = "#a9cfd2", "#0b6e75", "#b03a48"
INK, MUTED, GRID = "#1b2227", "#5b6670", "#dddddd"


def check_plotter() -> None:
    """Raises EngineUnavailable if there is nothing to plot with."""
    if find_spec("matplotlib") is None:
        raise EngineUnavailable("plots need matplotlib: pip install 'skingpt-edge[bench]'")


def save(figure: Any, target: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(target, dpi=DPI, facecolor="white")


def plot_time(results: Results) -> Any | None:
    """Where the time to the first token and to a whole report goes, by engine."""
    wholes = [(stage, parts) for stage in ("first_token", "report") if (parts := parts_of(results, stage))]
    if not wholes:
        return None
    rows = max(len(parts) for _, parts in wholes)
    figure, axes = new_axes(1, len(wholes), 1.9 + 0.5 * rows)
    for axis, (stage, engines) in zip(axes, wholes, strict=True):
        totals = {engine: sum(parts.values()) for engine, parts in engines.items()}
        factor, prefix = prefix_of(max(totals.values()), "s")
        for colour, part in zip(PART_COLOURS, PARTS, strict=True):
            left = [sum(_before(parts, part)) / factor for parts in engines.values()]
            widths = [parts[part] / factor for parts in engines.values()]
            axis.barh(range(len(engines)), widths, left=left, color=colour, height=0.62, label=part, ec="white", lw=0.6)
        for row, (engine, total) in enumerate(totals.items()):
            times = "" if engine == OURS or OURS not in totals else f"  ({digits(total / totals[OURS])}×)"
            label_bar(axis, total / factor, row, f"{si(total, 's')}{times}")
        axis.set(xlabel=f"{prefix}s" if prefix else "seconds", xlim=(0, 1.38 * max(totals.values()) / factor))
        axis.set_title(_whole_title(results, stage), loc="left", fontsize=10.5)
        label_rows(axis, [name_of(ENGINES, engine) for engine in engines])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), frameon=False, fontsize=9)
    return figure


def _before(parts: Mapping[str, float], part: str) -> list[float]:
    names = list(parts)
    return [parts[name] for name in names[: names.index(part)]]


def _whole_title(results: Results, stage: str) -> str:
    work = results["work"]
    report = f"Report of {work.get('questions', '?')} × {work.get('answer_tokens', '?')} tokens"
    return report if stage == "report" else "First token, new picture"


def plot_stages(results: Results) -> Any | None:
    """Seconds of each stage on a logarithmic axis: median, range of the trials, and the first use in a process."""
    stages = stages_of(results)
    if not stages:
        return None
    figure, (axis,) = new_axes(1, 1, 1.4 + 0.46 * len(stages))
    rows = _stage_rows(results)
    for engine in engines_of(results):
        colour = ENGINE_COLOURS.get(engine, OTHER)
        for state, face in (("warm", colour), ("cold", "white")):
            entries = [item for item in results["stages"] if item["engine"] == engine and item["state"] == state]
            if not entries:
                continue
            y, seconds = [rows[engine, item["stage"]] for item in entries], [item["seconds"] for item in entries]
            label = f"{name_of(ENGINES, engine)}, {state}"
            axis.hlines(y, [s["min"] for s in seconds], [s["p99"] for s in seconds], color=colour, lw=1.6, alpha=0.55)
            axis.scatter([s["p50"] for s in seconds], y, s=34, fc=face, ec=colour, lw=1.4, label=label, zorder=3)
    axis.set(xscale="log", xlabel="seconds, logarithmic. Dot: p50; line: min to p99")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / prefix_of(value, 's')[0]:g} {prefix_of(value, 's')[1]}s")
    label_rows(axis, [name_of(STAGES, stage) for stage in stages])
    axis.grid(axis="y", visible=False)
    for row in range(0, len(stages), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f4f7f7", zorder=0, lw=0)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return figure


def _stage_rows(results: Results) -> dict[tuple[str, str], float]:
    """Where an engine's stage stands: the engines that have a stage share its row, around the middle."""
    found = {(item["engine"], item["stage"]) for item in results["stages"]}
    rows = {}
    for row, stage in enumerate(stages_of(results)):
        engines = [engine for engine in engines_of(results) if (engine, stage) in found]
        for number, engine in enumerate(engines):
            rows[engine, stage] = row + 0.28 * (number - (len(engines) - 1) / 2)
    return rows


def plot_limits(results: Results) -> Any | None:
    """Each stage as a percentage of what this machine's hardware allows."""
    entries = [item for item in warm(results) if item["engine"] == OURS and item["limit"]]
    if not entries:
        return None
    figure, (axis,) = new_axes(1, 1, 1.5 + 0.42 * len(entries))
    for kind in dict.fromkeys(item["limit"]["by"] for item in entries):
        rows = [row for row, item in enumerate(entries) if item["limit"]["by"] == kind]
        shares = [100 * entries[row]["limit"]["share"] for row in rows]
        ceiling = results["ceilings"].get(kind)
        label = f"of {name_of(LIMITS, kind)}" + (f", {si(ceiling['value'], ceiling['unit'])}" if ceiling else "")
        axis.barh(rows, shares, color=LIMIT_COLOURS.get(kind, OTHER), height=0.62, label=label)
    for row, item in enumerate(entries):
        limit, found = item["limit"], item["seconds"]["p50"]
        text = f"{percent(limit['share'])}   {si(found, 's')}, at the limit {si(limit['seconds'], 's')}"
        label_bar(axis, 100 * limit["share"], row, text)
    axis.axvline(100, color=SIGNAL, lw=1.4, ls="--", zorder=1.5)
    axis.set(xlabel="percent of the hardware limit measured in the same run")
    axis.set_xlim(0, max(135, 1.4 * max(100 * item["limit"]["share"] for item in entries)))
    label_rows(axis, [name_of(STAGES, item["stage"]) for item in entries])
    legend_below(figure, axis)
    return figure


def new_axes(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, list[Any]]:
    figure = new_figure(height)
    sharex = options.pop("sharex", False)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, gridspec_kw=options).ravel().tolist()
    for axis in axes:
        style(axis)
        axis.grid(axis="x", color=GRID, lw=0.7)
    return figure, axes


def new_figure(height: float) -> Any:
    """An empty figure of the common width, in inches, that makes room for its labels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def style(axis: Any) -> None:
    """The house style of an axis."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#9aa3a9")
    axis.tick_params(colors=INK, labelsize=9.5, color="#9aa3a9")
    axis.set_axisbelow(True)
    axis.xaxis.label.set_color(MUTED)
    axis.yaxis.label.set_color(MUTED)


def label_bar(axis: Any, x: float, row: float, text: str, size: float = 9) -> None:
    """A figure at the end of a bar, on white so that no line crosses it."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
    place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
    axis.annotate(text, (x, row), fontsize=size, color=INK, bbox=box, **place)


def label_rows(axis: Any, labels: Sequence[str]) -> None:
    """Rows of bars from the top down."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.45, -0.55)
    axis.tick_params(axis="y", length=0)


def legend_below(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
