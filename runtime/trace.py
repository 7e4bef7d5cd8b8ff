"""Writes the intermediate arrays and the tokens of one run to files, for comparing engines."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.errors import InputError
from .conversation import Answer
from .sampling import GenerationConfig
from .skingpt import SkinGPT
from .vision import as_embedding

SCHEMA = "skingpt-trace/2"


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
    image = as_embedding(stages, seconds, data, name)
    first_logits = model.first_logits(image, questions[0])
    conversation = model.conversation(image)
    for question in questions:
        conversation.ask(question, config)
    document = {
        "schema": SCHEMA,
        "image": {"name": name, "sha256": image.sha256},
        "bundle": {"name": model.bundle.manifest.name, "id": model.bundle.id},
        "notice": model.bundle.manifest.notice,
        "engines": {stage: info.to_json() for stage, info in model.engines.items()},
        "setup": {"requested": model.requested.to_json(), "resolved": model.setup.to_json()},
        "turns": [_turn(answer) for answer in conversation.answers],
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target / "trace.npz", first_logits=first_logits, **vars(stages))
        (target / "trace.json").write_text(json.dumps(document, indent=1) + "\n")
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
