"""The results of a run as `results.schema.json` documents them: statistics, stages, ratios and their targets."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

SCHEMA = "skingpt-bench/1"

Json = dict[str, Any]


class Ratio(NamedTuple):
    """What a ratio is and what it has to reach for a 7B and a 13B bundle; `None` is no target."""

    what: str
    unit: str
    bound: str
    """`at_least` or `at_most`."""
    b7: float
    b13: float | None = None


RATIOS = {
    "vision_vs_torch_float32": Ratio("vision encoder + Q-Former against torch float32", "×", "at_least", 6.5),
    "vision_vs_torch_bfloat16": Ratio("vision encoder + Q-Former against torch bfloat16", "×", "at_least", 3),
    "vision_vs_int8_limit": Ratio("vision encoder's time against this CPU's int8 limit", "×", "at_most", 1.25),
    "decode_vs_torch_bfloat16": Ratio("decode against torch bfloat16", "×", "at_least", 7.5),
    "decode_vs_read_bandwidth": Ratio("decode's reading of weights against the read bandwidth", "%", "at_least", 90),
    "first_token_vs_torch_bfloat16": Ratio(
        "time to first token, new image, warm process, against torch bfloat16", "×", "at_least", 2
    ),
    "follow_up_turn10_vs_turn2": Ratio("first token of a follow-up: turn 10 against turn 2", "×", "at_most", 1.15),
    "report_vs_torch_bfloat16": Ratio("a whole four-question report against torch bfloat16", "×", "at_least", 8),
    "ten_samples_vs_ten_runs": Ratio("ten answers to one picture against ten separate runs", "×", "at_least", 3.5),
    "four_conversations_vs_one": Ratio(
        "four conversations at once, tokens a second together, against one", "×", "at_least", 1.7
    ),
    "peak_memory": Ratio("peak memory of a report at a context of 2048", "GB", "at_most", 6.2, 11),
    "start_to_ready": Ratio("process start to ready, files in the page cache", "s", "at_most", 4),
    "python_share": Ratio("Python's own share of a report", "%", "at_most", 1),
}


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of values, interpolated linearly between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def statistics(trials: Sequence[float]) -> Json:
    """The trials in seconds with their percentiles and the least."""
    percentiles = {f"p{percent}": percentile(trials, percent) for percent in (50, 90, 99)}
    return {"trials": list(trials), **percentiles, "min": min(trials)}


def stage(engine: str, name: str, state: str, trials: Sequence[float], limit: tuple[str, float] | None = None) -> Json:
    """One row of `stages`. `limit` is the ceiling's name and the seconds the stage would take at it."""
    seconds = statistics(trials)
    bound = None
    if limit:
        by, least = limit
        bound = {"by": by, "seconds": least, "share": least / seconds["p50"]}
    return {"engine": engine, "stage": name, "state": state, "seconds": seconds, "limit": bound}


def quotient(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """(median of `above` / median of `below`, lowest, highest quotient of the paired trials).

    Trials are paired by number; where there are not as many of one as of the other, each with each. Either way
    the quotient of the medians lies between the lowest and the highest.
    """
    pairs = zip(above, below, strict=True) if len(above) == len(below) else product(above, below)
    quotients = [a / b for a, b in pairs]
    return median(above) / median(below), min(quotients), max(quotients)


def ratio(
    key: str,
    above: Sequence[float],
    below: Sequence[float] = (1.0,),
    *,
    shape: str | None,
    note: str = "",
) -> Json:
    """One entry of `ratios`: what `above` is to `below`, held against the target for this shape of model.

    `shape` is `7b`, `13b` or None for a bundle that has no targets. Without trials the value is None; `note` then
    says why.
    """
    what = RATIOS[key]
    bound = {"7b": what.b7, "13b": what.b13}.get(shape or "")
    value, low, high = quotient(above, below) if above and below else (None, None, None)
    met = None
    if bound is not None and value is not None:
        met = value >= bound if what.bound == "at_least" else value <= bound
    return {
        "what": what.what,
        "value": value,
        "low": low,
        "high": high,
        "trials": min(len(above), len(below)) if len(below) != 1 else len(above),
        "unit": what.unit,
        "target": None if bound is None else {what.bound: bound},
        "met": met,
        "note": note,
    }


def points(values: Mapping[int, Sequence[float]]) -> list[Json]:
    """Points of a growth curve, smallest x first."""
    return [{"x": x, "trials": list(values[x]), "p50": median(values[x])} for x in sorted(values)]
