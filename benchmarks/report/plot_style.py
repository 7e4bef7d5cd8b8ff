"""The common style of all plots: size, colours, axes and labels."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...engines.errors import EngineUnavailable

DPI = 150
WIDTH = 11.0  # inches
LIGHT, DARK, ORANGE, PURPLE, RED = "#a9cfd2", "#0b6e75", "#c77700", "#7a3e9d", "#b03a48"
INK, MUTED, LINE, GRID, STRIPE = "#1b2227", "#5b6670", "#9aa3a9", "#dddddd", "#f4f7f7"


def check_plotter() -> None:
    """Raises EngineUnavailable if there is nothing to plot with."""
    if find_spec("matplotlib") is None:
        raise EngineUnavailable("plots need matplotlib: pip install 'skingpt-edge[bench]'")


def save(figure: Any, target: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(target, dpi=DPI, facecolor="white")


def new_figure(height: float) -> Any:
    """An empty figure of the common width that makes room for its labels; `height` in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def bar_axes(rows: int, columns: int, height: float, **grid: Any) -> tuple[Any, list[Any]]:
    """A figure with axes for horizontal bars; `grid` as matplotlib's GridSpec takes it."""
    figure = new_figure(height)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=rows > 1, gridspec_kw=grid).ravel().tolist()
    for axis in axes:
        style(axis, grid="x")
    return figure, axes


def style(axis: Any, *, grid: str) -> None:
    """The common style of an axis, with grid lines for `x` or `y`."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)
    axis.tick_params(colors=INK, labelsize=9.5, color=LINE)
    axis.set_axisbelow(True)
    axis.grid(axis=grid, color=GRID, lw=0.7)
    axis.xaxis.label.set_color(MUTED)
    axis.yaxis.label.set_color(MUTED)


def title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10.5)


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
