"""What was measured as tables, and the parts that reports and plots share."""

from collections.abc import Mapping, Sequence
from typing import Any

from .document import Table
from .report_input import Results
from .wording import (
    ENGINES,
    HELD,
    LIMITS,
    OURS,
    STAGES,
    date,
    digits,
    name_of,
    percent,
    quantity,
    si,
    spread,
    target,
    verdict,
)

PARTS = ("reading the picture", "vision encoder", "Q-Former", "prompt and all else", "generation")
"""Of a first token or a report. What is not one of the others' stages counts as the fourth."""

READING = ("image_decode", "preprocess")


def engines_of(results: Results, what: str = "stages") -> list[str]:
    """The engines that were measured, ours first."""
    return sorted(dict.fromkeys(item["engine"] for item in results[what]), key=lambda engine: engine != OURS)


def stages_of(results: Results) -> list[str]:
    """The stages that were measured, in the order of the work."""
    found = dict.fromkeys(item["stage"] for item in results["stages"])
    return [*(stage for stage in STAGES if stage in found), *(stage for stage in found if stage not in STAGES)]


def warm(results: Results) -> list[dict[str, Any]]:
    """The entries of a warm process, ours first, in the order of the work."""
    entries = {(item["engine"], item["stage"]): item for item in results["stages"] if item["state"] == "warm"}
    order = [(engine, stage) for engine in engines_of(results) for stage in stages_of(results)]
    return [entries[key] for key in order if key in entries]


def parts_of(results: Results, whole: str) -> dict[str, dict[str, float]]:
    """Seconds of each part of a first token or report, by engine; they add up to its median."""
    medians = {(item["engine"], item["stage"]): item["seconds"]["p50"] for item in warm(results)}
    work, found = results["work"], {}
    # The first token of each answer comes out of the prompt's evaluation.
    steps = work.get("questions", 0) * (work.get("answer_tokens", 1) - 1) if whole == "report" else 0
    for engine in engines_of(results):
        if (engine, whole) not in medians:
            continue
        stage = {name: medians.get((engine, name), 0.0) for name in STAGES}
        # PyTorch is given pictures read by the same code, which is timed once.
        reading = sum(medians.get((engine, part), medians.get((OURS, part), 0.0)) for part in READING)
        known = [reading, stage["vision_encoder"], stage["qformer"], steps * stage["next_token"]]
        # Medians of different trials may add up to a little more than the whole.
        fitting = min(1.0, stage[whole] / sum(known)) if sum(known) else 1.0
        reading, vision, qformer, generation = (seconds * fitting for seconds in known)
        rest = max(0.0, stage[whole] - reading - vision - qformer - generation)
        found[engine] = dict(zip(PARTS, (reading, vision, qformer, rest, generation), strict=True))
    return found


def measured_on(results: Results) -> Table:
    """Bundle, machine, versions and what really ran."""
    machine, bundle, work = results["machine"], results["bundle"], results["work"]
    rows = {
        "bundle": f"{bundle['name']}: {bundle['vision']} vision, {bundle['language_model']} language model, "
        f"context of {bundle['context']}, {si(bundle['size_bytes'], 'B')}",
        "bundle id": bundle["id"],
        "notice": bundle["notice"],
        "date": date(results["created"]),
        "suite": results["suite"],
        "processor": f"{machine['cpu']}, {machine['cores']} cores; {', '.join(machine['isa']) or 'no extensions'}",
        "memory": si(machine["ram_bytes"], "B"),
        "GPU": ", ".join(machine["gpu"]) or "none",
        "system": f"{machine['os']}, kernel {machine['kernel']}",
        "threads": str(results["threads"]),
        "versions": versions(results),
        **{
            name_of(STAGES, part): f"{info['engine']} ({info['version']}), {info['precision']}, {info['device']}, "
            f"{info['threads']} threads"
            for part, info in results["engines"].items()
        },
        "work": ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in work.items()),
    }
    return Table(("", "measured on"), tuple(row for row in rows.items() if row[1]), "ll")


def versions(results: Results) -> str:
    """Names and versions of the libraries in one line."""
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)


def targets(results: Results) -> Table:
    """Every ratio: what, target, found, spread, trials, met or not, note."""
    rows = tuple(
        (
            entry["what"],
            target(entry),
            quantity(entry["value"], entry["unit"]),
            spread(entry),
            str(entry["trials"]),
            verdict(entry),
            entry["note"],
        )
        for entry in results["ratios"].values()
    )
    return Table(("what", "target", "found", "spread", "trials", "met", "note"), rows, "lrrrrll")


def stages(results: Results) -> Table:
    """Seconds of each stage by engine, cold and warm, and the share of the hardware's limit."""
    order = [(engine, stage) for engine in engines_of(results) for stage in stages_of(results)]
    found = {(item["engine"], item["stage"], item["state"]): item for item in results["stages"]}
    rows = []
    for engine, stage in order:
        cold, hot = found.get((engine, stage, "cold")), found.get((engine, stage, "warm"))
        if not cold and not hot:
            continue
        seconds = hot["seconds"] if hot else None
        rows.append(
            (
                name_of(ENGINES, engine),
                name_of(STAGES, stage),
                si(cold["seconds"]["p50"], "s") if cold else "–",
                *(si(seconds[key], "s") if seconds else "–" for key in ("p50", "p90", "p99", "min")),
                str(len(seconds["trials"])) if seconds else "–",
                *_limit(hot or cold),
            )
        )
    columns = ("engine", "stage", "cold", "p50", "p90", "p99", "min", "trials", "of its limit", "limit")
    return Table(columns, tuple(rows), "llrrrrrrrl")


def _limit(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    limit = entry["limit"] if entry else None
    if not limit:
        return "–", "–"
    return percent(limit["share"]), f"{si(limit['seconds'], 's')} by {name_of(LIMITS, limit['by'])}"


def ceilings(results: Results) -> Table:
    """The hardware's limits as measured in the same run."""
    rows = tuple(
        (
            name_of(LIMITS, name),
            si(item["value"], item["unit"]),
            f"{si(min(item['trials']), item['unit'])} to {si(max(item['trials']), item['unit'])}"
            if item["trials"]
            else "–",
            item["how"],
        )
        for name, item in results["ceilings"].items()
    )
    return Table(("limit", "measured", "trials", "how"), rows, "lrrl")


def memory(results: Results) -> Table:
    """Memory after each stage by engine."""
    with_vram = any(item.get("vram") is not None for item in results["memory"])
    rows = tuple(
        (
            name_of(ENGINES, item["engine"]),
            name_of(HELD, item["stage"]),
            *(si(item[key], "B") for key in ("rss_anon", "rss_file", "swap", "peak_anon")),
            *([_vram(item.get("vram"))] if with_vram else []),
        )
        for item in results["memory"]
    )
    columns = ("engine", "after", "RssAnon", "RssFile", "VmSwap", "highest RssAnon", *(["VRAM"] if with_vram else []))
    return Table(columns, rows, "ll" + "r" * (len(columns) - 2))


def _vram(value: int | None) -> str:
    return "–" if value is None else si(value, "B")


def profile(after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] | None = None) -> Table:
    """The vision encoder by operator, and what it was before if that is known."""
    earlier = {item["op"]: item for item in before or ()}
    later = {item["op"]: item for item in after}
    total = sum(item["seconds"] for item in after) or 1.0
    rows = []
    for name in dict.fromkeys([*later, *earlier]):
        item = later.get(name, {"calls": 0, "seconds": 0.0})
        old = earlier.get(name, {"calls": 0, "seconds": 0.0})
        cells = (name, str(item["calls"]), si(item["seconds"], "s"), percent(item["seconds"] / total))
        rows.append((*cells, str(old["calls"]), si(old["seconds"], "s")) if before else cells)
    columns = ("operator", "calls", "a picture", "share", *(["calls before", "before"] if before else []))
    return Table(columns, tuple(rows), "l" + "r" * (len(columns) - 1))


def growth(found: Mapping[str, Any]) -> Table:
    """One growth: the median and the range of the trials at each point."""
    unit = found["unit"]

    def show(value: float) -> str:
        return si(value, unit) if unit in ("s", "B") else f"{digits(value)} {unit}"

    rows = tuple(
        (f"{point['x']:g}", show(point["p50"]), f"{show(min(trials))} to {show(max(trials))}")
        for point in found["points"]
        if (trials := point["trials"] or [point["p50"]])
    )
    return Table((found["x_label"], f"{found['y_label']}, p50", "trials"), rows, "rrr")
