"""Makes a bundle: from checkpoints, which is then compared with PyTorch, or with random weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from ..engines.errors import ExportError, ParityError
from ..engines.llama_cpp_library import file_types
from ..runtime.bundle import check_hashes, check_language_model, read_bundle
from ..runtime.image import decode_image, read_image_file
from ..runtime.manifest import FORMAT, MANIFEST, Manifest, Source, SpecialTokens, Template, TypeFigures
from ..runtime.options import Options
from ..runtime.self_test import run_self_test
from ..runtime.write_whole import write_whole
from . import parity
from .bundle_writer import NOTICE, QUESTIONS, check_target, describe_source, make_manifest, new_bundle
from .calibration import Example, read_examples, sequence
from .checkpoints import LlamaFolder
from .compare import WHOLE, Count, candidates, choose, compare_speed, compare_types, table
from .gguf_file import F16, F32, plain_types, quantise, write_gguf
from .graphs import export_graphs
from .importance import Importance, measure_importance, read_importance, write_importance
from .llama_weights import LlamaCheckpoint, LlamaSource
from .progress import bar, step
from .quantise import PRECISIONS
from .synth import SHAPES, RandomLlama, RandomTensors, random_llm
from .templates import SKINGPT4
from .tokenizer import special_tokens
from .vision_model import VisionConfig, VisionModel
from .vision_weights import expected_shapes, load_vision_model, read_vision, save_float32

AUTO = "auto"  # the fastest vision precision that computes the original's function within its limits
UNQUANTISED = ("f32", "f16")
IMPORTANCE, LLM, VISION = "importance.gguf", "llm.gguf", "vision.safetensors"
SYNTHETIC_NOTICE = "Synthetic bundle: random weights for measuring speed. Its words mean nothing."


@dataclass(frozen=True)
class Checkpoints:
    """The original's four sources."""

    vit: Path
    qformer: Path
    adapter: Path
    llm: Path


@dataclass(frozen=True)
class Choices:
    """How a bundle is made."""

    vision: str
    llm_type: str
    name: str
    template: Template = SKINGPT4
    force: bool = False
    accept_parity: bool = False
    notice: str = NOTICE
    calibrate: Path | None = None
    """A folder of pictures with reports, or an importance file made from them."""
    types: tuple[str, ...] = ()
    """What `auto` chooses the language model's type from, and `compare_checkpoints` compares."""

    def check(self) -> None:
        """Raises ExportError for an unknown precision or type."""
        if self.vision not in (AUTO, *PRECISIONS):
            raise ExportError(f"vision precision {self.vision!r} is unknown; known are {AUTO}, {', '.join(PRECISIONS)}")
        if self.llm_type not in (AUTO, *file_types()):
            raise ExportError(f"llm type {self.llm_type!r} is unknown; known are {AUTO}, {', '.join(file_types())}")
        for kind in self.types:
            if kind not in file_types() or kind in UNQUANTISED:
                known = ", ".join(name for name in file_types() if name not in UNQUANTISED)
                raise ExportError(f"llm type {kind!r} cannot be compared; {WHOLE} always is, and these can: {known}")
        if len(set(self.types)) < len(self.types):
            raise ExportError(f"a type stands twice among those to compare: {', '.join(self.types)}")
        if self.calibrate and self.llm_type in UNQUANTISED:
            raise ExportError(f"llm type {self.llm_type!r} is not quantised, so there is nothing to calibrate")


def read_picture(path: Path) -> parity.Picture:
    """A picture to measure parity on. Raises ImageError, before hours of work, if it is none."""
    data = read_image_file(path)
    decode_image(data, path.name)
    return parity.Picture(path.name, data)


def sample_pictures() -> list[Path]:
    """The drawn pictures that come with the package."""
    return sorted(Path(str(files("skingpt_edge.runtime") / "demo" / "pictures")).glob("*.jpg"))


def export_bundle(checkpoints: Checkpoints, target: Path, choices: Choices, pictures: Sequence[Path]) -> Manifest:
    """Turn the original's checkpoints into a bundle and prove that it computes the same.

    Raises ExportError, and ParityError if a limit is missed and `accept_parity` is not chosen; then, as on
    any error, nothing is left behind.
    """
    choices.check()
    check_target(target, force=choices.force)
    shots = [read_picture(path) for path in pictures]
    examples, importance = _calibration(choices.calibrate)
    with new_bundle(target, force=choices.force) as (folder, work), _read(checkpoints, work) as original:
        llama = original.llama
        if importance:
            importance.check(llama)
        precision = _export_vision(original.vision, original.config, choices, folder, shots)
        if examples:
            importance = _measure_importance(examples, original, choices.template)
        if importance:
            write_importance(importance, folder / IMPORTANCE)
        kind = WHOLE if choices.llm_type == AUTO else choices.llm_type
        _write_llm(llama, replace(choices, llm_type=kind), work, folder / LLM, importance)
        manifest = make_manifest(
            folder,
            name=choices.name,
            notice=choices.notice,
            sources=original.sources,
            vision=original.config,
            precision=precision,
            llama=llama.config,
            llm_type=kind,
            special=original.special,
            template=choices.template,
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        if choices.llm_type == AUTO:
            manifest = _choose_type(folder, original, choices, shots, importance, work / "types")
        measured = parity.measure(folder, original.vision, llama, shots)
        step(parity.table(measured))
        if measured.failures and not choices.accept_parity:
            raise ParityError(
                "the bundle does not compute the original's function within its limits:\n  "
                + "\n  ".join(measured.failures)
                + "\nchoose a finer precision, or keep it all the same with --accept-parity"
            )
        return _with_self_test(folder, replace(manifest, parity=measured))


@dataclass(frozen=True)
class Original:
    """The original's two halves, as its checkpoints have them."""

    vision: VisionModel
    config: VisionConfig
    llama: LlamaCheckpoint
    special: SpecialTokens
    sources: tuple[Source, ...]


@contextmanager
def _read(checkpoints: Checkpoints, work: Path) -> Iterator[Original]:
    """Vision is written into `work` first, so that it is not in memory twice. Raises ExportError."""
    step("reading the checkpoints")
    files = LlamaFolder(checkpoints.llm)
    llama = LlamaCheckpoint(files)
    special = special_tokens(files.folder)
    config, tensors = read_vision(checkpoints.vit, checkpoints.qformer, checkpoints.adapter)
    if config.n_embd != llama.config.width:
        raise ExportError(
            f"{checkpoints.adapter.name} projects to width {config.n_embd}, "
            f"but the language model in {checkpoints.llm} has width {llama.config.width}"
        )
    save_float32(expected_shapes(config), tensors.__getitem__, work / VISION)
    del tensors
    vision = load_vision_model(config, work / VISION)
    yield Original(vision, config, llama, special, _sources(checkpoints, files))
    files.close()


def _with_self_test(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with what the bundle computes here; written into the folder."""
    (folder / MANIFEST).write_text(manifest.to_json())
    step("computing the self-test")
    found = run_self_test(read_bundle(folder), Options(tuning=False, prompt_snapshot=False))
    manifest = replace(manifest, self_test=found)
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def upgrade_bundle(path: Path) -> Manifest:
    """Write a bundle's manifest anew, in the current format and with a self-test; the other files stay as they are.

    The bundle's id changes. Raises BundleError, EngineError, ExportError if it cannot be written.
    """
    bundle = read_bundle(path)
    with bar("hashing the bundle") as move:
        check_hashes(bundle, lambda _, done, size: move(done, size))
    check_language_model(bundle)
    step("computing the self-test")
    found = run_self_test(bundle, Options(tuning=False, prompt_snapshot=False))
    manifest = replace(bundle.manifest, format=FORMAT, self_test=found)
    try:
        write_whole(path / MANIFEST, manifest.to_json().encode())
        (path / MANIFEST).chmod(0o644)
    except OSError as error:
        raise ExportError(f"{path / MANIFEST}: cannot be written: {error.strerror}") from None
    return manifest


def _export_vision(
    vision: VisionModel, config: VisionConfig, choices: Choices, folder: Path, shots: Sequence[parity.Picture]
) -> str:
    """Write the graphs in the precision that is asked for, or choose between the two of int8; return the precision."""
    if choices.vision != AUTO:
        export_graphs(vision, config, choices.vision, folder)
        return choices.vision
    export_graphs(vision, config, "int8", folder)
    step("comparing int8 per channel with torch")
    found, limit = parity.vision_cosine(folder, vision, shots), parity.COSINE["int8"]
    if found >= limit:
        return "int8"
    step(f"int8 per channel: cosine {found:.6f}, limit {limit}: taking 8-bit blocks, which are finer and slower")
    export_graphs(vision, config, "int8-block", folder)
    return "int8-block"


def _calibration(place: Path | None) -> tuple[list[Example], Importance | None]:
    """The examples of a folder, or the content of an importance file."""
    if place is None:
        return [], None
    if place.is_file():
        return [], read_importance(place)
    return read_examples(place, len(QUESTIONS)), None


def _measure_importance(examples: Sequence[Example], original: Original, template: Template) -> Importance:
    """Of the language model's matrices, over the prompts and reports of the examples."""
    llama = original.llama
    sequences = []
    with bar("looking at the pictures to calibrate with", unit=" pictures") as move:
        for number, example in enumerate(examples, 1):
            picture = parity.Picture(example.name, example.picture)
            embeds = torch.from_numpy(parity.vision_reference(original.vision, picture)["image_embeds"][0])
            sequences.append(sequence(llama, template, original.special, QUESTIONS, example.answers, embeds))
            move(number, len(examples))
    if (longest := max(map(len, sequences))) > llama.config.context:
        raise ExportError(
            f"a report to calibrate with is {longest} tokens long, but the model's context is {llama.config.context}"
        )
    return measure_importance(llama, sequences)


def _write_llm(llama: LlamaSource, choices: Choices, work: Path, target: Path, importance: Importance | None) -> None:
    kind, name = choices.llm_type, choices.name
    if kind in UNQUANTISED:
        with bar(f"writing {target.name}") as move:
            types = plain_types(F32 if kind == "f32" else F16)
            write_gguf(llama, target, types, file_types()[kind], name, move)
        return
    whole = work / "llm.f16.gguf"
    with bar("writing the language model as float16") as move:
        write_gguf(llama, whole, plain_types(F16), file_types()["f16"], name, move)
    with bar(f"quantising to {kind}") as move:
        quantise(whole, target, kind, move, importance)
    whole.unlink()


def _choose_type(
    folder: Path, original: Original, choices: Choices, shots: Sequence[parity.Picture],
    importance: Importance | None, work: Path,
) -> Manifest:  # fmt: skip
    """Compare the types of the bundle in `folder`, and give it the best one; its manifest keeps the figures."""
    embeds = [parity.vision_reference(original.vision, shot)["image_embeds"][0] for shot in shots]
    chosen = candidates(choices.types, calibrated=importance is not None)
    compared = compare_types(folder, original.llama, embeds, chosen, importance, work)
    rows = [one.figures for one in compared]
    best = compared[rows.index(choose(rows))]
    step(f"{table(rows)}\ntaking {best.candidate}")
    files = dict(best.bundle.manifest.files)
    if importance and not best.candidate.calibrated:
        del files[IMPORTANCE]
        (folder / IMPORTANCE).unlink()
    manifest = replace(best.bundle.manifest, files=files, compared_types=tuple(rows))
    (best.bundle.path / LLM).replace(folder / LLM)
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def compare_checkpoints(
    checkpoints: Checkpoints, target: Path, choices: Choices, pictures: Sequence[Path], count: Count | None = None
) -> list[TypeFigures]:
    """Compare all of `choices.types` for a model; bundles of them are left in `target`, an empty folder.

    Raises ExportError and what the stages raise.
    """
    choices.check()
    shots = [read_picture(path) for path in pictures]
    examples, importance = _calibration(choices.calibrate)
    if importance:
        importance.check(LlamaCheckpoint(LlamaFolder(checkpoints.llm)))
    whole = target / WHOLE
    export_bundle(checkpoints, whole, replace(choices, llm_type=WHOLE, calibrate=None, accept_parity=True), pictures)
    with _read(checkpoints, target) as original:
        if examples:
            importance = _measure_importance(examples, original, choices.template)
        embeds = [parity.vision_reference(original.vision, shot)["image_embeds"][0] for shot in shots]
        chosen = candidates(choices.types, calibrated=importance is not None)
        compared = compare_types(whole, original.llama, embeds, chosen, importance, target, count)
    (target / VISION).unlink()
    return [one.figures for one in compared]


def compare_shape(shape: str, target: Path, choices: Choices) -> list[TypeFigures]:
    """Compare size and speed of all of `choices.types` for random weights of a full shape.

    Bundles of them are left in `target`. Raises ExportError and what the stages raise.
    """
    choices.check()
    whole, config = target / WHOLE, SHAPES[shape].llama
    synthesise_bundle(shape, whole, replace(choices, llm_type=WHOLE))
    rows = np.random.default_rng(0).standard_normal((SHAPES[shape].vision.queries, config.width)).astype(np.float32)
    chosen = candidates(choices.types, calibrated=False)
    return [one.figures for one in compare_speed(whole, RandomLlama(config, whole), [0.02 * rows], chosen, target)]


def _sources(checkpoints: Checkpoints, llm: LlamaFolder) -> tuple[Source, ...]:
    single = {"vit": checkpoints.vit, "qformer": checkpoints.qformer, "adapter": checkpoints.adapter}
    found = [describe_source(role, path) for role, path in single.items()]
    found += [describe_source("llm", path) for path in (*llm.files, llm.folder / "tokenizer.model")]
    return tuple(found)


def synthesise_bundle(shape: str, target: Path, choices: Choices) -> Manifest:
    """Make a bundle of a full shape with random weights; it has no original and no parity."""
    choices.check()
    if choices.llm_type == AUTO:
        raise ExportError(f"llm type {AUTO!r} needs the original's checkpoints to compare with: name a type")
    sizes = SHAPES[shape]
    with new_bundle(target, force=choices.force) as (folder, work):
        shapes = expected_shapes(sizes.vision)
        save_float32(shapes, RandomTensors(shapes).tensor, work / VISION)
        vision = load_vision_model(sizes.vision, work / VISION)
        precision = "int8" if choices.vision == AUTO else choices.vision
        export_graphs(vision, sizes.vision, precision, folder)
        del vision
        (work / VISION).unlink()
        number = file_types()[choices.llm_type]
        with bar(f"making a random language model as {choices.llm_type}") as move:
            llama = random_llm(sizes.llama, choices.llm_type, number, work, folder / "llm.gguf", move)
        manifest = make_manifest(
            folder,
            name=choices.name,
            notice=SYNTHETIC_NOTICE,
            sources=(),
            vision=sizes.vision,
            precision=precision,
            llama=llama.config,
            llm_type=choices.llm_type,
            special=special_tokens(llama.folder),
            template=choices.template,
        )
        return _with_self_test(folder, manifest)
