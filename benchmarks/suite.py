"""Measures a bundle and puts the figures together as `results.schema.json` describes them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from ..engines.errors import EngineUnavailable
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.threads import default_threads
from . import machine
from .figures import RATIOS, SCHEMA, Json, points, ratio, stage
from .measure import OURS, Measured, Measurement
from .sizes import SUITES, Sizes
from .work import LlamaSizes, VisionSizes, llama_sizes, vision_sizes

BUSY = 0.1  # of all processors; above, others were working beside us
BASELINES = {"torch": ("float32", "bfloat16")}
NEEDED = {"onnx": "onnx", "gguf": "gguf"}
NEEDED_BY_BASELINE = {"torch": "torch", "transformers": "transformers"}
CURVES = {
    "first_token_by_turn": ("turn", "time to first token", "s"),
    "first_token_by_prompt_length": ("prompt length evaluated, in tokens", "time to first token", "s"),
    "tokens_per_second_by_conversations": ("conversations at once", "tokens a second together", "tokens/s"),
    "memory_by_conversations": ("conversations of a full context each", "peak memory of the language model", "B"),
    "images_per_second_by_batch": ("pictures in a batch", "pictures a second", "images/s"),
}
"""The axes of the growth curves: labels of x and y, unit of y."""


def run_suite(
    path: Path,
    *,
    suite: str = "full",
    baseline: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    vision_device: str | None = None,
    before: Path | None = None,
) -> Iterator[Json]:
    """Measure a bundle with one of SUITES, and with one of BASELINES beside it.

    `before`: the vision encoder of an earlier export of the same model (an ONNX file), whose profile is taken, too.
    Yields results that are ever more complete; all but the last name what is missing among what was skipped.
    Raises BundleError, EngineError, EngineUnavailable if a package that measuring needs is not installed.
    """
    _check_installed({**NEEDED, **(NEEDED_BY_BASELINE if baseline else {})})
    bundle = open_bundle(path)  # hashes the files, so that no later start has to
    sizes, threads = SUITES[suite], threads or default_threads()
    dtypes = BASELINES[baseline] if baseline else ()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    busy = machine.busy()
    measurement = Measurement(bundle, sizes, threads, dtypes, (device, vision_device or device), before)
    for found, missing in measurement.run():
        if not missing:
            busy = max(busy, machine.busy())
            if busy > BUSY:
                print(f"warning: not {_quiet(busy)}", file=sys.stderr)
        yield {
            "schema": SCHEMA,
            "created": created,
            "suite": suite,
            "threads": threads,
            **_results(found, bundle, sizes),
            "skipped": _skipped(found, busy, missing, baseline=bool(dtypes)),
        }


def _results(found: Measured, bundle: Bundle, sizes: Sizes) -> Json:
    vision, llama = vision_sizes(bundle), llama_sizes(bundle)
    return {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "bundle": _bundle(bundle),
        "engines": found.engines,
        "work": _work(found, sizes),
        "ceilings": found.ceilings,
        "stages": _stages(found, _limits(found, bundle, vision, llama)),
        "memory": found.memory,
        "energy": found.energy,
        "growth": _growth(found),
        "profile": {"vision_encoder": found.operators, "vision_encoder_before": found.operators_before},
        "ratios": _ratios(found, vision, llama),
    }


def _skipped(found: Measured, busy: float, missing: Sequence[str], *, baseline: bool) -> list[str]:
    skipped = list(found.skipped)
    if busy > BUSY:
        skipped.append(_quiet(busy))
    if not baseline:
        skipped.append("the baseline in PyTorch: not asked for (--baseline torch)")
    if found.energy["source"] is None:
        skipped.append(f"energy: {found.energy['note']}")
    if missing:
        skipped.append(f"the rest of this run, which ended before: {', '.join(missing)}")
    return skipped


def _quiet(busy: float) -> str:
    return f"a quiet machine: other programs used {busy:.0%} of its processors, so no figure can be relied on"


def _check_installed(packages: Mapping[str, str]) -> None:
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise EngineUnavailable(f"measuring needs {', '.join(missing)}: pip install 'skingpt-edge[export]'")


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
    """By stage, the ceiling that limits it and the seconds it would take at that."""
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


def _growth(found: Measured) -> Json:
    return {
        name: {"x_label": x, "y_label": y, "unit": unit, "points": points(found.growth[name])}
        for name, (x, y, unit) in CURVES.items()
    }


def _ratios(found: Measured, vision: VisionSizes, llama: LlamaSizes) -> Json:
    def warm(engine: str, name: str) -> list[float]:
        return found.seconds.get((engine, name, "warm"), [])

    def seeing(engine: str) -> list[float]:
        pairs = zip(warm(engine, "vision_encoder"), warm(engine, "qformer"), strict=True)
        return [encoder + qformer for encoder, qformer in pairs]

    f32, bf16 = "torch float32", "torch bfloat16"
    rate = {name: ceiling["value"] for name, ceiling in found.ceilings.items()}
    turns, rates = found.growth["first_token_by_turn"], found.growth["tokens_per_second_by_conversations"]
    encoder, steps = warm(OURS, "vision_encoder"), warm(OURS, "next_token")
    trials: dict[str, tuple[list[float], list[float]]] = {
        "vision_vs_torch_float32": (seeing(f32), seeing(OURS)),
        "vision_vs_torch_bfloat16": (seeing(bf16), seeing(OURS)),
        "vision_vs_int8_limit": (encoder, [vision.encoder_operations / rate["int8_peak"]] * len(encoder)),
        "decode_vs_torch_bfloat16": (warm(bf16, "next_token"), steps),
        "decode_vs_read_bandwidth": ([100 * llama.bytes_read / rate["read_bandwidth"]] * len(steps), steps),
        "first_token_vs_torch_bfloat16": (warm(bf16, "first_token"), warm(OURS, "first_token")),
        "follow_up_turn10_vs_turn2": (turns.get(10, []), turns.get(2, [])),
        "report_vs_torch_bfloat16": (warm(bf16, "report"), warm(OURS, "report")),
        "ten_samples_vs_ten_runs": (found.ten_runs, found.ten_samples),
        "four_conversations_vs_one": (rates.get(4, []), rates.get(1, [])),
        "peak_memory": ([peak / 1e9 for peak in found.peaks], [1.0]),
        "start_to_ready": (found.seconds[OURS, "process_start", "cold"], [1.0]),
        "python_share": (found.python_share, [1.0]),
    }
    notes = {
        "report_vs_torch_bfloat16": found.computed_reports.get(bf16, ""),
        "decode_vs_read_bandwidth": "weights only, at the fastest read of any trial",
        "vision_vs_int8_limit": "all of the encoder's matrix products, attention's included, at the int8 peak",
    }
    result = {}
    for key in RATIOS:
        above, below = trials[key]
        note = notes.get(key, "") if above and below else "not measured in this run: see what was skipped"
        result[key] = ratio(key, above, below, shape=llama.shape, note=note)
    return result
