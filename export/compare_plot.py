"""The plot of `skingpt-export compare`: a line for each type, a panel for each figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..engines.errors import ExportError
from ..runtime.manifest import TypeFigures
from .share import Share

PLAIN, CALIBRATED = "#0b6e75", "#c77700"
APART = 0.16
"""How far from the middle of its line a type's point with and without calibration stands, where both are there."""


@dataclass(frozen=True)
class Panel:
    label: str
    value: Callable[[TypeFigures], float]
    share: Callable[[TypeFigures], Share] | None = None
    """What has a 95 % interval."""
    logarithmic: bool = False


def check_plotter() -> None:
    """Raises ExportError, before hours of work, if there is nothing to plot with."""
    if find_spec("matplotlib") is None:
        raise ExportError("plots need matplotlib: pip install 'skingpt-edge[demo]'")


def plot_types(rows: Sequence[TypeFigures], title: str, target: Path) -> None:
    """What `table` shows. 95 % intervals of what was counted."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    panels, kinds = _panels(rows), list(dict.fromkeys(row.type for row in rows))
    apart = APART if any(row.calibrated for row in rows) else 0.0
    size = 1.2 + 2.6 * len(panels), 1.6 + 0.36 * len(kinds)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for row in rows:
            y = kinds.index(row.type) + (apart if row.calibrated else -apart)
            x, colour = panel.value(row), CALIBRATED if row.calibrated else PLAIN
            axis.errorbar(x, y, xerr=_bars(panel, row), fmt="o", ms=5, color=colour, elinewidth=1, capsize=2)
        axis.set(xlabel=panel.label, yticks=range(len(kinds)), yticklabels=kinds)
        axis.margins(x=0.1)
        if panel.logarithmic:
            axis.set_xscale("log")
        else:
            axis.xaxis.set_major_locator(MaxNLocator(4))
        if not (panel.share or panel.logarithmic):
            axis.set_xlim(0, 1.1 * max(map(panel.value, rows)))
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="y", color="#eee", lw=0.9)
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if apart:
        for name, colour in (("as it is", PLAIN), ("calibrated", CALIBRATED)):
            axes[-1].plot([], [], "o", ms=5, color=colour, label=name)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.savefig(target, dpi=110, facecolor="white")


def _panels(rows: Sequence[TypeFigures]) -> list[Panel]:
    """Those of what was measured and counted."""
    panels = [
        Panel("MB", lambda row: row.size / 1e6),
        Panel("ms a token", lambda row: row.token_ms),
        Panel("ms an item of a prompt", lambda row: row.prompt_ms),
    ]
    if any(row.tokens for row in rows):
        panels.append(_counted("tokens as the original's, %", lambda row: Share(row.agreeing, row.tokens)))
        panels.append(Panel("divergence, nats", lambda row: row.divergence, logarithmic=True))
    if any(row.of for row in rows):
        panels.append(_counted("attributes right, %", lambda row: Share(row.right, row.of)))
    return panels


def _bars(panel: Panel, row: TypeFigures) -> list[list[float]] | None:
    """How far the ends of the interval are from the value."""
    if panel.share is None:
        return None
    share = panel.share(row)
    return [[100 * abs(bound - share.part)] for bound in share.interval]


def _counted(label: str, share: Callable[[TypeFigures], Share]) -> Panel:
    return Panel(label, lambda row: 100 * share(row).part, share)
