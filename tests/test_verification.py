"""A bundle counts as verified only for what was really read, loaded and computed, on this machine and by this user."""

import hashlib
import json
import os
import shutil
import signal
import stat
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from skingpt_edge.engines.errors import BundleError, EngineError
from skingpt_edge.runtime import loading, verification
from skingpt_edge.runtime.bundle import MANIFEST, default_bundle, read_bundle
from skingpt_edge.runtime.cache_folder import cache_folder, keep, read_kept
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.self_test import run_self_test
from skingpt_edge.runtime.skingpt import SkinGPT
from skingpt_edge.runtime.verification import open_bundle, was_verified
from support import FORMAT_1, run

PICTURES = default_bundle().parent / "pictures"


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Path:
    """A copy of the demonstration bundle, and a cache that knows nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(default_bundle(), tmp_path / "bundle"))


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Other content of a file, with a manifest that agrees."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit(folder: Path, change) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def other_weights(path: Path) -> bytes:
    """The file's content with another number in it, of the same size."""
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    return bytes(data)


def test_a_file_swapped_while_others_are_hashed_is_refused_and_not_remembered(bundle, tmp_path):
    evil = tmp_path / "evil.gguf"
    evil.write_bytes(other_weights(bundle / "llm.gguf"))

    def swap(name: str, done: int, size: int) -> None:
        if name == "vision_encoder.onnx.data" and evil.exists():  # llm.gguf was hashed before it
            evil.replace(bundle / "llm.gguf")

    with pytest.raises(BundleError, match=r"llm.gguf: was changed or replaced"):
        open_bundle(bundle, progress=swap)
    with pytest.raises(BundleError, match=r"llm.gguf: its content has changed"):
        open_bundle(bundle)


@pytest.mark.parametrize("back", ["hashed", "self-test", "never"])
def test_a_good_folder_put_in_the_place_of_a_damaged_one_meanwhile_is_refused(back, bundle, tmp_path):
    good = shutil.copytree(bundle, tmp_path / "good")
    (bundle / "llm.gguf").write_bytes(other_weights(bundle / "llm.gguf"))
    away = tmp_path / "away"

    def exchange(name: str, done: int, size: int) -> None:
        if name == "qformer.onnx" and back == "hashed" and away.exists():
            bundle.rename(good)
            away.rename(bundle)
        if name == "self-test" and back == "self-test" and away.exists():
            bundle.rename(good)
            away.rename(bundle)

    damaged = read_bundle(bundle)
    bundle.rename(away)
    good.rename(bundle)
    with pytest.raises(BundleError, match="was changed or replaced"):
        verification.verify_bundle(damaged, exchange)
    if away.exists():
        bundle.rename(good)
        away.rename(bundle)
    assert not was_verified(read_bundle(bundle))


def test_a_file_changed_while_it_is_loaded_is_refused(bundle, monkeypatch):
    opened = open_bundle(bundle)
    original = loading.load_language_model

    def load_and_change(*arguments):
        model = original(*arguments)
        (bundle / "llm.gguf").write_bytes(other_weights(bundle / "llm.gguf"))
        return model

    monkeypatch.setattr(loading, "load_language_model", load_and_change)
    with pytest.raises(BundleError, match=r"llm.gguf: was changed or replaced"):
        SkinGPT.from_bundle(opened)


def test_content_changed_in_place_at_the_same_size_and_time_is_found(bundle):
    open_bundle(bundle)
    before = (bundle / "llm.gguf").stat()
    (bundle / "llm.gguf").write_bytes(other_weights(bundle / "llm.gguf"))
    os.utime(bundle / "llm.gguf", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (bundle / "llm.gguf").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(BundleError, match=r"llm.gguf: its content has changed"):
        open_bundle(bundle)


def test_a_failed_verification_is_not_forgotten(bundle):
    """Even where the file looks as it did when it was verified."""
    file = note(bundle)
    (bundle / "llm.gguf").write_bytes(other_weights(bundle / "llm.gguf"))
    damaged = read_bundle(bundle)
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": damaged.fingerprint}))
    assert was_verified(damaged)
    with pytest.raises(BundleError, match=r"llm.gguf: its content has changed"):
        open_bundle(bundle, verify=True)
    assert not was_verified(read_bundle(bundle))


def test_verified_is_remembered_for_these_engines_alone(bundle, monkeypatch):
    open_bundle(bundle)
    assert was_verified(read_bundle(bundle))
    monkeypatch.setattr("skingpt_edge.engines.onnx_runtime.build", lambda: "another version")
    assert not was_verified(read_bundle(bundle))


def note(bundle: Path) -> Path:
    open_bundle(bundle)
    (found,) = (cache_folder() / "verified").iterdir()
    return found


def test_what_is_kept_is_readable_by_its_owner_alone(bundle):
    old = os.umask(0)
    try:
        file = note(bundle)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in (file.parent, cache_folder()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def make_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_link(file: Path) -> None:
    moved = file.with_name("elsewhere")
    file.rename(moved)
    file.symlink_to(moved)


def make_folder_a_link(file: Path) -> None:
    moved = file.parents[2] / "elsewhere"
    file.parent.rename(moved)
    file.parent.symlink_to(moved)


def make_huge(file: Path) -> None:
    with file.open("ab") as opened:
        opened.truncate(10**9)


FORGERIES = {
    "a FIFO": make_fifo,
    "a link": make_link,
    "a link to a folder": make_folder_a_link,
    "a huge file": make_huge,
    "a file others can write": lambda file: file.chmod(0o666),
    "a folder others can write": lambda file: file.parent.chmod(0o777),
    "a cache others can write": lambda file: file.parents[1].chmod(0o777),
    "deep JSON": lambda file: file.write_text("[" * 50_000),
    "bytes": lambda file: file.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_note_is_not_believed_that_is(name, bundle):
    file = note(bundle)
    FORGERIES[name](file)
    assert not was_verified(read_bundle(bundle))
    open_bundle(bundle)  # still opens, after verifying it again


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_note_or_folder_of_another_user_is_not_believed(level, bundle):
    file = note(bundle)
    os.chown([file, *file.parents][level], 12345, 12345)
    assert not was_verified(read_bundle(bundle))


def test_nothing_is_written_into_a_folder_that_others_can_write_to(bundle):
    file = note(bundle)
    file.unlink()
    file.parent.chmod(0o777)
    open_bundle(bundle)
    assert not list(file.parent.iterdir())
    with pytest.raises(PermissionError, match="another user"):
        keep(file, b"")
    assert read_kept(file) is None


# ---- what is wrong with a bundle's parts


def test_verify_says_what_it_did(bundle):
    result = run("skingpt", "verify", bundle)
    assert (result.returncode, result.stderr) == (0, "")
    assert "whole and unchanged, 5 files" in result.stdout
    assert "self-test passed" in result.stdout
    result = run("skingpt", "verify", FORMAT_1)
    assert "runs; it has no self-test to compare with" in result.stdout


CHANGES = {
    "another mean of the pixels": (lambda d: d["image"].update(mean=[0.9, 0.1, 0.4]), "image embeddings differ"),
    "another template": (lambda d: d["template"].update(system="Hello"), "tokenizer or the prompt's template"),
    "other embeddings": (lambda d: d["self_test"].update(image_embeds=[0.5] * 64), "image embeddings differ"),
    "other logits": (
        lambda d: d["self_test"].update(logits=dict.fromkeys(d["self_test"]["logits"], 1.0)),
        "logits differ",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_self_test_finds(name, bundle):
    change, words = CHANGES[name]
    edit(bundle, change)
    with pytest.raises(BundleError, match=f"self-test: the {words}"):
        open_bundle(bundle)


def test_the_logits_that_are_stored_are_compared_whichever_are_the_largest_here(bundle):
    options = Options(threads=1, tuning=False, prompt_snapshot=False)
    found = run_self_test(read_bundle(bundle), options, range(300, 340))
    assert list(found.logits) == [str(token) for token in range(300, 340)]
    edit(bundle, lambda d: d["self_test"].update(logits=found.logits))
    open_bundle(bundle)


def test_the_self_test_finds_another_language_model(bundle):
    """Valid by itself, with hashes that agree, but not what the bundle was made with."""
    data = bytearray((bundle / "llm.gguf").read_bytes())
    key = b"llama.attention.head_count"
    for name in (key, key + b"_kv"):
        at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4
        assert data[at : at + 4] == struct.pack("<I", 4)
        data[at : at + 4] = struct.pack("<I", 2)
    name = b"llama.rope.dimension_count"
    at = data.index(name) + len(name) + 4
    data[at : at + 4] = struct.pack("<I", 128)
    rewrite(bundle, "llm.gguf", bytes(data))
    with pytest.raises(BundleError, match="self-test: the logits differ"):
        open_bundle(bundle)


def test_weights_that_are_not_finite_are_named(bundle):
    data = bytearray((bundle / "vision_encoder.onnx.data").read_bytes())
    data[704:708] = struct.pack("<f", float("nan"))
    rewrite(bundle, "vision_encoder.onnx.data", bytes(data))
    with pytest.raises(BundleError, match=r"vision_encoder.onnx: .*pos_embed holds NaN or infinity"):
        open_bundle(bundle)


def test_a_quantised_weight_that_is_not_finite_is_named(bundle):
    data = bytearray((bundle / "llm.gguf").read_bytes())
    data[-34:-32] = np.float16("inf").tobytes()  # the last block's scale
    rewrite(bundle, "llm.gguf", bytes(data))
    with pytest.raises(BundleError, match=r"llm.gguf: blk.2.\S+ holds NaN or infinity"):
        open_bundle(bundle)


def external(key: str, value: str):
    def change(model: onnx.ModelProto) -> None:
        weight = next(weight for weight in model.graph.initializer if weight.external_data)
        for entry in weight.external_data:
            if entry.key == key:
                entry.value = value

    return change


def add_subgraph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("g", onnx.GraphProto()))


GRAPHS = {
    "a file upwards": (external("location", "../../etc/passwd"), r"lies in '../../etc/passwd'; only"),
    "another file of the bundle": (external("location", "llm.gguf"), r"lies in 'llm.gguf'; only"),
    "an address": (external("location", "*/_ORT_MEM_ADDR_/*"), r"lies in"),
    "another weight's bytes": (external("offset", "704"), r"share bytes of|there is a gap between"),
    "an offset below zero": (external("offset", "-1"), r"has no offset that is a number"),
    "an end beyond the file": (external("offset", "2243500"), r"ends at byte 2244204 of .* which has 2243840"),
    "no length": (external("length", "0"), r"takes 0 bytes, but its shape .* needs 704"),
    "a graph in a node": (add_subgraph, r"not a readable ONNX graph \(a node holds a graph"),
    "a function": (lambda m: m.functions.append(onnx.FunctionProto(name="f")), r"it holds functions"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_refused_with(name, bundle):
    change, words = GRAPHS[name]
    model = onnx.load(bundle / "vision_encoder.onnx", load_external_data=False)
    change(model)
    rewrite(bundle, "vision_encoder.onnx", model.SerializeToString())
    with pytest.raises(BundleError, match=words):
        open_bundle(bundle)


def test_weights_that_begin_elsewhere_than_the_exporter_puts_them_are_refused(bundle):
    model = onnx.load(bundle / "qformer.onnx", load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 1)
    rewrite(bundle, "qformer.onnx", model.SerializeToString())
    rewrite(bundle, "qformer.onnx.data", b"\0" + (bundle / "qformer.onnx.data").read_bytes())
    with pytest.raises(BundleError, match="there is a gap between the file's beginning and"):
        open_bundle(bundle)


def test_a_field_that_readers_take_differently_is_refused(bundle):
    """ONNX Runtime drops the upper bits of a field's number and would read a weight that the check does not see."""
    tag = (7 << 3 | 2) | 1 << 35
    number = bytes([tag & 127 | 128, tag >> 7 & 127 | 128, tag >> 14 & 127 | 128, tag >> 21 & 127 | 128])
    number += bytes([tag >> 28 & 127 | 128, tag >> 35])
    rewrite(bundle, "qformer.onnx", (bundle / "qformer.onnx").read_bytes() + number + b"\0")
    with pytest.raises(BundleError, match=r"not a readable ONNX graph .*no valid number"):
        open_bundle(bundle)


@pytest.mark.parametrize("cut", [0, 1, 100, 20_000])
def test_a_graph_cut_short_is_refused_in_one_line(cut, bundle):
    rewrite(bundle, "qformer.onnx", (bundle / "qformer.onnx").read_bytes()[:cut])
    result = run("skingpt", "verify", bundle)
    assert result.returncode == BundleError.exit_code
    assert len(result.stderr.splitlines()) == 1
    assert "qformer.onnx: not a readable ONNX graph" in result.stderr


def test_onnx_runtimes_own_words_are_one_short_line(bundle):
    model = onnx.load(bundle / "qformer.onnx", load_external_data=False)
    model.graph.node[0].op_type = "Nothing"
    rewrite(bundle, "qformer.onnx", model.SerializeToString())
    result = run("skingpt", "verify", bundle)
    assert result.returncode == BundleError.exit_code
    (line,) = result.stderr.splitlines()
    assert "qformer.onnx: ONNX Runtime cannot load it: " in line
    assert len(line) < 400
    assert "onnxruntime_src" not in line
    assert str(bundle) not in line


def test_what_llama_cpp_refuses_is_the_bundles_fault(bundle):
    data = (bundle / "llm.gguf").read_bytes()
    rewrite(bundle, "llm.gguf", data.replace(b"blk.0.attn_q.weight", b"blk.0.attn_z.weight"))
    result = run("skingpt", "chat", next(PICTURES.glob("*.jpg")), "-q", "What?", "--bundle", bundle)
    assert result.returncode == BundleError.exit_code
    (line,) = result.stderr.splitlines()
    assert "llm.gguf: llama.cpp cannot load it" in line


class Ends:
    """In place of the self-test: a process that ends by a signal, as one does whose engine aborts."""

    def __init__(self, path: str, threads: int, fingerprint: object) -> None:
        os.kill(os.getpid(), int(os.environ["ENDS_BY"]))


@pytest.mark.parametrize(
    ("ending", "error", "words"),
    [
        (signal.SIGABRT, BundleError, "loading it ends the process: it is damaged, or .*SIGABRT"),
        (signal.SIGSEGV, BundleError, "loading it ends the process"),
        (signal.SIGKILL, EngineError, "too little memory"),
    ],
)
def test_an_engine_that_crashes_costs_an_error_not_the_process(ending, error, words, bundle, monkeypatch):
    monkeypatch.setattr(verification, "SELF_TEST", f"{Path(__file__).stem}:Ends")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("ENDS_BY", str(int(ending)))
    with pytest.raises(error, match=words):
        open_bundle(bundle)
