"""How many threads are fastest on this machine: measured once for a bundle, and remembered.

The number of threads changes only how long a result takes, never the result.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..engines.base import LanguageModel, TokenSegment
from ..engines.errors import EngineError, InputError
from ..engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS
from .bundle import Bundle
from .cache_folder import cache_folder, keep, read_kept
from .loading import load_language_model, load_vision
from .machine import logical_cpus, physical_cores, processor_name
from .options import RANGES, Setup
from .requirements import Speed

SCHEMA = "skingpt-tuning/3"
MAX_BYTES = 100_000
PROMPT, ANSWER, TRIALS = 32, 8, 3  # tokens of a prompt and of an answer, and how often both are timed


@dataclass(frozen=True)
class Tuning:
    """The numbers of threads that were fastest, and the seconds that show it."""

    threads: int
    """For single tokens."""
    vision_threads: int
    prefill_threads: int
    seconds: dict[str, dict[str, float]]
    """By stage and number of threads: `vision` (a picture), `prefill` (a prompt's token), `decode` (a token)."""

    @property
    def speed(self) -> Speed | None:
        """With the fastest threads; None if nothing was measured."""
        prefill, decode = self.seconds.get("prefill"), self.seconds.get("decode")
        return Speed(float(min(prefill.values())), float(min(decode.values()))) if prefill and decode else None


def tune(bundle: Bundle, setup: Setup, say: Callable[[str], None] = lambda _: None) -> Tuning:
    """Time a bundle's stages with several numbers of threads; everything else is as in `setup`.

    `say` is called with each figure. Raises EngineError.
    """
    counts = sorted({1, *_halves(physical_cores()), *_halves(logical_cpus())})
    seconds: dict[str, dict[str, float]] = {"vision": {}, "prefill": {}, "decode": {}}
    for count in counts:
        seconds["vision"][str(count)] = found = _vision_seconds(bundle, setup, count)
        say(f"vision with {count} threads: {found:.3f} s a picture")
    with closing(load_language_model(bundle, setup.language_model)) as model:
        for count in counts:
            speed = _language_model_speed(model, count)
            seconds["prefill"][str(count)], seconds["decode"][str(count)] = speed.prefill, speed.decode
            say(
                f"language model with {count} threads: {speed.prefill:.4f} s a token of a prompt, "
                f"{speed.decode:.4f} s a generated token"
            )
    best = {stage: int(min(times, key=lambda count: times[count])) for stage, times in seconds.items()}
    return Tuning(best["decode"], best["vision"], best["prefill"], seconds)


def _halves(count: int) -> Iterator[int]:
    while count:
        yield count
        count //= 2


def _vision_seconds(bundle: Bundle, setup: Setup, threads: int) -> float:
    size = bundle.manifest.image.size
    pixels = np.zeros((1, 3, size, size), np.float32)
    with closing(load_vision(bundle, replace(setup.vision, threads=threads))) as vision:
        return min(_timed(lambda: vision.embed_pixels(pixels)) for _ in range(TRIALS))


def _language_model_speed(model: LanguageModel, threads: int) -> Speed:
    model.set_threads(threads, threads)
    prompt, (token, *_) = TokenSegment(1, 0, tuple(range(3, 3 + PROMPT))), model.tokenize("a", bos=False)
    prefill, decode = [], []
    for _ in range(TRIALS):
        model.rewind(1, 0)
        prefill.append(_timed(lambda: model.evaluate([prompt])) / PROMPT)
        for i in range(ANSWER):
            step = TokenSegment(1, PROMPT + i, (token,))
            decode.append(_timed(lambda step=step: model.evaluate([step])))  # type: ignore[misc]
    return Speed(min(prefill), min(decode))


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def remember(bundle: Bundle, setup: Setup, tuning: Tuning) -> Path:
    """Keep the result for this machine, bundle and engines. Raises InputError if it cannot be written."""
    target = _file(bundle, setup.vision.engine, setup.language_model.engine)
    try:
        keep(target, (json.dumps({"schema": SCHEMA, **asdict(tuning)}, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{target}: the tuning cannot be kept: {error.strerror}") from None
    return target


def recall(bundle: Bundle, vision_engine: str, language_engine: str) -> Tuning | None:
    """What was measured before on this machine with this bundle and these engines; None if nothing usable was."""
    try:
        found = json.loads(read_kept(_file(bundle, vision_engine, language_engine), MAX_BYTES) or b"")
        if found.pop("schema") != SCHEMA:
            return None
        tuning = Tuning(**found)
        low, high = RANGES["threads"]
        counts = (tuning.threads, tuning.vision_threads, tuning.prefill_threads)
        _ = tuning.speed  # raises for seconds that are none
        return tuning if all(type(count) is int and low <= count <= high for count in counts) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EngineError):
        return None


def measured_speed(bundle: Bundle, setup: Setup) -> Speed | None:
    """What was measured for this very setup; None if it runs elsewhere or with other threads than the fastest."""
    model = setup.language_model
    found = recall(bundle, setup.vision.engine, model.engine)
    same = found and (found.threads, found.prefill_threads) == (model.threads, model.prefill_threads)
    return found.speed if found and same and model.device == "cpu" else None


def _file(bundle: Bundle, vision_engine: str, language_engine: str) -> Path:
    # Compiled anew with other instructions, an engine has another speed.
    builds = [GRAPH_ENGINES[vision_engine].build(), LANGUAGE_MODELS[language_engine].build()]
    engines = [vision_engine, language_engine, *builds]
    machine = json.dumps([processor_name(), os.cpu_count(), physical_cores(), *engines])
    key = hashlib.sha256(machine.encode()).hexdigest()
    return cache_folder() / "tuning" / f"{bundle.id[:32]}-{key[:32]}.json"
