"""Opens a bundle only after it was verified on this machine, once: files, headers, and a self-test in another process.

That it was verified is remembered for the files as they are, and for the versions of the engines.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..engines.errors import BundleError, EngineError
from ..engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS, choose
from .bundle import Bundle, Progress, check_hashes, check_language_model, read_bundle
from .cache_folder import cache_folder, forget, keep, read_kept
from .machine import physical_cores
from .worker import Worker, WorkerEnded

RULES = 1
"""Of verification; with a higher number bundles are verified anew."""
MAX_NOTE_BYTES = 100_000
SELF_TEST = "skingpt_edge.runtime.self_test:SelfTestRun"


def open_bundle(path: Path, *, verify: bool = False, progress: Progress | None = None) -> Bundle:
    """Read a bundle, and verify it the first time this machine sees it, or with `verify`.

    Raises BundleError, EngineError.
    """
    bundle = read_bundle(path)
    if verify or not was_verified(bundle):
        verify_bundle(bundle, progress)
    return bundle


def verify_bundle(bundle: Bundle, progress: Progress | None = None) -> None:
    """Hash all files, check the headers, load both halves in another process and make the self-test; then remember it.

    `progress` hears of each file's bytes, and of `self-test` with no count. Raises BundleError, and forgets that the
    bundle was verified before; raises EngineError if an engine is missing or memory ran out.
    """
    try:
        check_hashes(bundle, progress)
        check_language_model(bundle)
        bundle.check_unchanged()
        if progress:
            progress("self-test", 0, 0)
        _make_self_test(bundle)
        bundle.check_unchanged()
    except BundleError:
        with suppress(OSError, RuntimeError):
            forget(_note_file(bundle))
        raise
    # Without a writable cache it is verified at every start; that is slow, not wrong.
    with suppress(OSError, RuntimeError):
        keep(_note_file(bundle), json.dumps(_note(bundle)).encode())


def was_verified(bundle: Bundle) -> bool:
    """Whether these very files were verified on this machine with the engines that are installed now."""
    try:
        data = read_kept(_note_file(bundle), MAX_NOTE_BYTES)
        return data is not None and bool(json.loads(data) == json.loads(json.dumps(_note(bundle))))
    except (ValueError, RecursionError, RuntimeError):  # RuntimeError: there is no home directory
        return False


def _make_self_test(bundle: Bundle) -> None:
    try:
        path, files = str(bundle.path.absolute()), bundle.fingerprint
        with Worker(SELF_TEST, threads=physical_cores(), quiet=True, path=path, fingerprint=files):
            pass
    except WorkerEnded as ended:
        if ended.out_of_memory:
            raise EngineError(f"{bundle.path}: the machine has too little memory for this bundle") from None
        if ended.code >= 0:  # Python's own end, not a crash
            raise EngineError(f"the self-test could not be made: {ended}") from None
        raise BundleError(
            f"{bundle.path}: loading it ends the process: it is damaged, or the machine has too little memory ({ended})"
        ) from None


def _note(bundle: Bundle) -> dict[str, Any]:
    engines = GRAPH_ENGINES[choose(GRAPH_ENGINES, None, "cpu")], LANGUAGE_MODELS[choose(LANGUAGE_MODELS, None, "cpu")]
    return {"rules": RULES, "engines": [engine.build() for engine in engines], "files": bundle.fingerprint}


def _note_file(bundle: Bundle) -> Path:
    place = hashlib.sha256(os.fsencode(bundle.path.resolve())).hexdigest()  # a bundle may be here twice
    return cache_folder() / "verified" / f"{bundle.id[:32]}-{place[:32]}.json"
