"""Writes the intermediate arrays and the tokens of one run to files, for comparing engines."""

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.errors import InputError
from .conversation import Answer
from .sampling import GenerationConfig
from .skingpt import SkinGPT
from .vision import as_embedding
from .write_whole import write_whole

SCHEMA = "skingpt-trace/2"
ARRAYS, DOCUMENT = "trace.npz", "trace.json"
FILES = {ARRAYS: b"PK", DOCUMENT: b'{\n "schema": "skingpt-trace/'}
"""The files of a trace, and how each begins."""


def write_trace(
    model: SkinGPT, data: bytes, name: str, questions: list[str], config: GenerationConfig, target: Path
) -> None:
    """Ask the questions in one conversation and write `trace.npz` and `trace.json` into `target`.

    `trace.npz` holds pixels (1, 3, size, size), image_features, query_output, image_embeds (1, n, width) and
    first_logits (vocabulary,), all float32.

    `text` in `trace.json` is the original's, with `</s>` where the model ended the answer.

    Raises what the stages raise, InputError if it cannot be written.
    """
    stages, seconds = model.vision.stages(data, name)
    image = as_embedding(stages, seconds, sha256(data).hexdigest(), name)
    first_logits = model.first_logits(image, questions[0])
    conversation = model.conversation(image)
    for question in questions:
        conversation.ask(question, config)
    document = {
        "schema": SCHEMA,
        "image": {"name": name, "sha256": image.sha256, "notes": [note.to_json() for note in image.notes]},
        "bundle": {"name": model.bundle.manifest.name, "id": model.bundle.id},
        "notice": model.bundle.manifest.notice,
        "engines": {stage: info.to_json() for stage, info in model.engines.items()},
        "setup": {"requested": model.requested.to_json(), "resolved": model.setup.to_json()},
        "turns": [_turn(answer) for answer in conversation.answers],
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()
        arrays: dict[str, Any] = {"first_logits": first_logits, **stages.arrays}
        np.savez_compressed(packed, **arrays)
        write_whole(target / ARRAYS, packed.getvalue())
        write_whole(target / DOCUMENT, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{target}: the trace cannot be written: {error.strerror}") from None


def _turn(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question,
        "prompt": answer.prompt,
        "segment_token_ids": [list(ids) for ids in answer.segment_token_ids],
        "token_ids": list(answer.token_ids),
        "text": answer.original_text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": {"evaluated": answer.prefill.evaluated, "reused": answer.prefill.reused},
    }
