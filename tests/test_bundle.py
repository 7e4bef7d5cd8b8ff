"""A bundle is opened only whole, unchanged and known."""

import json
import os
import shutil
from pathlib import Path

import pytest
from skingpt_edge.engines.errors import BundleError
from skingpt_edge.runtime import bundle as bundle_module
from skingpt_edge.runtime.bundle import MANIFEST, open_bundle, read_bundle
from skingpt_edge.runtime.manifest import read_manifest
from skingpt_edge.runtime.skingpt import SkinGPT
from support import FORMAT_1


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
    assert read_manifest(opened.manifest.to_json()) == opened.manifest


CHANGES = {
    "an unknown format": (lambda d: d.update(format=2), r"format 2, this runtime reads format 1"),
    "no format": (lambda d: d.pop("format"), r"format None"),
    "an unknown field": (lambda d: d["llm"].update(speed=1), r"llm: unknown field 'speed'"),
    "a missing field": (lambda d: d["image"].pop("std"), r"image: field 'std' is missing"),
    "another type": (lambda d: d["image"].update(size="224"), r"image.size: '224' is not of the expected type int"),
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

    def spy(path, progress=None):
        hashed.append(path.name)
        return original(path, progress)

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
    import hashlib

    for content in (b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, os.urandom(5000)):
        (copy / "llm.gguf").write_bytes(content)
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        edit(copy, lambda d, entry=entry: d["files"].update({"llm.gguf": entry}))
        with pytest.raises(BundleError, match=r"llm.gguf: not a GGUF file"):
            open_bundle(copy)


def test_a_file_that_is_no_graph_is_refused(copy):
    import hashlib

    (copy / "qformer.onnx").write_bytes(b"no graph")
    entry = {"size": 8, "sha256": hashlib.sha256(b"no graph").hexdigest()}
    edit(copy, lambda d: d["files"].update({"qformer.onnx": entry}))
    with pytest.raises(BundleError, match=r"qformer.onnx: ONNX Runtime cannot load it"):
        SkinGPT.open(copy)
