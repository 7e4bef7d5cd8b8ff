"""Whether llama.cpp may use AMX here: tried out once in another process, since it may crash there.

The trial evaluates a question about a picture with AMX, and then two sequences together, after ONNX Runtime has used
the tiles, and compares the logits with those of a model without. What came of it is remembered for this processor and
this build of llama.cpp.
"""

import hashlib
import io
import json
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..engines.base import Floats, Run
from ..engines.gguf_header import import_llama_cpp, llama_cpp_build
from ..engines.llama_cpp_model import has_amx
from .bundle import Bundle, default_bundle, read_bundle
from .cache_folder import cache_folder, write_whole
from .options import Options

SCHEMA = "skingpt-amx/1"  # changes with what the trial tries
LEAST = 500_000_000  # bytes of a language model; with a small one the way to another thread and back takes too long
CLOSE = 0.999  # cosine of the logits
ROUNDS = 3
SECONDS = 120
TRIAL = "from skingpt_edge.runtime.amx_trial import attempt; raise SystemExit(not attempt())"


def use_amx(bundle: Bundle, options: Options) -> bool:
    """Whether a bundle's language model is to use AMX: as the options say, else where it gains by it and it works."""
    if options.amx is not None:
        return options.amx
    size = bundle.manifest.files[bundle.manifest.llm.file].size
    return options.device == "cpu" and size >= LEAST and amx_works()


@cache
def amx_works() -> bool:
    """Whether this llama.cpp has AMX and computes with it what it computes without."""
    lib = import_llama_cpp()
    if not has_amx(lib):
        return False
    note = _note(lib)
    try:
        return json.loads(note.read_text())["works"] is True if note else _in_another_process()
    except (OSError, ValueError, KeyError, TypeError):
        works = _in_another_process()
        _remember(note, works)
        return works


def attempt() -> bool:
    """The trial itself, in this process. It ends where llama.cpp crashes."""
    pairs = zip(_logits(amx=False), _logits(amx=True), strict=True)
    return all(_cosine(without, found) >= CLOSE for without, found in pairs)


def _logits(*, amx: bool) -> list[Floats]:
    """Logits of one sequence and of two together, time and again, with ONNX Runtime at work before each."""
    from .skingpt import open_engines  # which asks this module when it opens a bundle

    bundle, target = read_bundle(default_bundle()), io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(target, "PNG")
    vision, model = open_engines(bundle, Options(amx=amx, conversations=2))
    before = model.tokenize(bundle.manifest.template.system, bos=True)
    after = model.tokenize(bundle.manifest.questions[0].question, bos=False)
    found = []
    for _ in range(ROUNDS):
        rows = vision.embed(target.getvalue(), "trial").embeds
        model.rewind(1, 0)
        model.evaluate_tokens(1, 0, before)
        model.evaluate_embeddings(1, len(before), rows)
        model.evaluate_tokens(1, length := len(before) + len(rows), after)
        found.append(model.logits())
        vision.embed(target.getvalue(), "trial")
        model.fork(1, 2, length + len(after))
        pair = [Run(sequence, length + len(after), (after[sequence],)) for sequence in (1, 2)]
        found.extend(np.array(model.evaluate_together(pair)))
    vision.close()
    model.close()
    return found


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _in_another_process() -> bool:
    command = [sys.executable, "-c", TRIAL]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _note(lib: Any) -> Path | None:
    """Where the outcome is kept; None without a home directory."""
    built = Path(lib.__file__).stat().st_mtime_ns
    key = json.dumps([SCHEMA, llama_cpp_build(), built])
    try:
        return cache_folder() / "amx" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    except RuntimeError:
        return None


def _remember(note: Path | None, works: bool) -> None:
    # Without a writable cache it is tried at every start; that is slow, not wrong.
    if note is None:
        return
    with suppress(OSError):
        write_whole(note, json.dumps({"works": works}).encode())
