"""How figures grow with the turn, the prompt, the conversations and the batch: one small plot each."""

from collections.abc import Mapping
from itertools import pairwise
from textwrap import fill
from typing import Any

from .plots import DARK, GRID, new_figure, style
from .report_input import Results
from .wording import GROWTH, name_of, prefix_of

COLUMNS = 6  # of the grid; a row holds 1, 2 or 3 plots
LABEL_WIDTH = 30  # letters
LEAST_GAP = 0.05  # of the axis, between two points that each get their number


def plot_growth(results: Results) -> Any | None:
    """Every growth that was measured, median and range of the trials; None if none was."""
    growths = {name: growth for name, growth in _ordered(results["growth"]).items() if growth["points"]}
    if not growths:
        return None
    names = list(growths)
    rows = [names[: len(names) // 2], names[len(names) // 2 :]] if len(names) > 3 else [names]
    figure = new_figure(3.4 * len(rows))
    grid = figure.add_gridspec(len(rows), COLUMNS)
    for row, members in enumerate(rows):
        wide = COLUMNS // len(members)
        for column, name in enumerate(members):
            axis = figure.add_subplot(grid[row, column * wide : (column + 1) * wide])
            _plot(axis, name_of(GROWTH, name), growths[name])
    return figure


def _ordered(growth: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in GROWTH if name in growth]
    return {name: growth[name] for name in [*known, *(name for name in growth if name not in GROWTH)]}


def _plot(axis: Any, title: str, growth: Mapping[str, Any]) -> None:
    points = sorted(growth["points"], key=lambda point: float(point["x"]))
    highest = max(max([point["p50"], *point["trials"]]) for point in points)
    scaled = growth["unit"] in ("s", "B")
    factor, prefix = prefix_of(highest, growth["unit"]) if scaled else (1.0, "")
    x = [point["x"] for point in points]
    low = [min([point["p50"], *point["trials"]]) / factor for point in points]
    high = [max([point["p50"], *point["trials"]]) / factor for point in points]
    style(axis)
    axis.grid(axis="y", color=GRID, lw=0.7)
    axis.fill_between(x, low, high, color=DARK, alpha=0.18, lw=0)
    axis.plot(x, [point["p50"] / factor for point in points], color=DARK, marker="o", ms=5, lw=2)
    gaps = [b - a for a, b in pairwise(x)]
    if gaps and min(gaps) >= LEAST_GAP * (x[-1] - x[0]):
        axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.set_title(title, fontsize=10.5, loc="left")
    label = fill(f"{growth['y_label']} [{prefix}{growth['unit']}]", LABEL_WIDTH)
    axis.set(xlabel=growth["x_label"], ylabel=label, ylim=(0, 1.12 * highest / factor or 1))
