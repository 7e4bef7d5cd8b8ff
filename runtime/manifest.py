"""Reads and checks `bundle.json`, the description of a bundle.

Format 4 is written; formats 1 to 3 are read, too. An unknown format or field is an error, because ignoring it could
change what is computed.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from reprlib import repr as _short
from typing import Any, get_args, get_origin, get_type_hints

from ..engines.base import KV_TYPES
from ..engines.errors import BundleError, InputError
from .sampling import GenerationConfig

FORMAT = 4
MANIFEST = "bundle.json"
MIN_CONTEXT, MAX_CONTEXT = 64, 32768
MAX_IMAGE_SIZE = 1024
MAX_NUMBER = 1e30  # beyond it a value is a mistake, and may not fit a float
MIN_STD, MAX_PIXEL_NUMBER = 1e-6, 10
IMAGE_MARK = "<ImageHere>"
"""Stands for the picture in a template and in a prompt's text."""
STAGES = ("pixels", "image_features", "query_output", "image_embeds", "first_logits")


@dataclass(frozen=True)
class FileEntry:
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A file that the bundle was made from."""

    role: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    exporter: str
    created: str
    sources: tuple[Source, ...]
    tools: dict[str, str]


@dataclass(frozen=True)
class ImageSpec:
    """Pixels are the picture resized to size × size, / 255, minus mean, / std, per RGB channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Shapes:
    """What each stage gives for one picture, without the batch dimension."""

    image_features: tuple[int, ...]
    query_output: tuple[int, ...]
    image_embeds: tuple[int, ...]
    vocabulary: int


@dataclass(frozen=True)
class VisionPart:
    encoder: str
    qformer: str
    precision: str
    """What `skingpt-export bundle --vision` calls weights and arithmetic together."""
    weights: str
    """Type that the matrices are stored in."""
    arithmetic: str
    """Type that they are multiplied in. Norms and sums along the layers are float32 in every precision."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are no text. The original's tokenizer writes them `<unk>`, `<s>` and `</s>`."""

    unk: int
    bos: int
    eos: int

    @property
    def by_text(self) -> dict[str, int]:
        return {"<unk>": self.unk, "<s>": self.bos, "</s>": self.eos}


FORMAT_1_SPECIAL_TOKENS = {"unk": 0, "bos": 1, "eos": 2}
"""Format 1 did not name them: every bundle was of a Llama with these."""

FORMAT_2_TYPES = {
    "f32": {"weights": "float32", "arithmetic": "float32"},
    "f16": {"weights": "float16", "arithmetic": "float32"},
    "int8": {"weights": "int8", "arithmetic": "int8"},
    "int8-block": {"weights": "int8", "arithmetic": "int8"},
}
"""Formats 1 and 2 named only the precision. `f16` was how weights were stored, and they were cast up to multiply."""
MATRIX_TYPES = ("float32", "float16", "int8")
"""What the graphs' matrices can be stored and multiplied in."""


@dataclass(frozen=True)
class LanguagePart:
    file: str
    type: str
    kv_type: str
    flash_attention: bool
    context: int
    """Default size of the context in tokens; the image's embeddings count as tokens."""
    special_tokens: SpecialTokens


@dataclass(frozen=True)
class Template:
    """How a conversation becomes the prompt; see `prompt.py`."""

    system: str
    first: str
    """The first turn, with `<ImageHere>` and `{question}`."""
    next: str
    """Each further turn, with `{question}`."""
    answer: str
    """What an answer adds to the prompt, with `{answer}`."""
    stop: tuple[str, ...]
    answer_after: str
    """An answer is what follows the last of these words; empty: all of it."""


@dataclass(frozen=True)
class GenerationDefaults:
    max_new_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Question:
    """One question of the protocol and the section of the report that its answer is."""

    section: str
    question: str


@dataclass(frozen=True)
class StageParity:
    """The worst of all pictures, against the original in torch float32."""

    max_abs: float
    scale: float
    """Largest absolute value of the original's output, to judge max_abs by."""
    cosine: float


@dataclass(frozen=True)
class TokenParity:
    """Greedy tokens against the original's."""

    compared: int
    free_running: int
    """Tokens equal before the first difference, summed over the pictures."""
    teacher_forced: float
    """Fraction of positions where both choose the same token after the same text."""


@dataclass(frozen=True)
class Parity:
    """How close the bundle computes the original's function; measured by the exporter."""

    pictures: int
    stages: dict[str, StageParity]
    llm: TokenParity
    """The language model alone, given the original's image embeddings."""
    end_to_end: TokenParity
    failures: tuple[str, ...]
    """Limits that were not met; a bundle with any was accepted by hand with `--accept-parity`."""


@dataclass(frozen=True)
class TypeFigures:
    """A type of the language model's weights, measured by the exporter beside others."""

    type: str
    calibrated: bool
    size: int
    """Bytes of the file."""
    token_ms: float
    """Milliseconds of a generated token, on the exporter's machine."""
    prompt_ms: float
    """Milliseconds of an item of a prompt, on the exporter's machine."""
    tokens: int
    """Positions compared with the original in float32, along the same answers."""
    agreeing: int
    """Positions at which both choose the same token."""
    divergence: float
    """Mean Kullback-Leibler divergence from the original's distribution, in nats."""
    right: int
    """Attributes that its answers about held-out drawings say right, and of how many; 0 of 0: not counted."""
    of: int


@dataclass(frozen=True)
class SelfTest:
    """What the bundle computed where it was made; `self_test.py` computes it again where the bundle is verified."""

    tokenizer_sha256: str
    """Of the bytes of every token and of the token ids of each question's prompt."""
    image_embeds: tuple[float, ...]
    """Values of the test picture's embeddings, evenly spaced among all."""
    logits: dict[str, float]
    """Of the first question's answer: token id to logit, the largest and evenly spaced ones."""


@dataclass(frozen=True)
class Manifest:
    format: int
    """The format that the file was written in."""
    name: str
    notice: str
    provenance: Provenance
    files: dict[str, FileEntry]
    image: ImageSpec
    shapes: Shapes
    vision: VisionPart
    llm: LanguagePart
    template: Template
    generation: GenerationDefaults
    questions: tuple[Question, ...]
    parity: Parity | None
    """None: a synthetic bundle, which has no original."""
    self_test: SelfTest | None
    """None: made before bundles had one (format 1)."""
    compared_types: tuple[TypeFigures, ...] = ()
    """What the language model's type was chosen from; empty if it was named, and before format 4."""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "format": FORMAT}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(text: str) -> Manifest:
    """Parse and validate `bundle.json`. Raises BundleError naming the field."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise BundleError(f"{MANIFEST}: expected an object")
    found = data.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise BundleError(f"{MANIFEST}: this is format {_short(found)}, this runtime reads formats 1 to {FORMAT}")
    if found == 1 and isinstance(data.get("llm"), dict):
        _complete(data, MANIFEST, 1, {"self_test": None})
        _complete(data["llm"], f"{MANIFEST}.llm", 1, {"special_tokens": dict(FORMAT_1_SPECIAL_TOKENS)})
    if found < 4:
        _complete(data, MANIFEST, found, {"compared_types": []})
    if found < 3 and isinstance(data.get("vision"), dict):
        _complete(data["vision"], f"{MANIFEST}.vision", found, _types(data["vision"].get("precision")))
    manifest: Manifest = _parse(Manifest, data, MANIFEST)
    _check(manifest)
    return manifest


def _complete(part: dict[str, Any], where: str, version: int, missing: Mapping[str, Any]) -> None:
    """Give a part of an earlier format the fields that it did not have."""
    for name, value in missing.items():
        if name in part:
            raise BundleError(f"{where}: unknown field {name!r} in format {version}")
        part[name] = value


def _types(precision: Any) -> dict[str, str]:
    """Types of weights and arithmetic of a precision before format 3."""
    if not isinstance(precision, str) or precision not in FORMAT_2_TYPES:
        known = ", ".join(FORMAT_2_TYPES)
        raise BundleError(f"{MANIFEST}: vision.precision is {_short(precision)}; known are {known}")
    return FORMAT_2_TYPES[precision]


def _check(manifest: Manifest) -> None:
    vision, llm, shapes = manifest.vision, manifest.llm, manifest.shapes
    for name in (vision.encoder, vision.qformer, llm.file):
        if name not in manifest.files:
            raise BundleError(f"{MANIFEST}: {_short(name)} is used but not listed in files")
    mean, std = manifest.image.mean, manifest.image.std
    if len(mean) != 3 or len(std) != 3 or min(std) < MIN_STD:
        raise BundleError(f"{MANIFEST}: image.mean and image.std need three numbers, std of at least {MIN_STD}")
    if shapes.vocabulary < 1 or any(len(shape) != 2 or min(shape) < 1 for shape in _arrays(shapes)):
        raise BundleError(f"{MANIFEST}: shapes must be pairs of positive numbers")
    if max(map(abs, (*mean, *std))) > MAX_PIXEL_NUMBER:
        raise BundleError(f"{MANIFEST}: image.mean and image.std must be at most {MAX_PIXEL_NUMBER}: pixels are 0 to 1")
    _check_range("image.size", manifest.image.size, 1, MAX_IMAGE_SIZE)
    _check_range("llm.context", llm.context, MIN_CONTEXT, MAX_CONTEXT)
    _check_known("vision.weights", vision.weights, MATRIX_TYPES)
    _check_known("vision.arithmetic", vision.arithmetic, MATRIX_TYPES)
    _check_known("llm.kv_type", llm.kv_type, KV_TYPES)
    if llm.kv_type == "q8_0" and not llm.flash_attention:
        raise BundleError(f"{MANIFEST}: llm.kv_type q8_0 needs llm.flash_attention")
    special = llm.special_tokens
    if len(set(special.by_text.values())) != len(special.by_text):
        raise BundleError(f"{MANIFEST}: llm.special_tokens must be three different tokens")
    for name, token in special.by_text.items():
        _check_range(f"llm.special_tokens, {name},", token, 0, shapes.vocabulary - 1)
    if manifest.parity and set(manifest.parity.stages) != set(STAGES):
        raise BundleError(f"{MANIFEST}: parity.stages must be {', '.join(STAGES)}")
    if not manifest.questions:
        raise BundleError(f"{MANIFEST}: there is no question in questions")
    given = manifest.generation
    try:
        GenerationConfig(given.max_new_tokens, given.temperature, given.top_p)
    except InputError as error:
        raise BundleError(f"{MANIFEST}: generation: {error}") from None
    check_template(manifest.template, f"{MANIFEST}: template")


def _check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BundleError(f"{MANIFEST}: {name} is {_short(value)}; known are {', '.join(known)}")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BundleError(f"{MANIFEST}: {name} is {value}, expected {low} to {high}")


def parse_template(data: Any, where: str) -> Template:
    """A template from parsed JSON. Raises BundleError naming the field."""
    template: Template = _parse(Template, data, where)
    return template


def check_template(template: Template, where: str) -> None:
    """Raises BundleError if a placeholder is missing, double or in the wrong order."""
    if template.first.count(IMAGE_MARK) != 1 or template.first.count("{question}") != 1:
        raise BundleError(f"{where}: `first` needs {IMAGE_MARK} and {{question}} once each")
    if template.first.index(IMAGE_MARK) > template.first.index("{question}"):
        raise BundleError(f"{where}: `first` needs {IMAGE_MARK} before {{question}}")
    if IMAGE_MARK in template.system:
        raise BundleError(f"{where}: `system` must not hold {IMAGE_MARK}")
    if template.next.count("{question}") != 1 or template.answer.count("{answer}") != 1:
        raise BundleError(f"{where}: `next` needs {{question}} and `answer` {{answer}}, once")
    if "" in template.stop:
        raise BundleError(f"{where}: an empty stop string would stop every answer")


def _arrays(shapes: Shapes) -> tuple[tuple[int, ...], ...]:
    return shapes.image_features, shapes.query_output, shapes.image_embeds


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`: a dataclass, tuple, dict, optional or plain type."""
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _parse(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float) and -MAX_NUMBER < value < MAX_NUMBER:
        return float(value)
    if type(value) is not kind or kind is float:
        raise BundleError(f"{where}: {_short(value)} is not of the expected type {getattr(kind, '__name__', kind)}")
    return value


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where}: expected an object, got {_short(value)}")
    names = {field.name for field in fields(kind)}
    if unknown := sorted(value.keys() - names):
        raise BundleError(
            f"{where}: unknown field {_short(unknown[0])}: written for a newer runtime than this one (format {FORMAT})?"
        )
    if missing := sorted(names - value.keys()):
        raise BundleError(f"{where}: field {missing[0]!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _parse(hints[name], item, f"{where}.{name}") for name, item in value.items()})
