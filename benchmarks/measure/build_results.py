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
GPU_MEMORY = "GPU memory of the language model"  # what `memory_by_conversations` shows of a GPU
PLAIN_TYPES = ("f32", "f16", "bf16")  # of a language model that is multiplied as floating-point numbers


def assemble(found: Measured, bundle: Bundle, sizes: Sizes) -> Json:
    """The results, except what belongs to the run as a whole."""
    manifest, vision, llama = bundle.manifest, vision_sizes(bundle), llama_sizes(bundle)
    return {
        "machine": system.describe(),
        "versions": system.versions(),
        "bundle": _bundle(bundle),
        "setup": found.setup,
        "engines": found.engines,
        "work": _work(found, sizes),
        "ceilings": found.ceilings,
        "stages": _stages(found, limits(found, manifest.vision.precision, manifest.llm.type, vision, llama)),
        "memory": found.memory,
        "energy": found.energy,
        "growth": _growth(found),
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


def _growth(found: Measured) -> Json:
    curves = dict(CURVES)
    if found.device("language_model") != "cpu":
        x, _, unit = curves["memory_by_conversations"]
        curves["memory_by_conversations"] = (x, GPU_MEMORY, unit)
    return {
        name: {"x_label": x, "y_label": y, "unit": unit, "points": points(found.growth[name])}
        for name, (x, y, unit) in curves.items()
    }


def limits(
    found: Measured, precision: str, llm_type: str, vision: VisionSizes, llama: LlamaSizes
) -> dict[str, tuple[str, float]]:
    """By stage, the ceiling that limits it and the seconds it would take there.

    The ceilings are those of the device that runs the stage; without them the stage has no limit. `precision` is
    vision's, `llm_type` the language model's.
    """
    rate = {name: ceiling["value"] for name, ceiling in found.ceilings.items()}
    first = found.turns[0]
    prompts = {"system": len(first["before"]), "image": found.image_rows, "question": len(first["after"])}
    integers = precision.startswith("int8")
    if found.device("vision") == "cpu":
        peak = "int8_peak" if integers else "float32_peak"
    else:
        peak = "gpu_int8_peak" if integers else "gpu_float16_peak"
    work: dict[str, dict[str, float]] = {
        "vision_encoder": {peak: vision.encoder_operations},
        "qformer": {peak: vision.qformer_operations},
    }
    operations = {f"prefill_{part}": llama.prefill_operations(length) for part, length in prompts.items()}
    if found.device("language_model") == "cpu":
        work["next_token"] = {"read_bandwidth": llama.bytes_read}
        work |= {stage: {"int8_peak": count} for stage, count in operations.items()}
    else:
        # So fast at products that a short prompt, too, waits for the weights.
        peak = "gpu_float16_peak" if llm_type in PLAIN_TYPES else "gpu_int8_peak"
        read = "gpu_read_bandwidth"
        work["next_token"] = {read: llama.bytes_read}
        work["prefill_system"] = {peak: operations["prefill_system"], read: llama.bytes_read}
        for part in ("image", "question"):  # one call, which reads the weights once
            share = prompts[part] / (prompts["image"] + prompts["question"])
            work[f"prefill_{part}"] = {peak: operations[f"prefill_{part}"], read: share * llama.bytes_read}
    seconds = {
        name: {by: amount / rate[by] for by, amount in needs.items()}
        for name, needs in work.items()
        if needs.keys() <= rate.keys()
    }
    return {name: max(least.items(), key=lambda item: item[1]) for name, least in seconds.items()}


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
