"""What was measured, as tables of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..result_files import Results
from .labels import (
    ENGINES,
    LIMITS,
    MEMORY_STAGES,
    PARTS,
    STAGES,
    date,
    digits,
    percent,
    quantity,
    si,
    spread,
    target,
    verdict,
)
from .lookups import engines_of, stages_of
from .markdown import Table


def measured_on(results: Results) -> Table:
    """Bundle, machine, versions, what was asked for and what really ran."""
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
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        **{PARTS[part]: _engine(info) for part, info in results["engines"].items()},
        **_setup(results),
        "work": ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in work.items()),
    }
    return Table(("", "measured on"), tuple(row for row in rows.items() if row[1]), "ll")


def _engine(info: Mapping[str, Any]) -> str:
    words = [f"{info['engine']} ({info['version']})", info["device"], f"{info['threads']} threads"]
    if "details" not in info:  # version 1
        return ", ".join([words[0], info["precision"], *words[1:]])
    return ", ".join(words + ([_values(info["details"])] if info["details"] else []))


def _setup(results: Results) -> dict[str, str]:
    """What was asked for and what it became, where the results say so."""
    if "setup" not in results:  # version 1
        return {}
    requested, resolved = results["setup"]["requested"], results["setup"]["resolved"]
    return {
        "asked for": _values(requested),
        "setup of vision": _values(resolved["vision"]),
        "setup of the language model": _values(resolved["language_model"]),
    }


def _values(found: Mapping[str, Any]) -> str:
    """Names and values, without those that were left open."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items() if value is not None)


def targets(results: Results) -> Table:
    """Every ratio with its target, value, spread and trials."""
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
                ENGINES[engine],
                STAGES[stage],
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
    return percent(limit["share"]), f"{si(limit['seconds'], 's')} by {LIMITS[limit['by']]}"


def ceilings(results: Results) -> Table:
    """The hardware's limits as measured in the same run."""
    rows = tuple(
        (
            LIMITS[name],
            si(item["value"], item["unit"]),
            f"{si(min(item['trials']), item['unit'])} to {si(max(item['trials']), item['unit'])}",
            item["how"],
        )
        for name, item in results["ceilings"].items()
    )
    return Table(("limit", "measured", "trials", "how"), rows, "lrrl")


def memory(results: Results) -> Table:
    """Memory after each stage by engine."""
    with_vram = any(item["vram"] is not None for item in results["memory"])
    keys = ("rss_anon", "rss_file", "swap", "peak_anon", *(("vram",) if with_vram else ()))
    rows = tuple(
        (
            ENGINES[item["engine"]],
            MEMORY_STAGES[item["stage"]],
            *("–" if item[key] is None else si(item[key], "B") for key in keys),
        )
        for item in results["memory"]
    )
    columns = ("engine", "after", "RssAnon", "RssFile", "VmSwap", "highest RssAnon", *(("VRAM",) if with_vram else ()))
    return Table(columns, rows, "ll" + "r" * len(keys))


def profile(after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], unit: str) -> Table:
    """The vision encoder by `unit`, operator or kernel, and what it was before if that is known."""
    earlier, later = ({item["op"]: item for item in found} for found in (before, after))
    total = sum(item["seconds"] for item in after) or 1.0
    nothing = {"calls": 0, "seconds": 0.0}
    rows = []
    for name in dict.fromkeys([*later, *earlier]):
        item, old = later.get(name, nothing), earlier.get(name, nothing)
        cells = (name, str(item["calls"]), si(item["seconds"], "s"), percent(item["seconds"] / total))
        rows.append((*cells, str(old["calls"]), si(old["seconds"], "s")) if before else cells)
    columns = (unit, "calls", "a picture", "share", *(("calls before", "before") if before else ()))
    return Table(columns, tuple(rows), "l" + "r" * (len(columns) - 1))


def curve(found: Mapping[str, Any]) -> Table:
    """One curve: the median and the range of the trials at each point."""
    unit = found["unit"]

    def show(value: float) -> str:
        return si(value, unit) if unit in ("s", "B") else f"{digits(value)} {unit}"

    rows = tuple(
        (f"{point['x']:g}", show(point["p50"]), f"{show(min(point['trials']))} to {show(max(point['trials']))}")
        for point in found["points"]
    )
    return Table((found["x_label"], f"{found['y_label']}, p50", "trials"), rows, "rrr")
