"""Does a bundle compute the same on two devices?

`python -m skingpt_edge.benchmarks.tools.device_parity BUNDLE -o parity.json`

Both devices encode the same pictures. The answers of the first are given to both, so that every token is chosen after
the same ones. Devices round differently, so this comparison has limits of its own. They say nothing of how close the
bundle is to the original. The exit code is 1 if a limit is missed.

Trained weights or float16 ones should be judged. Random weights of 4 bits have nearly equal logits, and rounding alone
chooses among them. With `--truth`, torch computes the same tokens from the same weights in float32, which says how far
each device is from it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.base import KV_TYPES, Floats, LanguageModel, TokenSegment
from ...engines.errors import SkinGPTError
from ...engines.registry import devices
from ...runtime.bundle import Bundle
from ...runtime.conversation import Answer
from ...runtime.loading import load
from ...runtime.options import Options
from ...runtime.resolving import resolve
from ...runtime.skingpt import SkinGPT
from ...runtime.verification import open_bundle
from ...runtime.vision import ImageEmbedding
from ..measure.fixed_inputs import exactly, put_prompt

COSINE = 0.999
"""Lowest cosine of a picture's embeddings on the two devices."""

LOGITS = 0.05
"""Highest difference of logits, relative to the largest: kernels quantise activations in different blocks."""

AGREEMENT = 0.98
"""Lowest share of tokens that are the same, or so close on the first device that LOGITS allows either."""

PICTURES, NEW_TOKENS, CONTEXT = 2, 32, 512
KV_TYPE = {"a": "f16", "b": None}
"""The CPU is measured with what a GPU takes, so that not the KV cache differs; the GPU as the product runs it."""
SEQUENCE = 1  # of the language model's; which one does not matter


@dataclass(frozen=True)
class Forced:
    """Logits (tokens, n_vocab) from which an answer's tokens are chosen, all after the same tokens."""

    tokens: tuple[int, ...]
    logits: Floats


def compare_devices(bundle: Bundle, a: Options, b: Options, *, truth: bool = False) -> dict[str, Any]:
    """Run the bundle with both options, one after the other. Returns the figures, the limits and which are missed.

    With `truth` also how far each is from float32. Raises EngineError, BundleError, InputError.
    """
    question = bundle.manifest.questions[0].question
    skingpt, model = _open(bundle, a)
    with skingpt:
        images_a, ran_a = _images(skingpt), _engines(skingpt)
        answers = [skingpt.ask(image, question, exactly(NEW_TOKENS)) for image in images_a]
        forced_a = _force(model, answers, images_a)
    skingpt, model = _open(bundle, b)
    with skingpt:
        images_b, ran_b = _images(skingpt), _engines(skingpt)
        forced_b = _force(model, answers, images_a)
    cosines = [_cosine(x.embeds, y.embeds) for x, y in zip(images_a, images_b, strict=True)]
    found = {"image_embeds": {"cosine": float(np.min(cosines))}, **judge_tokens(forced_a, forced_b)}
    if truth:
        found["against_float32"] = _against_float32(bundle, answers, images_a, forced_a, forced_b)
    return {
        "bundle": {"name": bundle.manifest.name, "id": bundle.id},
        "engines": {"a": ran_a, "b": ran_b},
        **found,
        "limits": {"cosine": COSINE, "logits": LOGITS, "agreement": AGREEMENT},
        "failures": failures(found),
    }


def _against_float32(
    bundle: Bundle, answers: Sequence[Answer], images: Sequence[ImageEmbedding], a: Sequence[Forced],
    b: Sequence[Forced],
) -> dict[str, Any]:  # fmt: skip
    from .float32_truth import true_logits

    segments = [answer.segment_token_ids for answer in answers]
    tokens = [answer.token_ids for answer in answers]
    path = bundle.file(bundle.manifest.llm.file)
    return nearer(true_logits(path, segments, [image.embeds for image in images], tokens), a, b)


def nearer(truth: Sequence[Floats], a: Sequence[Forced], b: Sequence[Forced]) -> dict[str, Any]:
    """How far the logits of each device are from the true ones, and which are nearer, by the root mean square."""
    found: dict[str, Any] = {name: _distance(truth, forced) for name, forced in (("a", a), ("b", b))}
    rms = {name: found[name]["rms"] for name in ("a", "b")}
    return {**found, "nearer": "neither" if rms["a"] == rms["b"] else min(rms, key=lambda name: rms[name])}


def _distance(truth: Sequence[Floats], forced: Sequence[Forced]) -> dict[str, Any]:
    """`rms` and largest difference of all logits, relative to the largest true one; tokens equal to the true choice."""
    scale = max(float(np.abs(logits).max()) for logits in truth)
    differences = [one.logits - logits for one, logits in zip(forced, truth, strict=True)]
    whole = np.concatenate([difference.ravel() for difference in differences]).astype(np.float64)
    equal = [one.logits.argmax(axis=1) == logits.argmax(axis=1) for one, logits in zip(forced, truth, strict=True)]
    return {
        "rms": float(np.sqrt(np.mean(whole**2))) / scale,
        "largest": float(np.abs(whole).max()) / scale,
        "first": max(float(np.abs(difference[0]).max()) for difference in differences) / scale,
        "tokens_equal": int(sum(map(np.sum, equal))),
        "tokens": sum(map(len, equal)),
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


def _open(bundle: Bundle, options: Options) -> tuple[SkinGPT, LanguageModel]:
    """A bundle for short answers, and its language model."""
    asked = replace(options, context=CONTEXT, prompt_snapshot=False)  # a snapshot would not be computed here
    setup = resolve(bundle, asked)
    engines = load(bundle, setup)
    return SkinGPT(bundle, engines, setup, asked), engines.language_model


def _engines(skingpt: SkinGPT) -> dict[str, Any]:
    return {part: info.to_json() for part, info in skingpt.engines.items()}


def _images(skingpt: SkinGPT) -> list[ImageEmbedding]:
    folder = Path(str(files("skingpt_edge.runtime"))) / "demo" / "pictures"
    return [skingpt.embed(path.read_bytes(), path.name) for path in sorted(folder.glob("*.jpg"))[:PICTURES]]


def _force(model: LanguageModel, answers: Sequence[Answer], images: Sequence[ImageEmbedding]) -> list[Forced]:
    """The model's logits before each token of the answers. What the KV cache held is gone afterwards."""
    found = []
    for answer, image in zip(answers, images, strict=True):
        before, after = answer.segment_token_ids
        for sequence in range(SEQUENCE + 1):
            model.rewind(sequence, 0)
        rows = [put_prompt(model, SEQUENCE, before, image.embeds, after)]
        position = len(before) + len(image.embeds) + len(after)
        for number, token in enumerate(answer.token_ids[:-1]):
            rows.append(model.evaluate([TokenSegment(SEQUENCE, position + number, (token,))])[0])
        found.append(Forced(answer.token_ids, np.stack(rows)))
    return found


def _cosine(a: Floats, b: Floats) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    for name, device in (("a", "cpu"), ("b", "cuda")):
        parser.add_argument(f"--device-{name}", default=device, choices=devices(), help="(%(default)s)")
        parser.add_argument(f"--vision-device-{name}", choices=devices(), help="of vision, if it is another")
        parser.add_argument(f"--threads-{name}", type=int, metavar="N", help="(the physical cores)")
        parser.add_argument(f"--kv-type-{name}", choices=KV_TYPES, default=KV_TYPE[name], help="(%(default)s)")
    parser.add_argument("--truth", action="store_true", help="say which is nearer to float32 (needs torch and gguf)")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    try:
        a = Options(given.device_a, given.vision_device_a, threads=given.threads_a, kv_type=given.kv_type_a)
        b = Options(given.device_b, given.vision_device_b, threads=given.threads_b, kv_type=given.kv_type_b)
        found = compare_devices(open_bundle(given.bundle), a, b, truth=given.truth)
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.truth:
        print(json.dumps(found["against_float32"]), file=sys.stderr)
    for failure in found["failures"]:
        print(f"past its limit: {failure}", file=sys.stderr)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
