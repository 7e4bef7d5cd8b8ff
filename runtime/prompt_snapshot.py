"""Keeps the KV cache of the text before the picture on disk, so that the next process need not compute it.

That text is the same for every picture and holds nothing of any. With a 7B model on two cores it takes 5 seconds to
compute and a moment to read. A snapshot is valid for one language model, one engine and one way of running it. One
that is not valid, or is damaged, is not used, and a new one is written.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..engines.base import LanguageModel
from ..engines.errors import EngineError
from .bundle import Bundle
from .cache_folder import cache_folder, keep, read_kept

FORMAT = 1
LEAST_SECONDS = 0.5  # of computing; below, a file is not worth it
KEPT = 4  # files; tens of megabytes each with a 7B model
DIGEST = hashlib.sha256().digest_size


class PromptSnapshot:
    """Snapshots for one open language model."""

    def __init__(self, bundle: Bundle, model: LanguageModel) -> None:
        self._model = model
        self._weights = bundle.manifest.files[bundle.manifest.llm.file].sha256

    def restore(self, sequence: int, tokens: Sequence[int]) -> bool:
        """Put the tokens' KV into an empty sequence; false, and nothing done, if there is no snapshot of them."""
        try:
            data = read_kept(self._file(tokens))
        except RuntimeError:  # there is no home directory
            return False
        if data is None:
            return False
        digest, state = data[:DIGEST], data[DIGEST:]
        if hashlib.sha256(state).digest() != digest:
            return False
        try:
            self._model.restore(sequence, state)
        except EngineError:
            self._model.rewind(sequence, 0)
            return False
        return True

    def keep(self, sequence: int, tokens: Sequence[int], seconds: float) -> None:
        """Write what the sequence holds, these tokens alone, if computing it took long."""
        if seconds < LEAST_SECONDS:
            return
        state = self._model.snapshot(sequence)
        # Without a writable cache it is computed at every start; that is slow, not wrong.
        try:
            path = self._file(tokens)
            keep(path, hashlib.sha256(state).digest() + state)
            _drop_oldest(path.parent)
        except (OSError, RuntimeError):
            pass

    def _file(self, tokens: Sequence[int]) -> Path:
        key = json.dumps([FORMAT, self._weights, self._model.identity, list(tokens)])
        return cache_folder() / "prompts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.kv"


def _drop_oldest(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
