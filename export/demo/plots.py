"""Plots of the learning curve, and of the accuracy on disturbed pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .robustness import DISTURBANCES, Robustness

COLOURS = ("#0b6e75", "#c77700", "#7a3e9d", "#2c7a2c", "#b03a48", "#3d6fb6", "#8a7a1f", "#555555")


def plot_curve(points: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Accuracy of the attributes as the vision chain learns, and the loss as the language model does."""
    figure, (left, right) = _axes(2, (12, 4.6))
    vision = [point for point in points if point["accuracy"]]
    language = [point for point in points if not point["accuracy"]]
    minutes = [float(point["minutes"]) for point in vision]
    for colour, name in zip(
        COLOURS, [n for n in (vision[0]["accuracy"] if vision else {}) if n != "all"], strict=False
    ):
        left.plot(minutes, [100 * p["accuracy"][name] for p in vision], label=name, color=colour, lw=1.7)
    if vision:
        left.plot(
            minutes, [100 * p["accuracy"]["all"] for p in vision], label="all at once", color="#000", lw=2.2, ls="--"
        )
        switch = next((m for m, p in zip(minutes, vision, strict=True) if p["phase"] != vision[0]["phase"]), None)
        if switch is not None:
            left.axvline(switch, color="#999", lw=1, ls=":")
            left.text(switch, 2, " whole pictures →", color="#666", fontsize=8.5)
            left.text(switch, 2, "windows ", color="#666", fontsize=8.5, ha="right")
    title = "ViT and Q-Former: validation drawings seen right"
    left.set(title=title, xlabel="minutes", ylabel="percent", ylim=(0, 101))
    left.legend(fontsize=8, ncols=2, loc="lower right")
    right.plot([p["minutes"] for p in language], [p["loss"] for p in language], color=COLOURS[0], lw=2)
    right.set(title="Projection and Llama: loss a token", xlabel="minutes", ylabel="nats", yscale="log")
    _save(figure, target)


def plot_robustness(found: Robustness, target: Path) -> None:
    """Attributes and conditions right against the strength of each disturbance, with 95 % intervals."""
    figure, axes = _axes(len(found.sweeps), (3.6 * len(found.sweeps), 4.1))
    for axis, (name, levels) in zip(axes, found.sweeps.items(), strict=True):
        x = list(levels)
        for colour, what in zip(COLOURS, ("attributes", "condition"), strict=False):
            shares = [levels[level][what] for level in x]
            axis.plot(x, [100 * share.part for share in shares], color=colour, label=what, marker="o", ms=4, lw=1.8)
            low, high = zip(*(share.interval for share in shares), strict=True)
            axis.fill_between(x, [100 * v for v in low], [100 * v for v in high], color=colour, alpha=0.15, lw=0)
        axis.set(title=name, xlabel=DISTURBANCES[name].unit, ylim=(0, 101))
        if name == "resolution":
            axis.set_xscale("log", base=2)
            axis.set_xticks(x, [f"{value:.0f}" for value in x], fontsize=8)
            axis.minorticks_off()
    axes[0].set_ylabel("percent right")
    axes[0].legend(fontsize=9, loc="lower left")
    figure.supxlabel(found.notice, fontsize=7.5, color="#666")
    _save(figure, target)


def _axes(count: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, count)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#ddd", lw=0.7)
    return figure, axes


def _save(figure: Any, target: Path) -> None:
    figure.savefig(target, dpi=110, facecolor="white")
