"""The labels and number formats of reports."""

from collections.abc import Mapping
from typing import Any

OURS = "skingpt"
ENGINES = {
    OURS: "SkinGPT Edge",
    "torch float32": "PyTorch float32",
    "torch bfloat16": "PyTorch bfloat16",
    "torch float16": "PyTorch float16",
    "torch float16 compiled": "PyTorch float16, torch.compile",
}
STAGES = {
    "process_start": "process start to ready",
    "image_decode": "image decode",
    "preprocess": "preprocess",
    "vision_encoder": "vision encoder",
    "qformer": "Q-Former",
    "prefill_system": "prefill: system prompt",
    "prefill_image": "prefill: picture",
    "prefill_question": "prefill: question",
    "first_token": "first token, new picture",
    "next_token": "each further token",
    "report": "report in all",
}
"""In the order of the work."""
PARTS = {"vision_encoder": "vision encoder", "qformer": "Q-Former", "language_model": "language model"}
"""What an engine runs."""
MEMORY_STAGES = {
    "process_start": "process start",
    "vision_opened": "vision opened",
    "language_model_opened": "language model opened",
    "image_encoded": "picture encoded",
    "report": "first report",
    "huge_pages": "weights on huge pages",
}
"""After which memory was read."""
LIMITS = {
    "int8_peak": "int8 peak",
    "float32_peak": "float32 peak",
    "read_bandwidth": "read bandwidth",
    "gpu_int8_peak": "GPU's int8 peak",
    "gpu_float16_peak": "GPU's float16 peak",
    "gpu_read_bandwidth": "GPU's read bandwidth",
}
CURVES = {
    "first_token_by_turn": "First token by turn",
    "first_token_by_prompt_length": "First token by prompt length",
    "tokens_per_second_by_conversations": "Tokens a second by conversations",
    "memory_by_conversations": "Memory by conversations",
    "images_per_second_by_batch": "Pictures a second by batch",
}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def si(value: float, unit: str) -> str:
    """Three significant digits with a decimal prefix: `si(0.0123, "s")` is `12.3 ms`. Seconds get no kilo."""
    factor, prefix = prefix_of(value, unit)
    return f"{digits(value / factor)} {prefix}{unit}"


def prefix_of(value: float, unit: str) -> tuple[float, str]:
    """The decimal prefix that suits a value, and its factor."""
    for factor, prefix in PREFIXES:
        too_large = (factor > 1 and unit == "s") or (factor < 1 and unit != "s")
        # 0.9999 of a factor is shown with that factor: 1.00 s, not 1000 ms.
        if not too_large and abs(value) >= 0.9995 * factor:
            return factor, prefix
    return 1.0, ""


def digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    size = abs(value)
    places = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    if 0 < size < 0.995:
        places = 3
    return f"{value:,.{places}f}"


def quantity(value: float | None, unit: str) -> str:
    """A value of the `ratios` with its unit, such as `7.61×`, `5.90 GB`, `95.2 %`; a dash if there is none."""
    if value is None:
        return "–"
    return f"{digits(value)}{'' if unit == '×' else ' '}{unit}"


def spread(entry: Mapping[str, Any]) -> str:
    """Lowest and highest of the trials of a ratio: `7.41–7.80`."""
    if entry["low"] is None or entry["high"] is None:
        return "–"
    return f"{digits(entry['low'])}–{digits(entry['high'])}"


def target(entry: Mapping[str, Any]) -> str:
    """What a ratio should reach, such as `≥ 7.5×`; a dash if it has no target."""
    if not entry["target"]:
        return "–"
    ((bound, value),) = entry["target"].items()
    return f"{'≥' if bound == 'at_least' else '≤'} {value:g}{'' if entry['unit'] == '×' else ' '}{entry['unit']}"


def verdict(entry: Mapping[str, Any]) -> str:
    """`✓ met`, `✗ missed`, or a dash if that cannot be said."""
    return {True: "✓ met", False: "✗ missed"}.get(entry["met"], "–")


def percent(share: float) -> str:
    """A share of 1 in percent, to a tenth."""
    return f"{100 * share:.1f} %"


def date(created: str) -> str:
    """A time stamp for reading: `2026-11-25 12:00 UTC`."""
    return f"{created.replace('T', ' ')[:16]} UTC"
