"""Looks up in results what tables and plots both show: engines, stages in order, and the parts of a whole."""

from typing import Any

from ..result_files import Results
from .labels import OURS, STAGES

PARTS = ("reading the picture", "vision encoder", "Q-Former", "prompt and all else", "generation")
"""Of a first token or a report. The fourth is all that does not belong to the others."""
READING = ("image_decode", "preprocess")


def engines_of(results: Results, section: str = "stages") -> list[str]:
    """The engines that were measured, ours first."""
    return sorted(dict.fromkeys(item["engine"] for item in results[section]), key=lambda engine: engine != OURS)


def stages_of(results: Results) -> list[str]:
    """The stages that were measured, in the order of the work."""
    found = {item["stage"] for item in results["stages"]}
    return [stage for stage in STAGES if stage in found]


def warm(results: Results) -> list[dict[str, Any]]:
    """The entries of a warm process, ours first, in the order of the work."""
    entries = {(item["engine"], item["stage"]): item for item in results["stages"] if item["state"] == "warm"}
    order = [(engine, stage) for engine in engines_of(results) for stage in stages_of(results)]
    return [entries[key] for key in order if key in entries]


def parts_of(results: Results, whole: str) -> dict[str, dict[str, float]]:
    """Seconds of each part of a `first_token` or `report`, by engine. They add up to its median."""
    medians = {(item["engine"], item["stage"]): item["seconds"]["p50"] for item in warm(results)}
    work, found = results["work"], {}
    # The first token of each answer comes out of the prompt's evaluation.
    steps = work["questions"] * (work["answer_tokens"] - 1) if whole == "report" else 0
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
