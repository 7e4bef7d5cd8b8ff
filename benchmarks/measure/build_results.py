"""Builds the sections of a result file from the measurements. `results.schema.json` describes them."""

from collections.abc import Mapping, Sequence

from ...runtime.bundle import Bundle
from . import system
from .model_sizes import LlamaSizes, VisionSizes, llama_sizes, vision_sizes
from .ratios import all_ratios
from .raw_results import OURS, Measured
from .statistics import Json, points, statistics
from .suites import Sizes

CURVES = {
    "first_token_by_turn": ("turn", "time to first token", "s"),
    "first_token_by_prompt_length": ("prompt length evaluated, in tokens", "time to first token", "s"),
    "tokens_per_second_by_conversations": ("conversations at once", "tokens a second together", "tokens/s"),
    "memory_by_conversations": ("conversations of a full context each", "peak memory of the language model", "B"),
    "images_per_second_by_batch": ("pictures in a batch", "pictures a second", "images/s"),
}
"""Label of x, label of y and unit of y."""


def assemble(found: Measured, bundle: Bundle, sizes: Sizes) -> Json:
    """The results, except what belongs to the run as a whole."""
    vision, llama = vision_sizes(bundle), llama_sizes(bundle)
    return {
        "machine": system.describe(),
        "versions": system.versions(),
        "bundle": _bundle(bundle),
        "setup": found.setup,
        "engines": found.engines,
        "work": _work(found, sizes),
        "ceilings": found.ceilings,
        "stages": _stages(found, _limits(found, bundle, vision, llama)),
        "memory": found.memory,
        "energy": found.energy,
        "growth": {
            name: {"x_label": x, "y_label": y, "unit": unit, "points": points(found.growth[name])}
            for name, (x, y, unit) in CURVES.items()
        },
        "profile": {"vision_encoder": found.operators, "vision_encoder_before": found.operators_before},
        "ratios": all_ratios(found, vision, llama),
    }


def _bundle(bundle: Bundle) -> Json:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "id": bundle.id,
        "size_bytes": sum(entry.size for entry in manifest.files.values()),
        "vision": manifest.vision.precision,
        "language_model": manifest.llm.type,
        "context": manifest.llm.context,
        "notice": manifest.notice,
    }


def _work(found: Measured, sizes: Sizes) -> Json:
    first = found.turns[0]
    return {
        "system_tokens": len(first["before"]),
        "image_rows": found.image_rows,
        "question_tokens": len(first["after"]),
        "answer_tokens": sizes.answer_tokens,
        "questions": len(found.turns),
    }


def _limits(found: Measured, bundle: Bundle, vision: VisionSizes, llama: LlamaSizes) -> dict[str, tuple[str, float]]:
    """By stage, the ceiling that limits it and the seconds it would take there."""
    rate = {name: ceiling["value"] for name, ceiling in found.ceilings.items()}
    peak = "int8_peak" if bundle.manifest.vision.precision.startswith("int8") else "float32_peak"
    first = found.turns[0]
    prompts = {"system": len(first["before"]), "image": found.image_rows, "question": len(first["after"])}
    return {
        "vision_encoder": (peak, vision.encoder_operations / rate[peak]),
        "qformer": (peak, vision.qformer_operations / rate[peak]),
        "next_token": ("read_bandwidth", llama.bytes_read / rate["read_bandwidth"]),
        **{
            f"prefill_{part}": ("int8_peak", llama.prefill_operations(length) / rate["int8_peak"])
            for part, length in prompts.items()
        },
    }


def _stages(found: Measured, limits: Mapping[str, tuple[str, float]]) -> list[Json]:
    return [
        stage(engine, name, state, trials, limits.get(name) if engine == OURS else None)
        for (engine, name, state), trials in found.seconds.items()
        if trials
    ]


def stage(engine: str, name: str, state: str, trials: Sequence[float], limit: tuple[str, float] | None = None) -> Json:
    """One entry of `stages`. `limit` is the name of a ceiling and the seconds that the stage would take there."""
    seconds = statistics(trials)
    bound = None
    if limit:
        by, least = limit
        bound = {"by": by, "seconds": least, "share": least / seconds["p50"]}
    return {"engine": engine, "stage": name, "state": state, "seconds": seconds, "limit": bound}
