"""Making a bundle: what is in it, what is refused, what is left behind."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sentencepiece import sentencepiece_model_pb2 as spm
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.errors import ExportError, ParityError
from skingpt_edge.engines.gguf_header import read_gguf_header
from skingpt_edge.engines.llama_cpp_library import file_types
from skingpt_edge.engines.registry import open_graph
from skingpt_edge.export import graphs, parity, synth
from skingpt_edge.export.bundle_writer import language_part
from skingpt_edge.export.gguf_file import F16, plain_types, quantise, write_gguf
from skingpt_edge.export.llama_weights import LlamaConfig
from skingpt_edge.export.make import Checkpoints, Choices, export_bundle
from skingpt_edge.export.quantise import to_float16
from skingpt_edge.export.tokenizer import special_tokens
from skingpt_edge.export.vision_weights import (
    expected_shapes,
    load_vision_model,
    read_vision,
    save_float32,
)
from skingpt_edge.runtime.bundle import read_bundle
from skingpt_edge.runtime.manifest import SpecialTokens
from support import CHECKPOINT, FORMAT_1, GOLDEN, export, interruptible, run

VIT, QFORMER, ADAPTER = (CHECKPOINT / f"{name}.pth" for name in ("eva_vit_g", "blip2_pretrained", "skingpt4"))


def test_a_bundle_is_replaced_only_when_forced(tmp_path):
    target = Path(shutil.copytree(FORMAT_1, tmp_path / "bundle"))
    before = (target / "bundle.json").read_bytes()
    result = run("skingpt-export", "synth", "--shape", "tiny", "-o", target)
    assert result.returncode == 4
    assert "--force replaces it" in result.stderr
    assert (target / "bundle.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    result = run("skingpt-export", "synth", "--shape", "tiny", "-o", tmp_path / "mine", "--force")
    assert result.returncode == 4
    assert "is not a bundle" in result.stderr


def test_a_bundle_past_its_limit_is_refused_unless_accepted(tmp_path):
    target = tmp_path / "out" / "bundle"
    pictures = ("--pictures", GOLDEN / "images")
    result = export(target, "f32", "q4_0", *pictures)
    assert result.returncode == 4
    assert "language model: " in result.stderr
    assert "--accept-parity" in result.stderr
    assert list(target.parent.iterdir()) == []
    result = export(target, "f32", "q4_0", *pictures, "--accept-parity")
    assert result.returncode == 0
    (failure,) = read_bundle(target).manifest.parity.failures
    assert failure.startswith("language model: ")
    assert "ACCEPTED BY HAND" in run("skingpt", "info", target).stdout


@pytest.mark.parametrize(("limit", "taken"), [(0.9, "int8"), (0.99999999, "int8-block")])
def test_auto_takes_8_bit_blocks_where_int8_is_too_coarse(limit, taken, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.COSINE, "int8", limit)
    sources = Checkpoints(VIT, QFORMER, ADAPTER, CHECKPOINT / "llm")
    pictures = sorted((GOLDEN / "images").glob("0*"))[:3]
    manifest = export_bundle(sources, tmp_path / "bundle", Choices("auto", "f32", "golden"), pictures)
    assert manifest.vision.precision == taken
    graph = onnx.load(tmp_path / "bundle" / "vision_encoder.onnx", load_external_data=False).graph
    assert ("MatMulNBits" in {node.op_type for node in graph.node}) == (taken == "int8-block")


def test_int8_is_int8_or_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(parity.COSINE, "int8", 0.99999999)
    sources = Checkpoints(VIT, QFORMER, ADAPTER, CHECKPOINT / "llm")
    pictures = sorted((GOLDEN / "images").glob("0*"))[:3]
    with pytest.raises(ParityError, match=r"image_embeds: cosine .* for int8"):
        export_bundle(sources, tmp_path / "bundle", Choices("int8", "f32", "golden"), pictures)
    assert list(tmp_path.iterdir()) == []


def test_the_special_tokens_come_from_the_tokenizer_and_must_be_a_llamas(exact_bundle, tmp_path):
    assert read_bundle(exact_bundle).manifest.llm.special_tokens == SpecialTokens(unk=0, bos=1, eos=2)
    model = spm.ModelProto()
    model.ParseFromString((CHECKPOINT / "llm/tokenizer.model").read_bytes())
    model.trainer_spec.eos_id = 5
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="token 5 is not </s>, as a Llama's is"):
        special_tokens(tmp_path)


def test_the_manifest_says_what_the_bundle_was_made_from(exact_bundle):
    manifest = read_bundle(exact_bundle).manifest
    assert [source.role for source in manifest.provenance.sources] == ["vit", "qformer", "adapter", "llm", "llm"]
    assert manifest.llm.kv_type == "f32"
    assert not manifest.llm.flash_attention
    parity = manifest.parity
    assert parity.failures == ()
    assert parity.llm.free_running == parity.end_to_end.free_running == parity.llm.compared == 96
    assert parity.stages["image_embeds"].max_abs < 1e-4
    assert parity.stages["first_logits"].max_abs < 1e-3


def test_no_path_of_the_exporting_machine_is_in_a_bundle(exact_bundle):
    for path in exact_bundle.iterdir():
        assert str(Path(graphs.__file__).parents[1]).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("moment", ["reading the checkpoints", "qformer: tracing", "comparing vision with torch"])
def test_an_export_killed_at_any_moment_leaves_no_bundle_and_the_next_one_tidies_up(moment, tmp_path):
    target = tmp_path / "bundle"
    program = Path(sys.executable).with_name("skingpt-export")
    command = [program, "bundle", "--vit", VIT, "--qformer", QFORMER, "--adapter", ADAPTER, "--llm", CHECKPOINT / "llm",
               "--vision", "f32", "--llm-type", "f32", "-o", target]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while moment not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert run("skingpt", "info", target).returncode == 4
    assert run("skingpt-export", "synth", "--shape", "tiny", "-o", target).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_interrupting_an_export_leaves_nothing(tmp_path):
    with interruptible("skingpt-export", "synth", "--shape", "tiny", "-o", tmp_path / "bundle") as process:
        while "tracing" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "interrupted; nothing was written" in process.stderr.read()
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_value_beyond_float16_is_an_error():
    with pytest.raises(ExportError, match=r"w: holds values beyond float16's range \(7e\+04\)"):
        to_float16(np.array([1, 7e4], np.float32), "w")


def test_a_type_llama_cpp_cannot_make_is_refused(tmp_path):
    result = run("skingpt-export", "synth", "--shape", "tiny", "--llm-type", "q9_9", "-o", tmp_path / "b")
    assert result.returncode == 4
    assert "known are auto, f32, " in result.stderr


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0", "q4_0"])
def test_a_synthetic_model_has_the_types_and_bytes_llama_cpp_quantises_to(kind, tmp_path):
    config = synth.SHAPES["tiny"].llama
    number = file_types()[kind]
    source = synth.random_llm(config, kind, number, tmp_path, tmp_path / "direct.gguf", lambda *_: None)
    write_gguf(source, tmp_path / "f16.gguf", plain_types(F16), 1, "synthetic", lambda *_: None)
    quantise(tmp_path / "f16.gguf", tmp_path / "theirs.gguf", kind, lambda *_: None)
    direct, theirs = (read_gguf_header(tmp_path / name) for name in ("direct.gguf", "theirs.gguf"))
    assert replace(direct, tensors=()) == replace(theirs, tensors=())
    parts = [{(one.name, one.type, one.size) for one in header.tensors} for header in (direct, theirs)]
    assert parts[0] == parts[1]  # in another order
    assert (tmp_path / "direct.gguf").stat().st_size == pytest.approx(
        (tmp_path / "theirs.gguf").stat().st_size, abs=4096
    )


def test_our_int8_graph_is_optimums(tmp_path):
    """The int8 tier is made weight by weight; Optimum's whole-model quantiser must give the same numbers."""
    import onnx_ir as ir
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import PretrainedConfig

    config, tensors = read_vision(VIT, QFORMER, ADAPTER)
    save_float32(expected_shapes(config), tensors.__getitem__, tmp_path / "vision.safetensors")
    model = load_vision_model(config, tmp_path / "vision.safetensors")
    for precision in ("f32", "int8"):
        (tmp_path / precision).mkdir()
        graphs.export_graphs(model, config, precision, tmp_path / precision)
    plain = tmp_path / "f32" / "vision_encoder.onnx"
    products = [
        node.name for node in ir.load(plain).graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()
    ]
    settings = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=True, operators_to_quantize=["MatMul"], nodes_to_quantize=products
    )
    ORTQuantizer(plain, PretrainedConfig()).quantize(settings, tmp_path / "theirs", file_suffix=None)
    pixels = {"pixels": np.load(GOLDEN / "expected/00.npz")["pixels"]}
    ours, theirs = (
        open_graph(folder / "vision_encoder.onnx", GraphSetup("onnxruntime", "cpu", 1)).run(pixels)
        for folder in (tmp_path / "int8", tmp_path / "theirs")
    )
    assert len(products) == 4 * config.depth
    assert np.abs(ours["image_features"] - theirs["image_features"]).max() < 1e-3


def test_the_graphs_take_any_batch(exact_bundle):
    pixels = np.load(GOLDEN / "expected/00.npz")["pixels"]
    graph = open_graph(exact_bundle / "vision_encoder.onnx", GraphSetup("onnxruntime", "cpu", 1))
    single = graph.run({"pixels": pixels})["image_features"]
    for batch in (1, 3):
        many = graph.run({"pixels": np.repeat(pixels, batch, axis=0)})["image_features"]
        assert np.abs(many - single).max() < 1e-4


def test_a_template_file_is_used_and_checked(tmp_path):
    from skingpt_edge.export.templates import read_template

    fields = {
        "system": "", "first": "### Instruction: <Img><ImageHere></Img> {question} ### Response:",
        "next": "### Instruction: {question} ### Response:", "answer": " {answer}", "stop": ["###"], "answer_after": "",
    }  # fmt: skip
    file = tmp_path / "paper.json"
    file.write_text(json.dumps(fields))
    assert read_template(str(file)).first.startswith("### Instruction")
    file.write_text(json.dumps({**fields, "next": "nothing"}))
    with pytest.raises(ExportError, match="`next` needs"):
        read_template(str(file))
    with pytest.raises(ExportError, match="neither one of skingpt4"):
        read_template("vicuna")


def test_a_rotated_photo_is_fit_for_measuring_parity(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pictures").mkdir()
    Image.open(GOLDEN / "images/00.jpg").save(tmp_path / "pictures/turned.jpg", exif=exif)
    result = export(tmp_path / "bundle", "f32", "f32", "--pictures", tmp_path / "pictures")
    assert result.returncode == 0, result.stderr


def test_a_file_that_is_no_picture_is_refused_before_the_work(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/notes.txt").write_text("x")
    result = export(tmp_path / "bundle", "f32", "f32", "--pictures", tmp_path / "pictures")
    assert result.returncode == 3
    assert result.stderr.startswith("error: notes.txt: not a readable JPEG, PNG or WebP picture")


def test_the_current_directory_is_not_replaced_and_a_link_means_its_bundle(tmp_path):
    result = run("skingpt-export", "synth", "--shape", "tiny", "-o", ".", cwd=tmp_path)
    assert result.returncode == 4
    assert "current directory" in result.stderr
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run("skingpt-export", "synth", "--shape", "tiny", "-o", tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/bundle.json").is_file()


@pytest.mark.parametrize(
    ("llm_type", "width", "expected"),
    [
        ("f32", 4096, ("f32", False)), ("f16", 4096, ("f16", True)), ("bf16", 4096, ("f16", True)),
        ("q4_k_m", 4096, ("q8_0/f16", False)), ("q8_0", 4096, ("q8_0/f16", False)),
        ("q8_0", 32 * 48, ("f16", True)),  # heads of 48 values do not fill blocks of 32
    ],
)  # fmt: skip
def test_the_kv_cache_suits_the_weights(llm_type, width, expected):
    llama = LlamaConfig(vocabulary=64, width=width, layers=1, heads=32, kv_heads=32, hidden=64)
    part = language_part(llm_type, llama, SpecialTokens(0, 1, 2))
    assert (part.kv_type, part.flash_attention) == expected
