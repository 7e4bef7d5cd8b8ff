"""An importance matrix from pictures with reports: what it holds, and that the quantiser uses it."""

import shutil

import gguf
import numpy as np
import pytest
import torch
from skingpt_edge.engines.errors import ExportError
from skingpt_edge.export.calibration import read_examples
from skingpt_edge.export.checkpoints import LlamaFolder
from skingpt_edge.export.importance import Importance, measure_importance, read_importance, write_importance
from skingpt_edge.export.llama_weights import LlamaCheckpoint
from support import CHECKPOINT, GOLDEN, export
from transformers import LlamaForCausalLM

REPORTS = {"00.jpg": "It is red.\n\nIt has no scale.\n\nNobody knows why.\n\nWait.", "02.png": "Nothing can be seen."}


@pytest.fixture
def reports(tmp_path):
    """A folder of two pictures with reports."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for name, text in REPORTS.items():
        shutil.copy(GOLDEN / "images" / name, folder)
        (folder / name).with_suffix(".txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def llama():
    return LlamaCheckpoint(LlamaFolder(CHECKPOINT / "llm"))


def test_it_is_the_mean_square_of_what_each_matrix_is_multiplied_with(llama):
    """Against transformers' whole model, whose matrices are listened to."""
    model = LlamaForCausalLM.from_pretrained(CHECKPOINT / "llm", dtype=torch.float32).eval()
    torch.manual_seed(0)
    sequences = [torch.randn(length, llama.config.width) * 0.02 for length in (9, 5)]
    heard: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            heard[name] = []
            module.register_forward_pre_hook(lambda _, given, name=name: heard[name].append(given[0][0]))
    with torch.no_grad():
        for sequence in sequences:
            model(inputs_embeds=sequence[None])
    found = measure_importance(llama, sequences)
    assert found.tokens == 14
    assert len(found.means) == len(heard) == 7 * llama.config.layers + 1
    for ours, theirs in {
        "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj",
        "output.weight": "lm_head",
    }.items():
        expected = torch.cat(heard[theirs]).square().mean(0).numpy()
        np.testing.assert_allclose(found.means[ours], expected, rtol=1e-4, atol=1e-9, err_msg=ours)


def test_a_calibrated_export_rounds_what_matters_with_more_care(llama, reports, tmp_path):
    plain, careful = tmp_path / "plain", tmp_path / "careful"
    usual = ("--pictures", reports.parent / "one", "--accept-parity", "--name", "model")
    (reports.parent / "one").mkdir()
    shutil.copy(GOLDEN / "images" / "02.png", reports.parent / "one")
    for target, more in ((plain, ()), (careful, ("--calibrate", reports))):
        result = export(target, "f32", "q4_0", *usual, *more)
        assert result.returncode == 0, result.stderr
    importance = read_importance(careful / "importance.gguf")
    importance.check(llama)
    errors = {target: _weighted_error(llama, target / "llm.gguf", importance) for target in (plain, careful)}
    assert errors[careful] < 0.98 * errors[plain]
    # The pictures are needed once: another bundle can be made from the file.
    again = tmp_path / "again"
    result = export(again, "f32", "q4_0", *usual, "--calibrate", careful / "importance.gguf")
    assert result.returncode == 0, result.stderr
    assert (again / "llm.gguf").read_bytes() == (careful / "llm.gguf").read_bytes()


def _weighted_error(llama, path, importance):
    """Squared error of the products, by the columns' importance, as a part of their squares."""
    error = whole = 0.0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.endswith("ffn_down.weight"):
            layer = tensor.name.split(".")[1]
            exact = llama.tensor(f"model.layers.{layer}.mlp.down_proj.weight").float().numpy()
            rounded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            error += float((np.square(rounded - exact) * importance.means[tensor.name]).sum())
            whole += float((np.square(exact) * importance.means[tensor.name]).sum())
    return error / whole


def test_the_file_keeps_what_was_measured(tmp_path):
    given = Importance({"blk.0.ffn_up.weight": np.array([3.5, 0, 21], np.float32)}, 7)
    write_importance(given, tmp_path / "i.gguf")
    found = read_importance(tmp_path / "i.gguf")
    assert found.tokens == 7
    np.testing.assert_array_equal(found.means["blk.0.ffn_up.weight"], [0.5, 0, 3])


def test_an_importance_file_of_another_model_is_refused(llama):
    with pytest.raises(ExportError, match=r"another model: blk\.0\.attn_q\.weight is missing"):
        Importance({}, 1).check(llama)
    with pytest.raises(ExportError, match="has 3 columns, expected"):
        Importance({"blk.0.attn_q.weight": np.ones(3, np.float32)}, 1).check(llama)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "00.txt").write_text(""), "0 paragraphs, expected 1 to 4"),
        (lambda folder: (folder / "00.txt").write_text("a\n\nb\n\nc\n\nd\n\ne"), "5 paragraphs, expected 1 to 4"),
        (lambda folder: (folder / "00.jpg").unlink(), "expected one picture of the same name, found 0"),
        (lambda folder: (folder / "00.txt").write_bytes(b"\xff\xfe\x00"), "not UTF-8 text"),
        (shutil.rmtree, "no such directory"),
        (lambda folder: [path.unlink() for path in folder.glob("*.txt")], "no NAME.txt beside a picture"),
    ],
)
def test_a_folder_that_cannot_be_used_is_said(reports, change, said):
    change(reports)
    with pytest.raises(ExportError, match=said):
        read_examples(reports, 4)


def test_nothing_is_calibrated_that_is_not_quantised(reports, tmp_path):
    result = export(tmp_path / "bundle", "f32", "f16", "--calibrate", reports)
    assert result.returncode == 4
    assert "is not quantised, so there is nothing to calibrate" in result.stderr


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "i.gguf").write_text("no")
    result = export(tmp_path / "bundle", "f32", "q4_0", "--calibrate", tmp_path / "i.gguf")
    assert result.returncode == 4
    assert "not a readable GGUF file" in result.stderr
