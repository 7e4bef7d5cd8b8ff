"""Measures the types that a language model can have beside each other: size, time, fidelity, and what it says right."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engines.base import Floats, LanguageModel
from ..engines.errors import ExportError
from ..runtime.bundle import Bundle, read_bundle
from ..runtime.conversation import Conversation
from ..runtime.kv_cache import KvCache
from ..runtime.loading import load_language_model
from ..runtime.manifest import MANIFEST, FileEntry, TypeFigures
from ..runtime.options import Options
from ..runtime.resolving import resolve
from ..runtime.sampling import GenerationConfig
from ..runtime.vision import ImageEmbedding
from .bundle_writer import describe_source, language_part
from .forced import Course, Led, agreeing, divergence, lead, original_logits
from .gguf_file import quantise
from .importance import Importance
from .llama_weights import LlamaSource
from .parity import agreement_limit
from .progress import bar, step
from .share import Share

NEED_IMPORTANCE = ("iq1", "iq2", "iq3_xxs", "q2_k_s")
"""Beginnings of the types that llama.cpp makes only with an importance matrix."""
WHOLE = "f16"
"""The type that all others are made from, and whose answers they are led along."""
ROUNDS = 3  # each type is loaded and timed so often, in turn with the others
NEW_TOKENS, CONTEXT = 48, 512
POINT = 0.01
"""What `choose` lets a type lose, of the tokens."""

Count = Callable[[Bundle], tuple[int, int]]
"""Asks a bundle about drawings: how many attributes it says right, of how many."""


@dataclass(frozen=True)
class Candidate:
    """A language model's type, quantised with or without regard to what its matrices are multiplied with."""

    kind: str
    calibrated: bool

    def __str__(self) -> str:
        return f"{self.kind}, calibrated" if self.calibrated else self.kind


ORIGINAL = Candidate(WHOLE, calibrated=False)


@dataclass(frozen=True)
class Compared:
    candidate: Candidate
    bundle: Bundle
    figures: TypeFigures


def candidates(kinds: Sequence[str], *, calibrated: bool) -> list[Candidate]:
    """Every type, and with `calibrated` once more with calibration."""
    return [Candidate(kind, how) for kind in kinds for how in ((False, True) if calibrated else (False,))]


def compare_types(
    whole: Path, llama: LlamaSource, embeds: Sequence[Floats], chosen: Sequence[Candidate],
    importance: Importance | None, work: Path, count: Count | None = None,
) -> list[Compared]:  # fmt: skip
    """Figures of the bundle in `whole`, whose language model is WHOLE, and of each candidate made from it.

    `embeds`: pictures' embeddings (queries, n_embd), as the original's vision gives them. `work` is left with a bundle
    for each candidate. Raises ExportError and what the stages raise.
    """
    bundles = _make_variants(whole, llama, chosen, importance, work)
    courses = own_courses(bundles[ORIGINAL], embeds)
    step("the same answers in torch float32")
    expected = original_logits(llama, courses)
    found = []
    for candidate, led in _lead_all(bundles, courses).items():
        bundle = bundles[candidate]
        right, of = count(bundle) if count else (0, 0)
        row = _with_fidelity(_speed(candidate, bundle, courses, led), expected, led)
        found.append(Compared(candidate, bundle, replace(row, right=right, of=of)))
    return found


def compare_speed(
    whole: Path, llama: LlamaSource, embeds: Sequence[Floats], chosen: Sequence[Candidate], work: Path
) -> list[Compared]:
    """As `compare_types`, of a model whose answers mean nothing: size and times alone."""
    bundles = _make_variants(whole, llama, chosen, None, work)
    courses = own_courses(bundles[ORIGINAL], embeds)
    led = _lead_all(bundles, courses)
    return [Compared(one, bundle, _speed(one, bundle, courses, led[one])) for one, bundle in bundles.items()]


def _make_variants(
    whole: Path, llama: LlamaSource, chosen: Sequence[Candidate], importance: Importance | None, work: Path
) -> dict[Candidate, Bundle]:
    """The bundle in `whole` and those made from it. A type that needs an importance matrix is left out without one."""
    base = read_bundle(whole)
    bundles = {ORIGINAL: base}
    for candidate in chosen:
        given = importance if candidate.calibrated else None
        if candidate.kind.startswith(NEED_IMPORTANCE) and not given:
            step(f"{candidate}: left out, because llm type {candidate.kind!r} needs --calibrate")
            continue
        bundles[candidate] = make_variant(base, llama, work / str(candidate).replace(", ", "-"), candidate.kind, given)
    return bundles


def _lead_all(bundles: Mapping[Candidate, Bundle], courses: Sequence[Course]) -> dict[Candidate, list[Led]]:
    """Each type along all courses, in ROUNDS; the first round's logits are kept."""
    led: dict[Candidate, list[Led]] = {candidate: [] for candidate in bundles}
    with bar("answering with each type", unit=" types") as move:
        for done in range(ROUNDS * len(bundles)):
            candidate = list(bundles)[done % len(bundles)]
            with closing(open_language_model(bundles[candidate])) as model:
                lead(model, courses[0])  # the first touch of the weights is slow, and not what is compared
                for course in courses:
                    one = lead(model, course)
                    # Logits are the same in each round, and take megabytes.
                    led[candidate].append(one if done < len(bundles) else replace(one, logits=one.logits[:0]))
            move(done + 1, ROUNDS * len(bundles))
    return led


def make_variant(base: Bundle, llama: LlamaSource, target: Path, kind: str, importance: Importance | None) -> Bundle:
    """The bundle with its language model quantised to another type; the other files are shared."""
    target.mkdir(parents=True)
    manifest = base.manifest
    name = manifest.llm.file
    for other in manifest.files:
        if other != name:
            try:
                os.link(base.file(other), target / other)
            except OSError:  # not every file system has links
                shutil.copyfile(base.file(other), target / other)
    with bar(f"quantising to {kind}{' with calibration' if importance else ''}") as move:
        quantise(base.file(name), target / name, kind, move, importance)
    source = describe_source("", target / name)
    files = {**manifest.files, name: FileEntry(source.size, source.sha256)}
    described = language_part(kind, llama.config, manifest.llm.special_tokens)
    changed = replace(manifest, files=files, llm=described, parity=None, self_test=None)
    (target / MANIFEST).write_text(changed.to_json())
    return read_bundle(target)


def open_language_model(bundle: Bundle) -> LanguageModel:
    """With what a user gets who chooses nothing, but in a short context. Raises BundleError, EngineError."""
    options = Options(context=CONTEXT, tuning=False)
    return load_language_model(bundle, resolve(bundle, options).language_model)


def own_courses(bundle: Bundle, embeds: Sequence[Floats]) -> list[Course]:
    """The bundle's own greedy answers to the first question about each picture."""
    manifest = bundle.manifest
    courses = []
    with closing(open_language_model(bundle)) as model:
        cache = KvCache(model)
        for number, rows in enumerate(embeds):
            image = ImageEmbedding(rows, sha256=str(number), name=str(number))
            special = manifest.llm.special_tokens
            talk = Conversation(model, cache, manifest.template, special, CONTEXT, image)
            answer = talk.ask(manifest.questions[0].question, GenerationConfig(NEW_TOKENS, ignore_stop=True))
            before, after = answer.segment_token_ids
            courses.append(Course(before, rows, after, answer.token_ids))
    return courses


def _speed(candidate: Candidate, bundle: Bundle, courses: Sequence[Course], led: Sequence[Led]) -> TypeFigures:
    """Of all rounds the fastest, because whatever else a machine does only ever slows it down."""
    items = sum(course.prompt_items for course in courses)
    rounds = [led[start : start + len(courses)] for start in range(0, len(led), len(courses))]
    return TypeFigures(
        type=candidate.kind,
        calibrated=candidate.calibrated,
        size=bundle.manifest.files[bundle.manifest.llm.file].size,
        token_ms=1e3 * min(float(np.median([t for one in part for t in one.token_seconds])) for part in rounds),
        prompt_ms=1e3 * min(sum(one.prompt_seconds for one in part) for part in rounds) / items,
        tokens=0,
        agreeing=0,
        divergence=0.0,
        right=0,
        of=0,
    )


def _with_fidelity(row: TypeFigures, expected: Sequence[Floats], led: Sequence[Led]) -> TypeFigures:
    pairs = list(zip(expected, led, strict=False))  # the first round: logits are the same in each
    tokens = sum(len(rows) for rows in expected)
    agree = sum(agreeing(rows, one.logits) for rows, one in pairs)
    return replace(
        row,
        tokens=tokens,
        agreeing=agree,
        divergence=sum(divergence(rows, one.logits) for rows, one in pairs) / tokens,
    )


def choose(rows: Sequence[TypeFigures]) -> TypeFigures:
    """The type whose token takes least time, of those that lose a POINT at most and are within the limits of parity.

    Raises ExportError if there is none.
    """
    whole = next(row for row in rows if row.type == WHOLE)
    fit = [
        row
        for row in rows
        if whole.agreeing - row.agreeing <= POINT * row.tokens
        and row.agreeing / row.tokens >= agreement_limit(row.type, row.tokens)
    ]
    if not fit:
        raise ExportError("no type is within a point of float16 and within the limits of parity: name one yourself")
    return min(fit, key=lambda row: row.token_ms)


def table(rows: Sequence[TypeFigures]) -> str:
    """The figures in Markdown. Of fidelity and attributes it has what was counted."""
    compared, counted = any(row.tokens for row in rows), any(row.of for row in rows)
    heads = ["type", "MB", "ms a token", "ms an item of a prompt"]
    heads += ["tokens as the original's", "divergence, nats"] if compared else []
    heads += ["attributes right"] if counted else []
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [str(Candidate(row.type, row.calibrated)), f"{row.size / 1e6:,.1f}", f"{row.token_ms:.3g}"]
        cells += [f"{row.prompt_ms:.3g}"]
        cells += [Share(row.agreeing, row.tokens).cell, f"{row.divergence:.2g}"] if compared else []
        cells += [Share(row.right, row.of).cell] if counted else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
