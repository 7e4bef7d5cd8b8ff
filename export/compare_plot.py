"""The plot of `skingpt-export compare`: what a type costs against what it loses."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..engines.errors import ExportError
from ..runtime.manifest import TypeFigures
from .compare import WHOLE, Candidate
from .share import Share

PLAIN, CALIBRATED = "#0b6e75", "#c77700"


def check_plotter() -> None:
    """Raises ExportError, before hours of work, if there is nothing to plot with."""
    if find_spec("matplotlib") is None:
        raise ExportError("plots need matplotlib: pip install 'skingpt-edge[demo]'")


def plot_types(rows: Sequence[TypeFigures], title: str, target: Path) -> None:
    """Tokens, and where they were counted attributes, that are right against the time of a token; 95 % intervals."""
    from matplotlib.figure import Figure

    panels = [("tokens as the original's, percent", [Share(row.agreeing, row.tokens) for row in rows])]
    if any(row.of for row in rows):
        panels.append(("attributes right, percent", [Share(row.right, row.of) for row in rows]))
    figure = Figure(figsize=(6.2 * len(panels), 5), layout="constrained")
    for axis, (label, shares) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for row, share in zip(rows, shares, strict=True):
            colour = CALIBRATED if row.calibrated else "#333" if row.type == WHOLE else PLAIN
            low, high = (100 * value for value in share.interval)
            y = 100 * share.part
            axis.errorbar(
                row.token_ms, y, [[y - low], [high - y]], fmt="o", ms=5, color=colour, elinewidth=1, capsize=2
            )
            axis.annotate(
                str(Candidate(row.type, row.calibrated)), (row.token_ms, y), xytext=(6, 5),
                textcoords="offset points", fontsize=8, color=colour,
            )  # fmt: skip
        axis.set(xlabel="milliseconds a token", ylabel=label, title=title)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#ddd", lw=0.7)
    figure.savefig(target, dpi=110, facecolor="white")
