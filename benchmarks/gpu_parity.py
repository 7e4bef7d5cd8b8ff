"""Does a bundle compute the same on two devices? `python -m skingpt_edge.benchmarks.gpu_parity BUNDLE -o parity.json`.

The same pictures are encoded on both, and the answer that the first device gives is fed to both, so that every
token is chosen after the same ones. Devices round differently: the limits are of this comparison alone, and say
nothing of how close the bundle is to the original. Exit code 1 if one is missed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.base import Floats
from ..engines.errors import SkinGPTError
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.conversation import Answer, Conversation
from ..runtime.kv_cache import KvCache
from ..runtime.options import Options
from ..runtime.sampling import GenerationConfig
from ..runtime.skingpt import open_language_model, open_vision
from ..runtime.vision import ImageEmbedding

COSINE = 0.999
"""Lowest cosine of a picture's embeddings on the two devices."""

LOGITS = 0.05
"""Logits differ at most by this, relative to the largest: kernels quantise activations in different blocks."""

AGREEMENT = 0.98
"""Lowest share of tokens that are the same, or so close on the first device that LOGITS allows either."""

PICTURES, NEW_TOKENS, CONTEXT = 2, 32, 512
SEQUENCE = 1  # of the language model's; which one does not matter


@dataclass(frozen=True)
class Forced:
    """Logits (tokens, n_vocab) of one answer's positions, all after the same tokens."""

    tokens: tuple[int, ...]
    logits: Floats


def compare_devices(bundle: Bundle, a: Options, b: Options) -> dict[str, Any]:
    """Run the bundle on both, one after the other; the figures, the limits and what misses them.

    Raises EngineError, BundleError.
    """
    images_a, vision_a = _images(bundle, a)
    images_b, vision_b = _images(bundle, b)
    with closing(open_language_model(bundle, a)) as model:
        answers = _answers(bundle, model, images_a)
        forced_a, language_a = _forced(model, answers, images_a), asdict(model.info)
    with closing(open_language_model(bundle, b)) as model:
        forced_b, language_b = _forced(model, answers, images_a), asdict(model.info)
    cosines = [_cosine(x.embeds, y.embeds) for x, y in zip(images_a, images_b, strict=True)]
    found = {
        "image_embeds": {"cosine": float(np.min(cosines))},
        **judge_tokens(forced_a, forced_b),
    }
    return {
        "bundle": {"name": bundle.manifest.name, "id": bundle.id},
        "engines": {"a": {**vision_a, "language_model": language_a}, "b": {**vision_b, "language_model": language_b}},
        **found,
        "limits": {"cosine": COSINE, "logits": LOGITS, "agreement": AGREEMENT},
        "failures": failures(found),
    }


def judge_tokens(a: Sequence[Forced], b: Sequence[Forced]) -> dict[str, Any]:
    """How far logits and the tokens chosen from them agree; a near tie on `a` counts for either token."""
    first, rest, scales, equal, agreeing = [], [], [], [], []
    for x, y in zip(a, b, strict=True):
        scale = np.abs(x.logits).max()
        difference = np.abs(x.logits - y.logits).max(axis=1) / scale
        first.append(difference[0])
        rest.extend(difference)
        scales.append(scale)
        chosen = y.logits.argmax(axis=1)
        equal.extend(chosen == x.logits.argmax(axis=1))
        agreeing.extend(x.logits.max(axis=1) - x.logits[range(len(chosen)), chosen] <= LOGITS * scale)
    # NumPy's maximum keeps a NaN, Python's may lose it.
    return {
        "first_logits": {"relative": float(np.max(first)), "scale": float(np.max(scales))},
        "all_logits": {"relative": float(np.max(rest)), "scale": float(np.max(scales))},
        "tokens": {"compared": len(equal), "equal": int(np.sum(equal)), "equal_or_near_tie": int(np.sum(agreeing))},
    }


def failures(found: dict[str, Any]) -> list[str]:
    """A sentence for each limit that is missed; NaN misses all."""
    missed = []
    cosine, tokens = found["image_embeds"]["cosine"], found["tokens"]
    if not cosine >= COSINE:
        missed.append(f"image_embeds: cosine {cosine:.6f}, limit {COSINE}")
    for what in ("first_logits", "all_logits"):
        if not found[what]["relative"] <= LOGITS:
            missed.append(f"{what}: differ by {found[what]['relative']:.3g} of the largest, limit {LOGITS}")
    share = tokens["equal_or_near_tie"] / tokens["compared"]
    if not share >= AGREEMENT:
        missed.append(f"tokens: {share:.1%} of {tokens['compared']} agree, limit {AGREEMENT:.0%}")
    return missed


def _images(bundle: Bundle, options: Options) -> tuple[list[ImageEmbedding], dict[str, Any]]:
    folder = Path(str(files("skingpt_edge.runtime"))) / "demo" / "pictures"
    with closing(open_vision(bundle, options)) as vision:
        found = [vision.embed(path.read_bytes(), path.name) for path in sorted(folder.glob("*.jpg"))[:PICTURES]]
        return found, {name: asdict(info) for name, info in vision.info.items()}


def _answers(bundle: Bundle, model: Any, images: Sequence[ImageEmbedding]) -> list[Answer]:
    """Greedy answers of NEW_TOKENS, or up to the end-of-sequence token."""
    manifest, cache = bundle.manifest, KvCache(model)
    conversations = [Conversation(model, cache, manifest.template, CONTEXT, image) for image in images]
    config = GenerationConfig(NEW_TOKENS, ignore_stop=True)
    return [conversation.ask(manifest.questions[0].question, config) for conversation in conversations]


def _forced(model: Any, answers: Sequence[Answer], images: Sequence[ImageEmbedding]) -> list[Forced]:
    """The model's logits before each token of the answers."""
    found = []
    for answer, image in zip(answers, images, strict=True):
        before, after = answer.segment_token_ids
        model.rewind(SEQUENCE, 0)
        model.evaluate_tokens(SEQUENCE, 0, before)
        model.evaluate_embeddings(SEQUENCE, len(before), image.embeds)
        position, rows = len(before) + len(image.embeds), []
        for tokens in (after, *((token,) for token in answer.token_ids[:-1])):
            model.evaluate_tokens(SEQUENCE, position, tokens)
            position += len(tokens)
            rows.append(model.logits())
        found.append(Forced(answer.token_ids, np.stack(rows)))
    return found


def _cosine(a: Floats, b: Floats) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skingpt_edge.benchmarks.gpu_parity", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    for name, device in (("a", "cpu"), ("b", "cuda")):
        parser.add_argument(f"--device-{name}", default=device, metavar="DEVICE", help="cpu or cuda (%(default)s)")
        parser.add_argument(f"--vision-device-{name}", metavar="DEVICE", help="of vision, if it is another")
        parser.add_argument(f"--threads-{name}", type=int, metavar="N", help="(the physical cores)")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    try:
        a = Options(given.device_a, given.vision_device_a, threads=given.threads_a, context=CONTEXT)
        b = Options(given.device_b, given.vision_device_b, threads=given.threads_b, context=CONTEXT)
        found = compare_devices(open_bundle(given.bundle), a, b)
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for failure in found["failures"]:
        print(f"past its limit: {failure}", file=sys.stderr)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
