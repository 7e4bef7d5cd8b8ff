"""The ratios that the project has targets for: what they compare, what they should reach, and their values."""

from collections.abc import Sequence
from typing import NamedTuple

from .model_sizes import LlamaSizes, VisionSizes
from .raw_results import OURS, Measured
from .statistics import Json, quotient

NOTES = {
    "decode_vs_read_bandwidth": "weights only, at the fastest read of any trial",
    "vision_vs_int8_limit": "all of the encoder's matrix products, attention's included, at the int8 peak",
    "vision_vs_float16_limit": "all of the encoder's matrix products, attention's included, at the GPU's float16 peak",
    "gpu_memory": "the process's most after a stage, up to the end of its first report",
}


class Ratio(NamedTuple):
    """What a ratio compares, and its targets for a 7B and a 13B bundle; None means no target."""

    what: str
    unit: str
    bound: str
    """`at_least` or `at_most`."""
    b7: float | None
    b13: float | None = None


CPU_RATIOS = {
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
    "python_share": Ratio("Python's own share of a report, without reading the photo", "%", "at_most", 1),
}
GPU_RATIOS = {
    "vision_seconds": Ratio("vision encoder + Q-Former", "ms", "at_most", 5),
    "reading_seconds": Ratio("decode and preprocess of a photo", "ms", "at_most", 20),
    "prompt_seconds": Ratio("prompt of picture and question", "ms", "at_most", 15),
    "first_token_seconds": Ratio("first token, new picture, warm process", "ms", "at_most", 40),
    "next_token_seconds": Ratio("next token", "ms", "at_most", 3),
    "gpu_memory": Ratio("GPU memory of a report at a context of 2048", "GB", "at_most", 7.6),
    "vision_vs_torch_float16": Ratio("vision encoder + Q-Former against torch float16", "×", "at_least", None),
    "vision_vs_float16_limit": Ratio("vision encoder's time against this GPU's float16 limit", "×", "at_most", None),
    "decode_vs_torch_float16": Ratio("decode against torch float16", "×", "at_least", None),
    "decode_vs_read_bandwidth": Ratio(
        "decode's reading of weights against the GPU's read bandwidth", "%", "at_least", None
    ),
    "first_token_vs_torch_float16": Ratio(
        "time to first token, new image, warm process, against torch float16", "×", "at_least", None
    ),
    "follow_up_turn10_vs_turn2": CPU_RATIOS["follow_up_turn10_vs_turn2"],
    "report_vs_torch_float16": Ratio("a whole four-question report against torch float16", "×", "at_least", None),
    "ten_samples_vs_ten_runs": CPU_RATIOS["ten_samples_vs_ten_runs"],
    "four_conversations_vs_one": CPU_RATIOS["four_conversations_vs_one"],
    "peak_memory": CPU_RATIOS["peak_memory"]._replace(b7=None, b13=None),
    "start_to_ready": CPU_RATIOS["start_to_ready"]._replace(b7=3),
    "python_share": CPU_RATIOS["python_share"]._replace(b7=2),
}
"""With the language model on a GPU. The targets in milliseconds were set for an H100."""


def all_ratios(found: Measured, vision: VisionSizes, llama: LlamaSizes) -> dict[str, Json]:
    """The `ratios` of the results. A ratio whose trials are missing has no value, and its note says so."""
    on_gpu = found.device("language_model") != "cpu"
    trials = _gpu_trials(found, vision, llama) if on_gpu else _cpu_trials(found, vision, llama)
    baseline = "torch float16" if on_gpu else "torch bfloat16"
    computed = found.computed_reports.get(baseline, "")
    notes = {**NOTES, f"report_vs_{baseline.replace(' ', '_')}": computed}
    result = {}
    for key, what in (GPU_RATIOS if on_gpu else CPU_RATIOS).items():
        above, below = trials[key]
        note = notes.get(key, "") if above and below else "not measured in this run: see what was skipped"
        result[key] = ratio(what, above, below, shape=llama.shape, note=note)
    return result


Trials = dict[str, tuple[Sequence[float], Sequence[float]]]


def _cpu_trials(found: Measured, vision: VisionSizes, llama: LlamaSizes) -> Trials:
    f32, bf16 = "torch float32", "torch bfloat16"
    encoder, steps = found.warm(OURS, "vision_encoder"), found.warm(OURS, "next_token")
    return {
        **_common_trials(found),
        "vision_vs_torch_float32": (_vision(found, f32), _vision(found, OURS)),
        "vision_vs_torch_bfloat16": (_vision(found, bf16), _vision(found, OURS)),
        "vision_vs_int8_limit": (encoder, _limit(found, "int8_peak", vision.encoder_operations, len(encoder))),
        "decode_vs_torch_bfloat16": (found.warm(bf16, "next_token"), steps),
        "decode_vs_read_bandwidth": (_limit(found, "read_bandwidth", 100 * llama.bytes_read, len(steps)), steps),
        "first_token_vs_torch_bfloat16": (found.warm(bf16, "first_token"), found.warm(OURS, "first_token")),
        "report_vs_torch_bfloat16": (found.warm(bf16, "report"), found.warm(OURS, "report")),
    }


def _gpu_trials(found: Measured, vision: VisionSizes, llama: LlamaSizes) -> Trials:
    f16, one = "torch float16", [1.0]
    encoder, steps = found.warm(OURS, "vision_encoder"), found.warm(OURS, "next_token")
    on_gpu = found.device("vision") != "cpu"
    limit = _limit(found, "gpu_float16_peak", vision.encoder_operations, len(encoder)) if on_gpu else []
    return {
        **_common_trials(found),
        "vision_seconds": (_milliseconds(_vision(found, OURS)), one),
        "reading_seconds": (_milliseconds(_together(found, OURS, "image_decode", "preprocess")), one),
        "prompt_seconds": (_milliseconds(_together(found, OURS, "prefill_image", "prefill_question")), one),
        "first_token_seconds": (_milliseconds(found.warm(OURS, "first_token")), one),
        "next_token_seconds": (_milliseconds(steps), one),
        "gpu_memory": ([peak / 1e9 for peak in found.gpu_peaks], one),
        "vision_vs_torch_float16": (_vision(found, f16), _vision(found, OURS)),
        "vision_vs_float16_limit": (encoder, limit),
        "decode_vs_torch_float16": (found.warm(f16, "next_token"), steps),
        "decode_vs_read_bandwidth": (_limit(found, "gpu_read_bandwidth", 100 * llama.bytes_read, len(steps)), steps),
        "first_token_vs_torch_float16": (found.warm(f16, "first_token"), found.warm(OURS, "first_token")),
        "report_vs_torch_float16": (found.warm(f16, "report"), found.warm(OURS, "report")),
    }


def _common_trials(found: Measured) -> Trials:
    turns, rates = found.growth["first_token_by_turn"], found.growth["tokens_per_second_by_conversations"]
    return {
        "follow_up_turn10_vs_turn2": (turns.get(10, []), turns.get(2, [])),
        "ten_samples_vs_ten_runs": (found.ten_runs, found.ten_samples),
        "four_conversations_vs_one": (rates.get(4, []), rates.get(1, [])),
        "peak_memory": ([peak / 1e9 for peak in found.peaks], [1.0]),
        "start_to_ready": (found.seconds[OURS, "process_start", "cold"], [1.0]),
        "python_share": (found.python_share, [1.0]),
    }


def _limit(found: Measured, ceiling: str, work: float, trials: int) -> list[float]:
    """The seconds of this work at a ceiling, once a trial; empty if the ceiling was not measured."""
    return [work / found.ceilings[ceiling]["value"]] * trials if ceiling in found.ceilings else []


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [1e3 * value for value in seconds]


def _vision(found: Measured, engine: str) -> list[float]:
    """Seconds of vision encoder and Q-Former together, trial by trial."""
    return _together(found, engine, "vision_encoder", "qformer")


def _together(found: Measured, engine: str, one: str, other: str) -> list[float]:
    """Seconds of two stages together, trial by trial."""
    return [a + b for a, b in zip(found.warm(engine, one), found.warm(engine, other), strict=True)]


def ratio(
    what: Ratio, above: Sequence[float], below: Sequence[float] = (1.0,), *, shape: str | None, note: str = ""
) -> Json:
    """One entry of `ratios`: `above` divided by `below`, and whether that reaches the target for this shape of model.

    `shape` is `7b` or `13b`, or None for a bundle without targets. Without trials the value is None.
    """
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
