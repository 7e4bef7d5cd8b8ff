"""The ratios that the project has targets for: what they compare, what they should reach, and their values."""

from collections.abc import Sequence
from typing import NamedTuple

from .model_sizes import LlamaSizes, VisionSizes
from .raw_results import OURS, Measured
from .statistics import Json, quotient

NOTES = {
    "decode_vs_read_bandwidth": "weights only, at the fastest read of any trial",
    "vision_vs_int8_limit": "all of the encoder's matrix products, attention's included, at the int8 peak",
}


class Ratio(NamedTuple):
    """What a ratio compares, and its targets for a 7B and a 13B bundle; None means no target."""

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


def all_ratios(found: Measured, vision: VisionSizes, llama: LlamaSizes) -> dict[str, Json]:
    """The `ratios` of the results. A ratio whose trials are missing has no value, and its note says so."""
    f32, bf16 = "torch float32", "torch bfloat16"
    rate = {name: ceiling["value"] for name, ceiling in found.ceilings.items()}
    turns, rates = found.growth["first_token_by_turn"], found.growth["tokens_per_second_by_conversations"]
    encoder, steps = found.warm(OURS, "vision_encoder"), found.warm(OURS, "next_token")
    trials: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "vision_vs_torch_float32": (_vision(found, f32), _vision(found, OURS)),
        "vision_vs_torch_bfloat16": (_vision(found, bf16), _vision(found, OURS)),
        "vision_vs_int8_limit": (encoder, [vision.encoder_operations / rate["int8_peak"]] * len(encoder)),
        "decode_vs_torch_bfloat16": (found.warm(bf16, "next_token"), steps),
        "decode_vs_read_bandwidth": ([100 * llama.bytes_read / rate["read_bandwidth"]] * len(steps), steps),
        "first_token_vs_torch_bfloat16": (found.warm(bf16, "first_token"), found.warm(OURS, "first_token")),
        "follow_up_turn10_vs_turn2": (turns.get(10, []), turns.get(2, [])),
        "report_vs_torch_bfloat16": (found.warm(bf16, "report"), found.warm(OURS, "report")),
        "ten_samples_vs_ten_runs": (found.ten_runs, found.ten_samples),
        "four_conversations_vs_one": (rates.get(4, []), rates.get(1, [])),
        "peak_memory": ([peak / 1e9 for peak in found.peaks], [1.0]),
        "start_to_ready": (found.seconds[OURS, "process_start", "cold"], [1.0]),
        "python_share": (found.python_share, [1.0]),
    }
    notes = {**NOTES, "report_vs_torch_bfloat16": found.computed_reports.get(bf16, "")}
    result = {}
    for key in RATIOS:
        above, below = trials[key]
        note = notes.get(key, "") if above and below else "not measured in this run: see what was skipped"
        result[key] = ratio(key, above, below, shape=llama.shape, note=note)
    return result


def _vision(found: Measured, engine: str) -> list[float]:
    """Seconds of vision encoder and Q-Former together, trial by trial."""
    pairs = zip(found.warm(engine, "vision_encoder"), found.warm(engine, "qformer"), strict=True)
    return [encoder + qformer for encoder, qformer in pairs]


def ratio(
    key: str, above: Sequence[float], below: Sequence[float] = (1.0,), *, shape: str | None, note: str = ""
) -> Json:
    """One entry of `ratios`: `above` divided by `below`, and whether that reaches the target for this shape of model.

    `shape` is `7b` or `13b`, or None for a bundle without targets. Without trials the value is None.
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
