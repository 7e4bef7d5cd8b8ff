"""The original's checkpoints: what is read from them, and what is refused by name."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skingpt_edge.engines.errors import ExportError
from skingpt_edge.engines.gguf_header import read_gguf_header
from skingpt_edge.export.checkpoints import LlamaFolder
from skingpt_edge.export.gguf_file import F16, plain_types, write_gguf
from skingpt_edge.export.llama_reference import reference_logits, token_embeddings
from skingpt_edge.export.llama_weights import LlamaCheckpoint
from skingpt_edge.export.vision_weights import (
    expected_shapes,
    read_vision,
    resize_positions,
)
from support import CHECKPOINT, GOLDEN, export, run

VIT, QFORMER, ADAPTER = (CHECKPOINT / f"{name}.pth" for name in ("eva_vit_g", "blip2_pretrained", "skingpt4"))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy of the golden checkpoint to spoil."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def load(path: Path):
    return torch.load(path, weights_only=True)


def test_sizes_come_from_the_files():
    config, tensors = read_vision(VIT, QFORMER, ADAPTER)
    assert (config.width, config.depth, config.mlp, config.patches) == (176, 3, 768, 256)
    assert (config.queries, config.qformer_width, config.qformer_layers, config.cross_layers) == (32, 128, 4, (0, 2))
    assert tensors.keys() == expected_shapes(config).keys()
    assert not any("intermediate.dense" in name or "word_embeddings" in name for name in tensors)


def test_what_the_adapter_holds_wins(checkpoint):
    data = load(checkpoint / "skingpt4.pth")
    name = "visual_encoder.blocks.1.mlp.fc1.weight"
    data["model"][name] = torch.full((768, 176), 0.25)
    data["model"]["ln_vision.bias"] = torch.full((176,), 3.0)
    data["model"]["llama_model.ignored"] = torch.zeros(1)
    torch.save(data, checkpoint / "skingpt4.pth")
    _, tensors = read_vision(VIT, QFORMER, checkpoint / "skingpt4.pth")
    assert (tensors[name] == 0.25).all()
    assert (tensors["ln_vision.bias"] == 3).all()
    assert (tensors["visual_encoder.blocks.0.mlp.fc1.weight"] == load(VIT)["blocks.0.mlp.fc1.weight"]).all()


def test_an_adapter_that_overrides_the_vit_changes_the_bundle(checkpoint, tmp_path):
    data = load(checkpoint / "skingpt4.pth")
    data["model"]["visual_encoder.blocks.0.attn.q_bias"] = torch.randn(176)
    torch.save(data, checkpoint / "skingpt4.pth")
    target = tmp_path / "bundle"
    result = export(target, "f32", "f32", "--pictures", GOLDEN / "images", "--json", checkpoint=checkpoint)
    assert result.returncode == 0, result.stderr  # parity holds: torch and the bundle have both taken it over
    stage = json.loads(result.stdout)["parity"]["stages"]["image_features"]
    assert stage["max_abs"] < 1e-4
    trace = tmp_path / "trace"
    assert run("skingpt", "trace", GOLDEN / "images/00.jpg", "-q", "x", "--bundle", target, "-o", trace,
               "--max-new-tokens", "1").returncode == 0  # fmt: skip
    original = np.load(GOLDEN / "expected/00.npz")["image_features"]
    assert np.abs(np.load(trace / "trace.npz")["image_features"] - original).max() > 0.01


def spoil_missing(data):
    for name in [name for name in data if ".norm1." in name or ".norm2." in name]:
        del data[name]


def spoil_shape(data):
    data["blocks.1.mlp.fc2.weight"] = data["blocks.1.mlp.fc2.weight"].T.contiguous()


def spoil_nan(data):
    data["blocks.2.attn.proj.weight"][3, 4] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_missing, "visual_encoder.blocks.0.norm1.weight: missing"),
        (spoil_shape, "visual_encoder.blocks.1.mlp.fc2.weight: shape (768, 176), expected (176, 768)"),
        (spoil_nan, "visual_encoder.blocks.2.attn.proj.weight: 1 of 30976 values are NaN or infinite"),
    ],
)
def test_a_spoilt_vit_is_named_and_nothing_is_left(spoil, words, checkpoint, tmp_path):
    data = load(checkpoint / "eva_vit_g.pth")
    spoil(data)
    torch.save(data, checkpoint / "eva_vit_g.pth")
    target = tmp_path / "out" / "bundle"
    target.parent.mkdir()
    result = export(target, "f32", "f32", checkpoint=checkpoint)
    assert result.returncode == 4
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(target.parent.iterdir()) == []


def test_at_most_ten_problems_are_named(checkpoint):
    data = load(checkpoint / "eva_vit_g.pth")
    spoil_missing(data)
    torch.save(data, checkpoint / "eva_vit_g.pth")
    with pytest.raises(ExportError) as error:
        read_vision(checkpoint / "eva_vit_g.pth", QFORMER, ADAPTER)
    assert str(error.value).count(": missing") == 10
    assert "and 2 more" in str(error.value)


def test_an_infinite_value_in_the_language_model_is_named_and_nothing_is_left(checkpoint, tmp_path):
    path = checkpoint / "llm/pytorch_model.bin"
    data = load(path)
    data["model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
    torch.save(data, path)
    target = tmp_path / "out" / "bundle"
    result = export(target, "f32", "f32", checkpoint=checkpoint)
    assert result.returncode == 4
    assert "blk.1.ffn_up.weight: 1 of 196608 values are NaN or infinite" in result.stderr
    assert list(target.parent.iterdir()) == []


def test_a_missing_tensor_of_the_language_model_is_named(checkpoint):
    path = checkpoint / "llm/pytorch_model.bin"
    data = load(path)
    del data["model.layers.0.self_attn.o_proj.weight"]
    torch.save(data, path)
    with pytest.raises(ExportError, match=r"model.layers.0.self_attn.o_proj.weight: missing"):
        LlamaCheckpoint(LlamaFolder(checkpoint / "llm"))


def test_a_git_lfs_pointer_is_recognised(checkpoint):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13000000000\n"
    for name in ("eva_vit_g.pth", "llm/pytorch_model.bin", "llm/tokenizer.model"):
        (checkpoint / name).write_text(pointer)
        with pytest.raises(ExportError, match=rf"{Path(name).name}: a Git LFS pointer"):
            if name.startswith("llm"):
                LlamaFolder(checkpoint / "llm")
            else:
                read_vision(checkpoint / name, QFORMER, ADAPTER)
        shutil.copy(CHECKPOINT / name, checkpoint / name)


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"model": {"x": Evil()}}, checkpoint / "skingpt4.pth")
    with pytest.raises(ExportError, match=r"skingpt4.pth: cannot be read"):
        read_vision(VIT, QFORMER, checkpoint / "skingpt4.pth")
    assert not (tmp_path / "ran").exists()


def logits_of(folder: Path):
    files = LlamaFolder(folder)
    source = LlamaCheckpoint(files)
    (logits,) = reference_logits(source, [token_embeddings(source, [1, 5, 9, 300])], [2])
    files.close()
    return logits


@pytest.mark.parametrize("layout", ["safetensors", "sharded safetensors", "sharded bin"])
def test_every_layout_of_a_llama_reads_the_same(layout, checkpoint):
    folder = checkpoint / "llm"
    expected = logits_of(folder)
    data = {name: tensor.clone() for name, tensor in load(folder / "pytorch_model.bin").items()}
    (folder / "pytorch_model.bin").unlink()
    if layout == "safetensors":
        save_file(data, folder / "model.safetensors")
    else:
        suffix, stem = (".bin", "pytorch_model") if "bin" in layout else (".safetensors", "model")
        shards = {f"{stem}-{i}-of-2{suffix}": dict(list(data.items())[i::2]) for i in range(2)}
        for name, part in shards.items():
            (torch.save if "bin" in layout else save_file)(part, folder / name)
        weight_map = {tensor: name for name, part in shards.items() for tensor in part}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(logits_of(folder), expected)


def test_position_embeddings_of_another_grid_are_interpolated():
    positions = torch.randn(1, 1 + 16 * 16, 8)
    assert resize_positions(positions, 257) is positions
    grown = resize_positions(positions, 1 + 24 * 24)
    assert grown.shape == (1, 577, 8)
    assert torch.equal(grown[:, 0], positions[:, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"head_dim": 16}, "head_dim is 16"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters"),
        ({"max_position_embeddings": 32}, "max_position_embeddings is 32"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"vocab_size": "many"}, "not a number"),
    ],
)
def test_a_config_that_is_not_a_plain_llamas_is_refused(change, words, checkpoint):
    path = checkpoint / "llm/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ExportError, match=words):
        LlamaCheckpoint(LlamaFolder(checkpoint / "llm"))


@pytest.mark.parametrize("index", [{"weight_map": []}, {"weight_map": {"a": 1}}, {}, {"weight_map": {"a": "../b.bin"}}])
def test_a_malformed_index_is_refused(index, checkpoint):
    (checkpoint / "llm/pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match="weight_map names no files"):
        LlamaFolder(checkpoint / "llm")


def test_added_tokens_the_model_has_no_embedding_for_are_left_out(checkpoint, tmp_path):
    (checkpoint / "llm/added_tokens.json").write_text(json.dumps({"<pad>": 768}))
    source = LlamaCheckpoint(LlamaFolder(checkpoint / "llm"))
    write_gguf(source, tmp_path / "llm.gguf", plain_types(F16), 1, "x", lambda *_: None)
    assert read_gguf_header(tmp_path / "llm.gguf").n_vocab == 768
