"""Compares a bundle with the original in PyTorch float32, stage by stage.

The runtime runs the bundle as a user would. To compare tokens, the bundle's answer is given to PyTorch, which says at
every position what it would have chosen. Up to the first difference that is what PyTorch would have generated itself.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..engines.base import Array, Floats
from ..engines.registry import open_graph
from ..runtime.bundle import Bundle, read_bundle
from ..runtime.conversation import Answer, Conversation
from ..runtime.kv_cache import KvCache
from ..runtime.loading import load_language_model, load_vision
from ..runtime.manifest import IMAGE_MARK, STAGES, Manifest, Parity, StageParity, TokenParity
from ..runtime.options import Options
from ..runtime.resolving import resolve, vision_setup
from ..runtime.sampling import GenerationConfig
from ..runtime.vision import ImageEmbedding, VisionStages
from .llama_reference import reference_logits, reference_tokens, token_embeddings
from .llama_weights import LlamaSource
from .progress import step
from .vision_model import IMAGE_MEAN, IMAGE_SIZE, IMAGE_STD, VisionModel

NEW_TOKENS = 32
FEWEST_TOKENS = 24  # below, agreement says nothing
CONTEXT = 512  # enough for one question, and small: a long one would cost a 13B model more than a gigabyte

EXACT = 1e-3
"""Float32 stages differ at most by this, relative to their largest value or 1."""

COSINE = {"f32": 0.999999, "f16": 0.99999, "int8": 0.999, "int8-block": 0.999}
"""Lowest cosine of image_embeds by vision precision."""

AGREEMENT = {"f32": 0.99, "f16": 0.98, "bf16": 0.95, "q8_0": 0.9, "q6_k": 0.85, "q5_k_m": 0.8, "q5_k_s": 0.8}
"""Lowest teacher-forced agreement of the language model by type."""
LOWEST_AGREEMENT = 0.75  # of any other type
SLACK = 3.0  # standard errors: the few tokens compared are a sample


@dataclass(frozen=True)
class Picture:
    name: str
    data: bytes


def measure(folder: Path, vision: VisionModel, llama: LlamaSource, pictures: Sequence[Picture]) -> Parity:
    """Run the bundle in `folder` and torch on the pictures and compare.

    Vision, language model and torch's language model run one after the other, never side by side in memory.
    """
    bundle = read_bundle(folder)
    expected, found = _vision_stages(bundle, vision, pictures)
    references = [stages["image_embeds"][0] for stages in expected]
    alone, whole, first_logits = _answers(bundle, references, [stages.image_embeds[0] for stages in found])
    logits = _reference_logits(llama, [*alone, *whole], [*references, *references])
    pairs: dict[str, list[tuple[Array, Array]]] = {
        stage: [(getattr(mine, stage), theirs[stage]) for mine, theirs in zip(found, expected, strict=True)]
        for stage in STAGES[:-1]
    }
    pairs["first_logits"] = [(mine, rows[0].numpy()) for mine, rows in zip(first_logits, logits, strict=False)]
    half = len(alone)
    parity = Parity(
        pictures=len(pictures),
        stages={stage: _stage(values) for stage, values in pairs.items()},
        llm=_tokens(alone, logits[:half]),
        end_to_end=_tokens(whole, logits[half:]),
        failures=_tokenizer_failures(llama, alone[0]),
    )
    return check(bundle.manifest, parity)


def vision_cosine(folder: Path, vision: VisionModel, pictures: Sequence[Picture]) -> float:
    """Cosine of image_embeds between the graphs in `folder` and torch, the worst of the pictures."""
    names = ("vision_encoder.onnx", "qformer.onnx")
    encoder, qformer = (open_graph(folder / name, vision_setup(Options())) for name in names)
    found = []
    for picture in pictures:
        expected = vision_reference(vision, picture)
        features = encoder.run({"pixels": expected["pixels"]})
        found.append(cosine(qformer.run(features)["image_embeds"], expected["image_embeds"]))
    encoder.close()
    qformer.close()
    return min(found)


def _vision_stages(
    bundle: Bundle, vision: VisionModel, pictures: Sequence[Picture]
) -> tuple[list[dict[str, Floats]], list[VisionStages]]:
    """Torch's stages and the bundle's, by picture."""
    expected, found = [], []
    with closing(load_vision(bundle, resolve(bundle, Options()).vision)) as mine:
        for number, picture in enumerate(pictures, 1):
            step(f"comparing vision with torch: picture {number} of {len(pictures)}")
            expected.append(vision_reference(vision, picture))
            found.append(mine.stages(picture.data, picture.name)[0])
    return expected, found


def _answers(
    bundle: Bundle, references: Sequence[Floats], own: Sequence[Floats]
) -> tuple[list[Answer], list[Answer], list[Floats]]:
    """The bundle's greedy answers given torch's image embeddings and its own; first logits given torch's."""
    answers, first_logits = [], []
    manifest = bundle.manifest
    question = manifest.questions[0].question
    step("answering with the bundle's language model")
    setup = resolve(bundle, Options(context=CONTEXT)).language_model
    with closing(load_language_model(bundle, setup)) as model:
        cache = KvCache(model)
        for number, embeds in enumerate([*references, *own]):
            image = ImageEmbedding(embeds, sha256=str(number), name=str(number))
            special = manifest.llm.special_tokens
            conversation = Conversation(model, cache, manifest.template, special, CONTEXT, image)
            if number < len(references):
                first_logits.append(conversation.first_logits(question))
            answers.append(conversation.ask(question, GenerationConfig(NEW_TOKENS, ignore_stop=True)))
    half = len(references)
    return answers[:half], answers[half:], first_logits


def vision_reference(vision: VisionModel, picture: Picture) -> dict[str, Floats]:
    """The original's stages in torch float32, from the picture file's bytes."""
    # Turned upright as the runtime does: the one thing that differs from the original on purpose.
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(picture.data))).convert("RGB")
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    pixels = ((pixels - mean) / std)[None]
    with torch.no_grad():
        features = vision.encode(pixels)
        query_output, embeds = vision.query(features)
    values = (pixels, features, query_output, embeds)
    return {stage: value.numpy() for stage, value in zip(STAGES, values, strict=False)}


def _reference_logits(llama: LlamaSource, runs: Sequence[Answer], embeds: Sequence[Floats]) -> list[Tensor]:
    """Torch's logits at each position where a token of a run was chosen."""
    sequences = []
    for answer, image in zip(runs, embeds, strict=True):
        before, after = answer.segment_token_ids
        parts = (
            token_embeddings(llama, before),
            torch.from_numpy(image),
            token_embeddings(llama, [*after, *answer.token_ids[:-1]]),
        )
        sequences.append(torch.cat(parts))
    return reference_logits(llama, sequences, [len(answer.token_ids) for answer in runs])


def _tokenizer_failures(llama: LlamaSource, answer: Answer) -> tuple[str, ...]:
    before, _, after = answer.prompt.partition(IMAGE_MARK)
    expected = reference_tokens(llama.folder, before, after)
    if tuple(map(tuple, expected)) == answer.segment_token_ids:
        return ()
    return ("llama.cpp cuts the prompt into other tokens than the original's tokenizer",)


def _stage(pairs: Sequence[tuple[Array, Array]]) -> StageParity:
    return StageParity(
        max_abs=max(float(np.abs(found - expected).max()) for found, expected in pairs),
        scale=max(float(np.abs(expected).max()) for _, expected in pairs),
        cosine=min(cosine(found, expected) for found, expected in pairs),
    )


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between two arrays as vectors."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _tokens(runs: Sequence[Answer], logits: Sequence[Tensor]) -> TokenParity:
    equal = [
        [token == int(row.argmax()) for token, row in zip(answer.token_ids, rows, strict=True)]
        for answer, rows in zip(runs, logits, strict=True)
    ]
    compared = sum(len(run) for run in equal)
    return TokenParity(
        compared=compared,
        free_running=sum([*run, False].index(False) for run in equal),
        teacher_forced=sum(sum(run) for run in equal) / compared,
    )


def check(manifest: Manifest, parity: Parity) -> Parity:
    """Add a sentence to `failures` for every limit of the bundle's precisions that is not met."""
    precision, kind = manifest.vision.precision, manifest.llm.type
    failures = list(parity.failures)
    exact = ["pixels"]
    exact += STAGES[1:4] if precision == "f32" else []
    exact += ["first_logits"] if kind == "f32" else []
    for stage in exact:
        found = parity.stages[stage]
        if not found.max_abs <= EXACT * max(1.0, found.scale):
            failures.append(f"{stage}: differs by {found.max_abs:.3g}, limit {EXACT} of {max(1.0, found.scale):.3g}")
    found_cosine = parity.stages["image_embeds"].cosine
    if not found_cosine >= COSINE[precision]:
        failures.append(f"image_embeds: cosine {found_cosine:.6f}, limit {COSINE[precision]} for {precision}")
    if kind != "f32" and parity.llm.compared < FEWEST_TOKENS:
        failures.append(f"language model: only {parity.llm.compared} tokens to compare: give it more --pictures")
    limit = agreement_limit(kind, parity.llm.compared)
    if not parity.llm.teacher_forced >= limit:
        agreement = f"{parity.llm.teacher_forced:.1%} of tokens as the original's, limit {limit:.1%}"
        failures.append(f"language model: {agreement} for {kind}")
    return Parity(parity.pictures, parity.stages, parity.llm, parity.end_to_end, tuple(failures))


def agreement_limit(kind: str, compared: int) -> float:
    """The agreement below which `compared` tokens show that a type misses its limit."""
    limit = AGREEMENT.get(kind, LOWEST_AGREEMENT)
    return limit - SLACK * float(np.sqrt(limit * (1 - limit) / compared))


def table(parity: Parity) -> str:
    """The figures as a person reads them."""
    lines = [f"{'stage':<16}{'max abs':>12}{'of':>10}{'cosine':>12}"]
    for stage, found in parity.stages.items():
        lines.append(f"{stage:<16}{found.max_abs:>12.2e}{found.scale:>10.3g}{found.cosine:>12.7f}")
    lines.append(f"{'tokens':<16}{'teacher-forced':>16}{'free-running':>18}")
    rows: Mapping[str, TokenParity] = {"language model": parity.llm, "end to end": parity.end_to_end}
    for name, tokens in rows.items():
        free = f"{tokens.free_running} of {tokens.compared}"
        lines.append(f"{name:<16}{tokens.teacher_forced:>16.1%}{free:>18}")
    return "\n".join(lines)
