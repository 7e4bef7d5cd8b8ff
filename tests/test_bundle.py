"""A bundle is opened only whole, unchanged and known."""

import hashlib
import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from skingpt_edge.engines.errors import BundleError, EngineError, InputError
from skingpt_edge.runtime import bundle as bundle_module
from skingpt_edge.runtime.bundle import MANIFEST, read_bundle
from skingpt_edge.runtime.manifest import SpecialTokens, read_manifest
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.sampling import GenerationConfig
from skingpt_edge.runtime.skingpt import SkinGPT
from skingpt_edge.runtime.verification import open_bundle
from support import FORMAT_1, FORMAT_2, GOLDEN


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(FORMAT_1, tmp_path / "bundle"))


def edit(folder: Path, change) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def test_the_bundle_of_format_1_is_read_for_ever():
    opened = open_bundle(FORMAT_1)
    assert opened.manifest.format == 1
    assert opened.manifest.llm.special_tokens == SpecialTokens(0, 1, 2)
    assert read_manifest(opened.manifest.to_json()) == replace(opened.manifest, format=4)


@pytest.fixture
def format_2(copy) -> Path:
    (copy / MANIFEST).write_bytes(FORMAT_2.read_bytes())
    return copy


def test_the_bundle_of_format_2_is_read_for_ever(format_2):
    opened = open_bundle(format_2)
    assert opened.manifest.format == 2
    numbers = {"weights": "int8", "arithmetic": "int8"}
    expected = json.loads(FORMAT_2.read_text())
    expected.update(format=4, vision=expected["vision"] | numbers, compared_types=[])
    assert json.loads(opened.manifest.to_json()) == expected
    assert opened.manifest.llm.special_tokens == SpecialTokens(0, 1, 2)


def test_a_bundle_of_format_3_is_read_for_ever(format_2):
    """It had no figures of other types, and was else what format 4 is."""
    current = json.loads(open_bundle(format_2).manifest.to_json())
    assert current.pop("compared_types") == []
    (format_2 / MANIFEST).write_text(json.dumps({**current, "format": 3}))
    opened = open_bundle(format_2)
    assert (opened.manifest.format, opened.manifest.compared_types) == (3, ())
    with pytest.raises(BundleError, match="unknown field 'compared_types' in format 3"):
        read_manifest(json.dumps({**current, "format": 3, "compared_types": []}))


@pytest.mark.parametrize("field", ["weights", "arithmetic"])
def test_a_type_of_matrices_that_is_unknown_is_refused(field, format_2):
    current = json.loads(open_bundle(format_2).manifest.to_json())
    current["vision"][field] = "fp32"
    with pytest.raises(BundleError, match=rf"vision.{field} is 'fp32'; known are float32, float16, int8"):
        read_manifest(json.dumps(current))


@pytest.mark.parametrize(("precision", "weights", "arithmetic"), [
    ("f32", "float32", "float32"), ("f16", "float16", "float32"), ("int8", "int8", "int8"),
    ("int8-block", "int8", "int8"),
])  # fmt: skip
def test_float16_was_only_a_way_to_store_weights_before_format_3(precision, weights, arithmetic, format_2):
    edit(format_2, lambda d: d["vision"].update(precision=precision))
    vision = read_bundle(format_2).manifest.vision
    assert (vision.precision, vision.weights, vision.arithmetic) == (precision, weights, arithmetic)


def test_special_tokens_of_format_2_are_its_own(format_2):
    edit(format_2, lambda d: d["llm"].pop("special_tokens"))
    with pytest.raises(BundleError, match="llm: field 'special_tokens' is missing"):
        read_bundle(format_2)


SPECIAL = {
    "other tokens than the model's file": ({"unk": 0, "bos": 1, "eos": 5}, "its eos token is 2, bundle.json says 5"),
    "one token for two": ({"unk": 0, "bos": 1, "eos": 1}, "must be three different tokens"),
    "a token beyond the vocabulary": ({"unk": 0, "bos": 1, "eos": 10**6}, "special_tokens, </s>, is 1000000, expected"),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_a_manifest_with_special_tokens_is_refused(name, format_2):
    tokens, words = SPECIAL[name]
    edit(format_2, lambda d: d["llm"].update(special_tokens=tokens))
    with pytest.raises(BundleError, match=words):
        open_bundle(format_2)


def test_an_answer_is_the_same_in_either_format(format_2):
    image = (GOLDEN / "images/00.jpg").read_bytes()
    answers = []
    for folder in (FORMAT_1, format_2):
        with SkinGPT.open(folder) as model:
            answers.append(model.ask(model.embed(image), "What?", GenerationConfig(12)).token_ids)
    assert answers[0] == answers[1]


CHANGES = {
    "an unknown format": (lambda d: d.update(format=5), r"format 5, this runtime reads formats 1 to 4"),
    "a field of format 2": (
        lambda d: d["llm"].update(special_tokens={}),
        r"unknown field 'special_tokens' in format 1",
    ),
    "a field of format 3": (
        lambda d: d["vision"].update(arithmetic="float16"),
        r"vision: unknown field 'arithmetic' in format 1",
    ),
    "an unknown precision": (lambda d: d["vision"].update(precision="f8"), r"vision.precision is 'f8'; known are f32"),
    "a self-test in format 1": (lambda d: d.update(self_test=None), r"unknown field 'self_test' in format 1"),
    "a mean beyond any pixel": (lambda d: d["image"].update(mean=[0.5, 0.5, 2**31]), r"must be at most 10"),
    "no format": (lambda d: d.pop("format"), r"format None"),
    "an unknown field": (lambda d: d["llm"].update(speed=1), r"llm: unknown field 'speed'"),
    "a missing field": (lambda d: d["image"].pop("std"), r"image: field 'std' is missing"),
    "another type": (lambda d: d["image"].update(size="224"), r"image.size: '224' is not of the expected type int"),
    "a long text for a number": (lambda d: d["image"].update(size="x" * 5000), r"image.size: 'x+\.\.\.x+' is"),
    "a truth for a number": (lambda d: d["image"].update(size=True), r"image.size: True"),
    "a path upwards": (lambda d: d["files"].update({"../x": d["files"].pop("llm.gguf")}), r"not listed|plain file"),
    "a file not listed": (lambda d: d["llm"].update(file="other.gguf"), r"'other.gguf' is used but not listed"),
    "another size": (lambda d: d["files"]["llm.gguf"].update(size=7), r"llm.gguf: \d+ bytes, expected 7"),
    "no question in the template": (lambda d: d["template"].update(next="x"), r"template: `next` needs"),
    "an empty stop string": (lambda d: d["template"].update(stop=[""]), r"empty stop"),
    "a negative shape": (lambda d: d["shapes"].update(image_embeds=[32, -1]), r"pairs of positive"),
    "a huge context": (lambda d: d["llm"].update(context=10**9), r"llm.context is 1000000000, expected 64 to"),
    "a huge image": (lambda d: d["image"].update(size=10**9), r"image.size is 1000000000, expected 1 to"),
    "an unknown KV type": (lambda d: d["llm"].update(kv_type="q1"), r"kv_type is 'q1'; known are f32"),
    "no questions": (lambda d: d.update(questions=[]), r"no question"),
    "a temperature below zero": (lambda d: d["generation"].update(temperature=-1), r"generation: temperature is -1"),
    "an infinite number": (lambda d: d["image"].update(mean=[float("inf")] * 3), r"not a number"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_with_is_refused(name, copy):
    change, words = CHANGES[name]
    edit(copy, change)
    with pytest.raises(BundleError, match=words):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../escape.gguf", "not a plain file name"),
        ("/etc/passwd", "not a plain file name"),
        ("a/b", "not a plain file name"),
        (".hidden", "not a plain file name"),
        ("gone.bin", "missing from"),
    ],
)
def test_a_listed_name_that_is_not_a_plain_file_here_is_refused(name, words, copy):
    edit(copy, lambda d: d["files"].update({name: {"size": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match=words):
        read_bundle(copy)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 1, "format": 1}', '{"format": NaN}', "[" * 100_000, "\ufeff{}"],
)
def test_what_is_no_manifest_is_refused(text, copy):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=MANIFEST):
        read_bundle(copy)


def test_a_number_too_large_for_a_float_is_refused(copy):
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace('"top_p": 0.9', '"top_p": 1e999'))
    with pytest.raises(BundleError, match=r"generation.top_p: inf is not of the expected type float"):
        read_bundle(copy)


def test_a_missing_bundle_and_an_empty_directory_are_named(tmp_path):
    with pytest.raises(BundleError, match="no such directory"):
        read_bundle(tmp_path / "gone")
    with pytest.raises(BundleError, match=f"has no {MANIFEST}"):
        read_bundle(tmp_path)


def test_a_file_too_many_is_refused(copy):
    (copy / "evil.so").write_bytes(b"")
    with pytest.raises(BundleError, match=r"evil.so: in the bundle but not listed"):
        read_bundle(copy)


def test_links_are_refused(copy, tmp_path):
    (copy / "llm.gguf").rename(tmp_path / "elsewhere.gguf")
    (copy / "llm.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(BundleError, match=r"llm.gguf: a link"):
        read_bundle(copy)


def test_one_flipped_bit_is_found_at_the_first_opening(copy):
    flip(copy / "vision_encoder.onnx.data")
    with pytest.raises(BundleError, match=r"vision_encoder.onnx.data: its content has changed"):
        open_bundle(copy)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_hashes_are_computed_once_and_again_when_a_file_is_touched(copy, monkeypatch):
    hashed = []
    original = bundle_module.hash_file

    def spy(path, *others):
        hashed.append(path.name)
        return original(path, *others)

    monkeypatch.setattr(bundle_module, "hash_file", spy)
    open_bundle(copy)
    assert len(hashed) == 5
    open_bundle(copy)
    assert len(hashed) == 5
    open_bundle(copy, verify=True)
    assert len(hashed) == 10
    os.utime(copy / "llm.gguf", ns=(1, 1))
    open_bundle(copy)
    assert len(hashed) == 15


def test_it_opens_without_a_cache_to_write_to(copy, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_bundle(copy).manifest.format == 1


def test_the_language_models_own_header_is_compared(copy):
    edit(copy, lambda d: d["shapes"].update(vocabulary=32000))
    with pytest.raises(BundleError, match=r"768 pieces, but bundle.json says width 256 and 32000"):
        open_bundle(copy)
    edit(copy, lambda d: d["shapes"].update(vocabulary=768, image_embeds=[32, 512]))
    with pytest.raises(BundleError, match=r"width 256 and 768 pieces, but bundle.json says width 512"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("shape", "graph"), [("image_features", "vision_encoder.onnx"), ("query_output", "qformer.onnx")]
)
def test_the_graphs_own_headers_are_compared(shape, graph, copy):
    edit(copy, lambda d: d["shapes"].update({shape: [257, 1408]}))
    with pytest.raises(BundleError, match=rf"{graph}: its tensors are"):
        SkinGPT.open(copy)


def test_a_file_that_is_no_gguf_is_refused_without_a_crash(copy):
    for content in (b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, os.urandom(5000)):
        replace_llm(copy, content)
        with pytest.raises(BundleError, match=r"llm.gguf: not a GGUF file"):
            open_bundle(copy)


def replace_llm(folder: Path, content: bytes) -> None:
    """Another language model, with a manifest that agrees."""
    (folder / "llm.gguf").write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda d: d["files"].update({"llm.gguf": entry}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", struct.pack("<I", 0)),
        ("llama.context_length", struct.pack("<I", 2**32 - 1)),
        ("llama.rope.freq_base", struct.pack("<f", 1e30)),
        ("llama.rope.dimension_count", struct.pack("<I", 7)),
        ("llama.vocab_size", struct.pack("<I", 2**31)),
        ("llama.block_count", struct.pack("<I", 2**31 - 1)),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", -1)),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", float("nan"))),
        ("llama.rope.freq_base", struct.pack("<f", float("inf"))),
        ("tokenizer.ggml.eos_token_id", struct.pack("<I", 100_000)),
    ],
)
def test_a_header_that_would_abort_llama_cpp_is_refused(key, value, copy):
    data = bytearray((copy / "llm.gguf").read_bytes())
    at = data.index(key.encode()) + len(key) + 4  # past the name and the value's type
    data[at : at + 4] = value
    replace_llm(copy, bytes(data))
    with pytest.raises(BundleError, match=f"llm.gguf: {key} is"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"llama.rope.dimension_count", b"llama.attention.key_length", "unknown key 'llama.attention.key_length'"),
        (b"<0x41>", b"<0x42>", "tokens 68 and 69 have the same text '<0x42>'"),  # llama.cpp would end the process
        (b"<0x41>", b"<0x4x>", "token 68 stands for a byte, but its text is"),
        (b"<0x41>", b"\xff\xff\xff\xff\xff\xff", "token 68 is not UTF-8"),
    ],
)
def test_a_header_that_no_exporter_writes_is_refused(old, new, words, copy):
    replace_llm(copy, (copy / "llm.gguf").read_bytes().replace(old, new))
    with pytest.raises(BundleError, match=words):
        open_bundle(copy)


def test_a_language_model_cut_short_is_refused(copy):
    data = (copy / "llm.gguf").read_bytes()
    replace_llm(copy, data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"llm.gguf: it ends before its last tensor"):
        open_bundle(copy)


def test_a_type_the_language_model_has_not_is_refused(copy):
    edit(copy, lambda d: d["llm"].update(type="f32"))
    with pytest.raises(BundleError, match=r"its type is q8_0, bundle.json says f32"):
        open_bundle(copy)


def test_a_closed_model_is_an_error_and_closing_twice_is_none():
    model = SkinGPT.open(FORMAT_1)
    image = model.embed((GOLDEN / "images/00.jpg").read_bytes())
    model.close()
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.ask(image, "What?")
    with pytest.raises(EngineError, match="closed"):
        model.embed((GOLDEN / "images/00.jpg").read_bytes())


def test_more_context_than_the_model_was_trained_for_is_refused():
    with pytest.raises(InputError, match="context is 4096, but this model was trained for at most 2048"):
        SkinGPT.open(FORMAT_1, options=Options(context=4096))


def test_two_copies_of_a_bundle_are_each_hashed_once(copy, tmp_path, monkeypatch):
    other = shutil.copytree(copy, tmp_path / "other")
    hashed = []
    original = bundle_module.hash_file
    monkeypatch.setattr(
        bundle_module, "hash_file", lambda path, *others: (hashed.append(path), original(path, *others))[1]
    )
    for folder in (copy, other, copy, other):
        open_bundle(folder)
    assert len(hashed) == 10


def test_a_file_that_is_no_graph_is_refused(copy):
    (copy / "qformer.onnx").write_bytes(b"no graph")
    entry = {"size": 8, "sha256": hashlib.sha256(b"no graph").hexdigest()}
    edit(copy, lambda d: d["files"].update({"qformer.onnx": entry}))
    with pytest.raises(BundleError, match=r"qformer.onnx: not a readable ONNX graph"):
        SkinGPT.open(copy)
