"""`skingpt-bench report`: what was measured, as Markdown with plots."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...engines.errors import InputError
from ..result_files import Results, read_all
from . import plots, tables
from .labels import CURVES, si
from .lookups import PARTS
from .markdown import Block, Bullets, Heading, Paragraph, Picture, as_markdown
from .plot_style import check_plotter, save
from .summary import summary

INTRODUCTION = (
    "Seconds are of one process on the machine named. Warm: after a warm-up. Cold: the first use in a new process. "
    "The answers' tokens are fixed, so that every trial and every engine does the same work. "
    "A spread is the smallest and the largest of the trials."
)


def write_report(paths: Sequence[Path], folder: Path) -> None:
    """Write `report.md` and the PNGs of one or several result files into `folder`.

    Raises InputError, EngineUnavailable without matplotlib or jsonschema.
    """
    check_plotter()
    every = read_all(paths)
    if not every:
        raise InputError("a report needs at least one result of `skingpt-bench run`")
    blocks: list[Block] = [Heading("SkinGPT Edge: how fast and how large", 1), Paragraph(INTRODUCTION)]
    if len(every) > 1:
        blocks += [Heading("Side by side", 2), summary(every)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for slug, results in zip(_slugs(every), every, strict=True):
            blocks += _chapter(results, folder, slug)
        (folder / "report.md").write_text(as_markdown(blocks), encoding="utf-8")
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


def _chapter(results: Results, folder: Path, slug: str) -> list[Block]:
    """Everything about one bundle."""

    def picture(kind: str, figure: Any | None, caption: str = "") -> list[Block]:
        if figure is None:
            return []
        file = folder / f"{slug}-{kind}.png"
        save(figure, file)
        return [Picture(file, f"{results['bundle']['name']}: {kind}", caption)]

    blocks: list[Block] = [Heading(results["bundle"]["name"], 2), tables.measured_on(results)]
    blocks += [Heading("Ratios and their targets"), tables.targets(results)]
    caption = f"Medians. “{PARTS[3]}” is the whole less the other parts: prefill of the prompt, sampling, bookkeeping."
    if time := picture("time", plots.time(results), caption):
        blocks += [Heading("Where the time goes"), *time]
    blocks += [Heading("Stages"), *picture("stages", plots.stages(results)), tables.stages(results)]
    caption = "At 100 % a stage does its arithmetic or its reading at the peak."
    limits = picture("limits", plots.limits(results), caption)
    blocks += [Heading("Against the hardware's limits"), *limits, tables.ceilings(results)]
    if curves := picture("growth", plots.curves(results), "Line: median. Band: smallest and largest of the trials."):
        blocks += [Heading("Growth"), *curves]
        for name, curve in results["growth"].items():
            blocks += [Heading(CURVES[name], 4), tables.curve(curve)] if curve["points"] else []
    if results["memory"]:
        blocks += [Heading("Memory"), *picture("memory", plots.memory(results)), tables.memory(results)]
    blocks += _profile(results, picture)
    blocks += [Heading("Energy"), Paragraph(_energy(results["energy"]))]
    if results["skipped"]:
        blocks += [Heading("Not measured"), Bullets(tuple(results["skipped"]))]
    return blocks


def _profile(results: Results, picture: Callable[[str, Any, str], list[Block]]) -> list[Block]:
    """Where the vision encoder's time goes; nothing if it was not profiled."""
    after, before = (results["profile"].get(f"vision_encoder{when}", []) for when in ("", "_before"))
    if not after:
        return []
    engine = results["engines"]["vision_encoder"]
    if engine["device"] == "cpu":
        unit = "operator"
        caption = "ONNX Runtime's own profile, operators of one type together; the profiler itself costs a little."
    else:
        unit = "kernel"
        caption = f"What {engine['engine']} ran on the GPU, kernels of one name together, as NVIDIA's CUPTI saw them."
    caption += " Before: an earlier export, profiled in the same minute." if before else ""
    drawn = picture("profile", plots.profile(after, before), caption)
    return [Heading(f"Vision encoder by {unit}"), *drawn, tables.profile(after, before, unit)]


def _energy(energy: dict[str, Any]) -> str:
    joules = energy["joules_per_answer"]
    if joules is None:
        return f"Not measured: {energy['note']}"
    return f"{si(joules, 'J')} an answer, by {energy['source']}. {energy['note']}"
