"""Which threads, weight layout and KV type are fastest here: measured once, remembered per machine and bundle.

Threads change only how fast a result is there; the weights' layout changes last bits, and AMX is considered only where
a trial found that it computes the same. The type of the KV cache changes the result a little: a smaller one is
taken only where memory is short and only if the model then chooses the tokens it would choose otherwise, as often as
the exporter asks of a bundle.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ..engines.errors import InputError
from ..engines.gguf_header import llama_cpp_build, read_gguf_header
from ..engines.llama_cpp_model import LlamaCppModel
from .amx_trial import use_amx
from .bundle import Bundle
from .cache_folder import cache_folder, write_whole
from .fit import answer_seconds, available_memory, needed_memory
from .options import Options
from .skingpt import open_language_model, open_vision
from .threads import default_threads

SCHEMA = "skingpt-tuning/2"
PROMPT, ANSWER, TRIALS = 32, 8, 3
LEAST_AGREEMENT = 0.95
COMPARED = 64  # tokens
SMALLER_KV = "q8_0"


@dataclass(frozen=True)
class Tuning:
    """What was fastest here, and the seconds that say so."""

    threads: int
    vision_threads: int
    prefill_threads: int
    kv_type: str
    amx: bool | None
    """Whether the language model's weights are laid out for AMX; None where there is no choice."""
    seconds: dict[str, dict[str, float]]
    """By stage and number of threads: vision, prefill (an item), decode (a token); the fastest of the trials."""

    @property
    def speed(self) -> tuple[float, float] | None:
        """Seconds of a prompt's item and of a token, with the fastest threads; None if none were measured."""
        prefill, decode = self.seconds.get("prefill"), self.seconds.get("decode")
        return (min(prefill.values()), min(decode.values())) if prefill and decode else None

    def apply(self, options: Options) -> Options:
        """The options with what they leave open filled in."""
        return replace(
            options,
            threads=options.threads or self.threads,
            vision_threads=options.vision_threads or options.threads or self.vision_threads,
            prefill_threads=options.prefill_threads or options.threads or self.prefill_threads,
            kv_type=options.kv_type or self.kv_type,
            # A note may turn AMX off only: whether it works here is for the trial to say, which knows newer builds.
            amx=False if options.amx is None and self.amx is False else options.amx,
        )


def tune(bundle: Bundle, *, max_memory: int | None = None, say: Callable[[str], None] = lambda _: None) -> Tuning:
    """Measure this machine with a bundle. `max_memory` in bytes, what is free unless given; `say` hears of progress.

    Raises InputError if the bundle does not fit within the memory, EngineError.
    """
    kv_type = _kv_type(bundle, max_memory, say)
    counts = sorted({1, *_halves(default_threads()), *_halves(os.cpu_count() or 1)})
    vision: dict[str, float] = {}
    for count in counts:
        vision[str(count)] = _vision_seconds(bundle, count)
        say(f"vision with {count} threads: {vision[str(count)]:.3f} s a picture")
    layouts = (True, False) if use_amx(bundle, Options()) else (None,)
    found = {amx: _language_model_seconds(bundle, Options(kv_type=kv_type, amx=amx), counts, say) for amx in layouts}
    amx = min(found, key=lambda amx: answer_seconds(*(min(times.values()) for times in found[amx].values())))
    seconds = {"vision": vision, **found[amx]}
    threads = {stage: int(min(times, key=lambda count: times[count])) for stage, times in seconds.items()}
    return Tuning(threads["decode"], threads["vision"], threads["prefill"], kv_type, amx, seconds)


def _language_model_seconds(
    bundle: Bundle, options: Options, counts: Sequence[int], say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Seconds of an item of a prompt (`prefill`) and of a token (`decode`), each by number of threads."""
    seconds: dict[str, dict[str, float]] = {"prefill": {}, "decode": {}}
    how = {None: "", True: ", AMX", False: ", no AMX"}[options.amx]
    with closing(open_language_model(bundle, options)) as model:
        for count in counts:
            prefill, decode = _language_seconds(model, count)
            seconds["prefill"][str(count)], seconds["decode"][str(count)] = prefill, decode
            say(f"language model with {count} threads{how}: {prefill:.4f} s a prompt's item, {decode:.4f} s a token")
    return seconds


def _halves(count: int) -> Iterator[int]:
    while count:
        yield count
        count //= 2


def _kv_type(bundle: Bundle, max_memory: int | None, say: Callable[[str], None]) -> str:
    """The bundle's own type of KV cache, or a smaller one if only that fits and computes the same."""
    header, own = read_gguf_header(bundle.file(bundle.manifest.llm.file)), bundle.manifest.llm.kv_type
    room = max_memory if max_memory is not None else available_memory()
    needed = needed_memory(bundle, header, own)
    if room is None or needed <= room:
        return own
    smaller = needed_memory(bundle, header, SMALLER_KV)
    if smaller > room or own in ("f32", SMALLER_KV):  # a float32 bundle is to be exact
        raise InputError(
            f"the bundle needs {min(needed, smaller) / 1e9:.1f} GB of memory, {room / 1e9:.1f} GB are allowed or free: "
            "give it more with --max-memory, or export a smaller language model"
        )
    agreement = _agreement(bundle, own)
    say(f"KV cache as {SMALLER_KV}: {agreement:.1%} of tokens as with {own}")
    if agreement < LEAST_AGREEMENT:
        raise InputError(
            f"only a KV cache of type {SMALLER_KV} fits into {room / 1e9:.1f} GB, and with it only {agreement:.1%} of "
            f"tokens are as with {own}, limit {LEAST_AGREEMENT:.0%}"
        )
    return SMALLER_KV


def _agreement(bundle: Bundle, own: str) -> float:
    """The part of tokens that both types choose after the same text, which the bundle's own type has written."""
    tokens: list[int] = []
    chosen: list[list[int]] = []
    for kv_type in (own, SMALLER_KV):
        model = open_language_model(bundle, Options(kv_type=kv_type, context=512))
        try:
            prompt = model.tokenize(bundle.manifest.questions[0].question, bos=True)
            model.evaluate_tokens(1, 0, prompt)
            found: list[int] = []
            for i in range(COMPARED):
                found.append(int(model.logits().argmax()))
                if kv_type == own:
                    tokens.append(found[-1])
                model.evaluate_tokens(1, len(prompt) + i, [tokens[i]])
            chosen.append(found)
        finally:
            model.close()
    return float(np.mean(np.array(chosen[0]) == np.array(chosen[1])))


def _vision_seconds(bundle: Bundle, threads: int) -> float:
    vision = open_vision(bundle, Options(vision_threads=threads))
    size = bundle.manifest.image.size
    try:
        return min(_timed(lambda: vision.embed_pixels(np.zeros((1, 3, size, size), np.float32))) for _ in range(TRIALS))
    finally:
        vision.close()


def _language_seconds(model: LlamaCppModel, threads: int) -> tuple[float, float]:
    """Seconds of an item of a prompt and of a token."""
    model.set_threads(threads, threads)
    prompt = [model.eos] * PROMPT
    prefill, decode = [], []
    for _ in range(TRIALS):
        model.rewind(1, 0)
        prefill.append(_timed(lambda: model.evaluate_tokens(1, 0, prompt)) / PROMPT)
        for i in range(ANSWER):
            decode.append(_timed(lambda at=PROMPT + i: model.evaluate_tokens(1, at, [model.eos])))  # type: ignore[misc]
    return min(prefill), min(decode)


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def remember(bundle: Bundle, tuning: Tuning) -> Path:
    """Keep the result for this machine and bundle. Raises InputError if it cannot be written."""
    target = _file(bundle)
    try:
        write_whole(target, (json.dumps({"schema": SCHEMA, **asdict(tuning)}, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{target}: the tuning cannot be kept: {error.strerror}") from None
    return target


def recall(bundle: Bundle) -> Tuning | None:
    """What was measured before for this machine and bundle; None if nothing, or if it cannot be used.

    Raises EngineUnavailable without llama.cpp.
    """
    try:
        found = json.loads(_file(bundle).read_text())
        if found.pop("schema") != SCHEMA:
            return None
        tuning = Tuning(**found)
        tuning.apply(Options())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, InputError, RuntimeError):
        return None
    return tuning


def _file(bundle: Bundle) -> Path:
    machine = json.dumps([_processor(), os.cpu_count(), default_threads(), _versions()])
    key = hashlib.sha256(machine.encode()).hexdigest()
    return cache_folder() / "tuning" / f"{bundle.id[:32]}-{key[:32]}.json"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _versions() -> list[str]:
    found = [llama_cpp_build()]  # compiled anew with other instructions, it has other seconds
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
