"""`skingpt-bench report`: what was measured as Markdown, as an HTML page and as plots."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engines.errors import InputError
from . import tables
from .document import Block, Bullets, Heading, Paragraph, Picture, as_html, as_markdown
from .growth_plots import plot_growth
from .memory_plots import plot_memory
from .operator_plots import plot_profile
from .plots import check_plotter, plot_limits, plot_stages, plot_time, save
from .report_input import Results, read_all
from .summary import summary
from .tables import PARTS
from .wording import GROWTH, name_of, si

TITLE = "SkinGPT Edge: how fast and how large"


def write_report(paths: Sequence[Path], folder: Path) -> None:
    """Write `report.md`, `report.html` and the PNGs of one or several results into `folder`.

    Raises InputError, EngineUnavailable without matplotlib.
    """
    check_plotter()
    if not paths:
        raise InputError("a report needs at least one results file of `skingpt-bench run`")
    every = read_all(paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        blocks = [Heading(TITLE, 1), *_introduction(every)]
        for slug, results in zip(_slugs(every), every, strict=True):
            blocks += _chapter(results, folder, slug)
        (folder / "report.md").write_text(as_markdown(blocks), encoding="utf-8")
        (folder / "report.html").write_text(as_html(TITLE, blocks), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: the report cannot be written: {error.strerror}") from None


def _slugs(every: Sequence[Results]) -> list[str]:
    """The beginning of each bundle's file names."""
    found: list[str] = []
    for results in every:
        plain = re.sub(r"[^a-z0-9]+", "-", results["bundle"]["name"].lower()).strip("-")[:60] or "bundle"
        slug, number = plain, 2
        while slug in found:
            slug, number = f"{plain}-{number}", number + 1
        found.append(slug)
    return found


def _introduction(every: Sequence[Results]) -> list[Block]:
    text = (
        "Seconds are of one process on the machine named. Warm: after a warm-up. Cold: the first use in a new process. "
        "The answers' tokens are fixed, so that every trial and every engine does the same work. "
        "A spread is the smallest and the largest of the trials."
    )
    if len(every) == 1:
        return [Paragraph(text)]
    return [Paragraph(text), Heading("Side by side", 2), summary(every)]


def _chapter(results: Results, folder: Path, slug: str) -> list[Block]:
    """Everything about one bundle."""

    def picture(kind: str, figure: Any | None, caption: str) -> list[Block]:
        if figure is None:
            return []
        file = folder / f"{slug}-{kind}.png"
        save(figure, file)
        return [Picture(file, f"{results['bundle']['name']}: {kind}", caption)]

    profile, before = (results["profile"].get(f"vision_encoder{when}", []) for when in ("", "_before"))
    blocks: list[Block] = [Heading(results["bundle"]["name"], 2), tables.measured_on(results)]
    blocks += [Heading("Ratios and their targets"), tables.targets(results)] if results["ratios"] else []
    caption = f"Medians. “{PARTS[3]}” is the whole less the other parts: prefill of the prompt, sampling, bookkeeping."
    if time := picture("time", plot_time(results), caption):
        blocks += [Heading("Where the time goes"), *time]
    blocks += [Heading("Stages"), *picture("stages", plot_stages(results), ""), tables.stages(results)]
    blocks += [
        Heading("Against the hardware's limits"),
        *picture("limits", plot_limits(results), "At 100 % a stage does its arithmetic or its reading at the peak."),
        tables.ceilings(results),
    ]
    if growth := picture("growth", plot_growth(results), "Line: median. Band: smallest and largest of the trials."):
        blocks += [Heading("Growth"), *growth, *_growth_tables(results)]
    if results["memory"]:
        blocks += [Heading("Memory"), *picture("memory", plot_memory(results), ""), tables.memory(results)]
    if profile:
        caption = "ONNX Runtime's own profile, operators of one type together; the profiler itself costs a little."
        caption += " Before: an earlier export, profiled in the same minute." if before else ""
        drawn = picture("profile", plot_profile(profile, before), caption)
        blocks += [Heading("Vision encoder by operator"), *drawn, tables.profile(profile, before)]
    blocks += [Heading("Energy"), Paragraph(_energy(results["energy"]))]
    if results["skipped"]:
        blocks += [Heading("Not measured"), Bullets(tuple(results["skipped"]))]
    return blocks


def _growth_tables(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for name, growth in results["growth"].items():
        if growth["points"]:
            blocks += [Heading(name_of(GROWTH, name), 4), tables.growth(growth)]
    return blocks


def _energy(energy: dict[str, Any]) -> str:
    joules = energy["joules_per_answer"]
    if joules is None:
        return f"Not measured: {energy['note']}"
    return f"{si(joules, 'J')} an answer, by {energy['source']}. {energy['note']}".strip()
