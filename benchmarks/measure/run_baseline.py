"""Runs the trials of the PyTorch baseline in its worker."""

from ...engines.errors import EngineError
from ...runtime.worker import Worker
from .raw_results import Measured
from .statistics import median
from .suites import Sizes

LONGEST_REPORT = 480.0  # seconds; a report that would take longer is computed from its parts


def measure_baseline(worker: Worker, engine: str, found: Measured, sizes: Sizes) -> None:
    """Add first tokens, decode steps, reports and memory of this engine to what was `found`.

    It gets the prompts and answers of our own reports. Raises EngineError if it did other work.
    """
    turns = found.turns
    for trial in range(1 + sizes.trials):
        seconds = {"first_token": worker.ask("first_token", turn=turns[0])}
        found.add(engine, "warm" if trial else "cold", seconds)
    steps = []
    for _ in "12":  # as often as ours, with whose trials they are paired
        steps += worker.ask("decode", turn=turns[0], tokens=sizes.decode_steps)
    found.seconds[engine, "next_token", "warm"] += steps
    found.seconds[engine, "report", "warm"] += _reports(worker, engine, found, median(steps), sizes.trials)
    found.memory += worker.ask("memory")


def _reports(worker: Worker, engine: str, found: Measured, token_seconds: float, trials: int) -> list[float]:
    """Seconds of as many reports as there is time for, or of one that is computed from its parts."""
    turns = found.turns
    vision = median([sum(worker.ask("encode").values()) for _ in "123"])
    prompts = sum(worker.ask("prefill", turn=turn) for turn in turns)
    tokens = sum(len(turn["answer"]) - 1 for turn in turns)
    estimate = vision + prompts + tokens * token_seconds
    if estimate > LONGEST_REPORT:
        found.computed_reports[engine] = (
            f"{engine}'s report was computed, not run: {vision:.1f} s encoding, {prompts:.1f} s for its "
            f"{len(turns)} prompts, measured at their real lengths, and {tokens} tokens of {token_seconds:.3f} s"
        )
        return [estimate]
    possible = max(1, min(trials, int(LONGEST_REPORT / estimate)))
    reports = [worker.ask("report", turns=turns) for _ in range(possible)]
    expected = [len(turn["answer"]) for turn in turns]
    for report in reports:
        if report["answer_tokens"] != expected:
            raise EngineError(f"{engine} answered with {report['answer_tokens']} tokens, ours with {expected}")
    return [report["seconds"] for report in reports]
