"""A bundle's self-test: the same small picture and question, computed where it was made and where it is verified.

Hashes show that the files are what the manifest says. The self-test shows that this machine's engines compute from them
what the exporting machine's did.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..engines.base import Floats, LanguageModel
from ..engines.errors import BundleError, EngineUnavailable, NumericalError, SkinGPTError
from ..engines.gguf_header import check_finite, read_gguf_header
from ..engines.onnx_file import check_onnx_file
from .bundle import Bundle, read_bundle
from .check_picture import spread, test_picture
from .image import preprocess
from .loading import load
from .manifest import Manifest, SelfTest
from .options import Options
from .prompt import Special, build_prompt
from .resolving import resolve
from .skingpt import SkinGPT
from .vision import as_embedding

LARGEST = 32
LIMIT = 0.1
"""Largest difference of stored and found values, as a part of the stored ones' length.

With the demonstration bundle, threads, batches, layouts and types of the KV cache moved it by at most 0.003.
"""


def run_self_test(bundle: Bundle, options: Options, tokens: Sequence[int] = ()) -> SelfTest:
    """Load a bundle and compute what its manifest stores: logits of `tokens`, or of those chosen for a new self-test.

    Raises BundleError, EngineError, InputError.
    """
    setup = resolve(bundle, options)
    engines = load(bundle, setup)
    manifest, llm = bundle.manifest, engines.language_model
    with SkinGPT(bundle, engines, setup) as model:
        stages = model.vision.embed_pixels(preprocess(test_picture(), manifest.image))
        image = as_embedding(stages, {}, hashlib.sha256().hexdigest(), "self-test")
        logits = model.first_logits(image, manifest.questions[0].question)
        tokenizer = _tokenizer_sha256(manifest, llm)
    if not (np.isfinite(image.embeds).all() and np.isfinite(logits).all()):
        raise NumericalError("the self-test gives NaN or infinity")
    largest = np.argsort(-logits, kind="stable")[:LARGEST].tolist()
    chosen = [token for token in tokens if token < len(logits)] or sorted({*spread(len(logits)), *largest})
    values = image.embeds.ravel()
    return SelfTest(
        tokenizer_sha256=tokenizer,
        image_embeds=tuple(_rounded(values[spread(len(values))])),
        logits=dict(zip(map(str, chosen), _rounded(logits[chosen]), strict=True)),
    )


def compare(stored: SelfTest, found: SelfTest) -> None:
    """Raises BundleError if a bundle does not compute here what it did where it was made."""
    if found.tokenizer_sha256 != stored.tokenizer_sha256:
        raise BundleError("self-test: the tokenizer or the prompt's template is not the one the bundle was made with")
    logits = {token: found.logits.get(token, np.nan) for token in stored.logits}
    pairs = {
        "image embeddings": (stored.image_embeds, found.image_embeds),
        "logits": (list(stored.logits.values()), list(logits.values())),
    }
    for what, (expected, computed) in pairs.items():
        if len(expected) != len(computed) or not _difference(expected, computed) <= LIMIT:
            raise BundleError(
                f"self-test: the {what} differ from those of the machine that made the bundle: "
                "its files, this processor or the engines' versions do not compute the same"
            )


def _difference(expected: Sequence[float], computed: Sequence[float]) -> float:
    """Length of the difference as a part of the expected values' length, both without their mean."""
    a, b = (np.asarray(values) - np.mean(values) for values in (expected, computed))
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _tokenizer_sha256(manifest: Manifest, model: LanguageModel) -> str:
    digest = hashlib.sha256()
    for token in range(model.n_vocab):
        data = model.token_bytes(token)
        digest.update(len(data).to_bytes(4, "little") + data)
    for item in manifest.questions:
        prompt = build_prompt(manifest.template, manifest.llm.special_tokens, (), item.question)
        parts: Iterable[str | Special] = (prompt.before, *prompt.after)
        ids = [[part.token] if isinstance(part, Special) else model.tokenize(part, bos=False) for part in parts]
        digest.update(repr(ids).encode())
    return digest.hexdigest()


class SelfTestRun:
    """A bundle's weights checked and its self-test made, for a `Worker`: a crash must not end the user's process."""

    def __init__(self, path: str, threads: int, fingerprint: dict[str, list[str | int]]) -> None:
        """`fingerprint`: of the files that were hashed.

        Raises BundleError for whatever is wrong with the bundle, EngineUnavailable.
        """
        bundle = read_bundle(Path(path))
        if {name: list(one) for name, one in bundle.fingerprint.items()} != fingerprint:
            raise BundleError(f"{path}: its files were changed or replaced while they were checked")
        try:
            self._run(bundle, Options(threads=threads, tuning=False, prompt_snapshot=False))
        except (BundleError, EngineUnavailable):
            raise
        except SkinGPTError as error:
            raise BundleError(str(error)) from error

    def _run(self, bundle: Bundle, options: Options) -> None:
        manifest = bundle.manifest
        for graph in (manifest.vision.encoder, manifest.vision.qformer):
            check_onnx_file(bundle.file(graph))
        llm = bundle.file(manifest.llm.file)
        check_finite(llm, read_gguf_header(llm))
        stored = manifest.self_test.logits if manifest.self_test else {}
        # The largest logits here need not be those of the machine that made the bundle.
        found = run_self_test(bundle, options, [int(token) for token in stored if token.isdecimal()])
        if manifest.self_test:
            compare(manifest.self_test, found)
