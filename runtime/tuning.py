"""The fastest numbers of threads and layout of the weights on this machine: measured once for a bundle, and kept.

The number of threads changes only how long a result takes, never the result. The layout changes how sums are rounded,
as another processor does.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..engines.base import LAYOUTS, LanguageModel, TokenSegment
from ..engines.errors import EngineError, InputError
from ..engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS
from .bundle import Bundle
from .cache_folder import cache_folder, keep, read_kept
from .loading import load_language_model, load_vision
from .machine import logical_cpus, physical_cores, processor_name
from .options import RANGES, Setup
from .requirements import PROMPT_TOKENS, Speed

SCHEMA = "skingpt-tuning/5"
MAX_BYTES = 100_000
ANSWER, TRIALS = 8, 3  # tokens of an answer, and how often it and its prompt are timed
TOO_LITTLE = 0.97
"""Another layout is taken only if it takes less than this part of the first's time: a smaller gain may be chance."""


@dataclass(frozen=True)
class Tuning:
    """What was fastest, and the seconds that show it."""

    threads: int
    """For single tokens."""
    vision_threads: int
    prefill_threads: int
    layout: str
    """One of LAYOUTS."""
    seconds: dict[str, dict[str, float]]
    """By stage and number of threads: `vision` (a picture), and for each layout `prefill, LAYOUT` (a prompt's token)
    and `decode, LAYOUT` (a generated token)."""

    @property
    def speed(self) -> Speed | None:
        """With all that was fastest; None if nothing was measured."""
        return _speed(self.seconds, self.layout)


def tune(
    bundle: Bundle, setup: Setup, layouts: Sequence[str] = LAYOUTS, say: Callable[[str], None] = lambda _: None
) -> Tuning:
    """Time a bundle's stages with several numbers of threads and each layout; everything else is as in `setup`.

    The layout that is named first is taken unless an answer takes noticeably less time with another. `say` is called
    with each figure. Raises EngineError.
    """
    counts = sorted({1, *_halves(physical_cores()), *_halves(logical_cpus())})
    seconds: dict[str, dict[str, float]] = {"vision": {}}
    for count in counts:
        seconds["vision"][str(count)] = found = _vision_seconds(bundle, setup, count)
        say(f"vision with {count} threads: {found:.3f} s a picture")
    for layout in layouts:
        prefill: dict[str, float] = {}
        decode: dict[str, float] = {}
        seconds |= {f"prefill, {layout}": prefill, f"decode, {layout}": decode}
        with closing(load_language_model(bundle, replace(setup.language_model, layout=layout))) as model:
            for count in counts:
                speed = _language_model_speed(model, count)
                prefill[str(count)], decode[str(count)] = speed.prefill, speed.decode
                say(
                    f"language model, {layout}, with {count} threads: {speed.prefill:.4f} s a token of a prompt, "
                    f"{speed.decode:.4f} s a generated token"
                )
    layout = _fastest_layout(seconds, layouts)
    best = {stage: int(min(times, key=lambda count: times[count])) for stage, times in seconds.items()}
    return Tuning(best[f"decode, {layout}"], best["vision"], best[f"prefill, {layout}"], layout, seconds)


def _fastest_layout(seconds: dict[str, dict[str, float]], layouts: Sequence[str]) -> str:
    times = {layout: speed.answer for layout in layouts if (speed := _speed(seconds, layout))}
    best = min(times, key=lambda layout: times[layout])
    return best if times[best] < TOO_LITTLE * times[layouts[0]] else layouts[0]


def _speed(seconds: dict[str, dict[str, float]], layout: str) -> Speed | None:
    prefill, decode = seconds.get(f"prefill, {layout}"), seconds.get(f"decode, {layout}")
    return Speed(float(min(prefill.values())), float(min(decode.values()))) if prefill and decode else None


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
    length = min(PROMPT_TOKENS, model.n_batch)  # one call, as it is for a new picture
    prompt, (token, *_) = TokenSegment(1, 0, tuple(range(3, 3 + length))), model.tokenize("a", bos=False)
    prefill, decode = [], []
    for _ in range(TRIALS):
        model.rewind(1, 0)
        prefill.append(_timed(lambda: model.evaluate([prompt])) / length)
        for i in range(ANSWER):
            step = TokenSegment(1, length + i, (token,))
            decode.append(_timed(lambda step=step: model.evaluate([step])))  # type: ignore[misc]
    return Speed(min(prefill), min(decode))


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def remember(bundle: Bundle, setup: Setup, tuning: Tuning) -> Path:
    """Keep the result for this machine, bundle, engines and devices. Raises InputError if it cannot be written."""
    vision, model = setup.vision, setup.language_model
    target = _file(bundle, (vision.engine, model.engine), (vision.device, model.device))
    try:
        keep(target, (json.dumps({"schema": SCHEMA, **asdict(tuning)}, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{target}: the tuning cannot be kept: {error.strerror}") from None
    return target


def recall(bundle: Bundle, engines: tuple[str, str], devices: tuple[str, str]) -> Tuning | None:
    """What was measured before on this machine with this bundle; None if nothing usable was.

    `engines` and `devices`: of vision and of the language model.
    """
    try:
        found = json.loads(read_kept(_file(bundle, engines, devices), MAX_BYTES) or b"")
        if found.pop("schema") != SCHEMA:
            return None
        tuning = Tuning(**found)
        low, high = RANGES["threads"]
        counts = (tuning.threads, tuning.vision_threads, tuning.prefill_threads)
        _ = tuning.speed  # raises for seconds that are none
        usable = all(type(count) is int and low <= count <= high for count in counts) and tuning.layout in LAYOUTS
        return tuning if usable else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EngineError):
        return None


def measured_speed(bundle: Bundle, setup: Setup) -> Speed | None:
    """What was measured for this very setup; None if it runs elsewhere or otherwise than what was fastest."""
    vision, model = setup.vision, setup.language_model
    found = recall(bundle, (vision.engine, model.engine), (vision.device, model.device))
    if not found or model.device != "cpu":
        return None
    measured = (found.threads, found.prefill_threads, found.layout)
    return found.speed if measured == (model.threads, model.prefill_threads, model.layout) else None


def _file(bundle: Bundle, engines: tuple[str, str], devices: tuple[str, str]) -> Path:
    vision, language_model = engines
    # Compiled anew with other instructions, an engine has another speed.
    builds = [GRAPH_ENGINES[vision].build(), LANGUAGE_MODELS[language_model].build()]
    machine = json.dumps([processor_name(), os.cpu_count(), physical_cores(), *engines, *devices, *builds])
    key = hashlib.sha256(machine.encode()).hexdigest()
    return cache_folder() / "tuning" / f"{bundle.id[:32]}-{key[:32]}.json"
