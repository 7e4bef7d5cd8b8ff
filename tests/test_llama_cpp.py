"""How llama.cpp is asked to load and to evaluate."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
from skingpt_edge.engines import llama_cpp_library, llama_cpp_model, token_embeddings
from skingpt_edge.engines.base import EmbeddingSegment, TokenSegment
from skingpt_edge.engines.errors import EngineError, EngineUnavailable, InputError
from skingpt_edge.engines.gguf_header import read_gguf_header
from skingpt_edge.engines.llama_cpp_library import SPINS, import_llama_cpp
from skingpt_edge.engines.registry import open_language_model
from support import FORMAT_1, language_setup

FILE = FORMAT_1 / "llm.gguf"


@pytest.fixture
def model():
    model = open_language_model(FILE, language_setup(sequences=3, batch=32))
    yield model
    model.close()


def with_embeddings_as(kind: str, folder: Path) -> Path:
    """The file with its embedding matrix in another of ggml's types."""
    lib = import_llama_cpp()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = lib.LLAMA_FTYPE_MOSTLY_Q8_0, True
    params.token_embedding_type = getattr(lib, f"GGML_TYPE_{kind.upper()}")
    assert lib.llama_model_quantize(os.fsencode(FILE), os.fsencode(folder / "llm.gguf"), params) == 0
    [matrix] = [one for one in read_gguf_header(folder / "llm.gguf").tensors if one.name == "token_embd.weight"]
    assert matrix.type == params.token_embedding_type
    return folder / "llm.gguf"


def test_together_each_sequence_gets_its_own_logits(model):
    prompts = {1: (1, 20, 30, 40), 2: (1, 50, 60)}
    alone = {}
    for sequence, prompt in prompts.items():
        [alone[sequence]] = model.evaluate([TokenSegment(sequence, 0, prompt)])
        model.rewind(sequence, 0)
    rows = model.evaluate([TokenSegment(sequence, 0, prompt) for sequence, prompt in prompts.items()])
    assert rows.shape == (2, model.n_vocab)
    for row, expected in zip(rows, alone.values(), strict=True):
        assert abs(row - expected).max() < 0.3  # of 16: q8_0's kernels differ with the number of rows
        assert row.argmax() == expected.argmax()


def test_too_much_in_one_call_is_refused_and_nothing_too(model):
    with pytest.raises(EngineError, match="33 tokens or embeddings in one call, expected 1 to 32"):
        model.evaluate([TokenSegment(1, 0, (1,) * 33)])
    with pytest.raises(EngineError, match="33 tokens or embeddings in one call"):
        model.evaluate([EmbeddingSegment(1, 0, np.zeros((33, model.n_embd), np.float32))])
    with pytest.raises(EngineError, match="0 tokens or embeddings"):
        model.evaluate([])


def test_logits_that_are_missing_are_an_error(model, monkeypatch):
    monkeypatch.setattr(model._lib, "llama_get_logits_ith", lambda context, item: ctypes.POINTER(ctypes.c_float)())
    with pytest.raises(EngineError, match=r"llama\.cpp has no logits of item 0"):
        model.evaluate([TokenSegment(1, 0, (1,))])


def test_embeddings_of_another_width_are_refused(model):
    with pytest.raises(EngineError, match=r"embeddings have shape \(2, 3\)"):
        model.evaluate([EmbeddingSegment(1, 0, np.zeros((2, 3), np.float32))])


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_k", "q3_k", "q6_k"])
def test_to_evaluate_the_embeddings_of_tokens_is_to_evaluate_the_tokens(kind, tmp_path):
    with closing(open_language_model(with_embeddings_as(kind, tmp_path), language_setup(sequences=3))) as model:
        tokens = (1, 20, 30, 299)
        [expected] = model.evaluate([TokenSegment(1, 0, tokens)])
        [found] = model.evaluate([EmbeddingSegment(2, 0, model.embed(tokens))])
        assert np.array_equal(found, expected)


def test_tokens_and_embeddings_of_several_sequences_are_one_call(model):
    [first] = model.evaluate([TokenSegment(1, 0, (1, 20))])
    picture, text = model.embed((20, 21)), (1, 30)
    model.rewind(1, 0)
    rows = model.evaluate([TokenSegment(1, 0, (1, 20)), EmbeddingSegment(2, 0, picture), TokenSegment(2, 2, text)])
    assert rows.shape == (3, model.n_vocab)
    assert abs(rows[0] - first).max() < 0.3  # of 16: q8_0's kernels differ with the number of rows
    model.rewind(2, 0)
    [expected] = model.evaluate([TokenSegment(2, 0, (20, 21, *text))])
    assert abs(rows[2] - expected).max() < 0.3


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_number_that_is_no_token_has_no_embedding(token, model):
    with pytest.raises(EngineError, match=f"token {token}, but the vocabulary has {model.n_vocab}"):
        model.embed((1, token))


def test_the_file_is_not_needed_for_the_embeddings(tmp_path):
    """A stick may be pulled out when the model is loaded."""
    shutil.copy(FILE, tmp_path)
    with closing(open_language_model(tmp_path / FILE.name, language_setup())) as model:
        expected = model.embed((1, 20))
        (tmp_path / FILE.name).write_bytes(b"gone")
        assert np.array_equal(model.embed((1, 20)), expected)


def test_a_llama_cpp_that_does_not_show_its_embeddings_is_an_error(monkeypatch):
    monkeypatch.setattr(token_embeddings, "FIND", "no_such_function")
    with pytest.raises(EngineError, match=r"does not show the embeddings .* 0\.3\.36 is needed"):
        open_language_model(FILE, language_setup())


def test_a_segment_with_nothing_in_it_is_refused(model):
    with pytest.raises(EngineError, match="without tokens or embeddings"):
        model.evaluate([TokenSegment(1, 0, ()), TokenSegment(2, 0, (5,))])


def test_a_snapshot_brings_a_sequence_back(model):
    segment, following = TokenSegment(1, 0, (1, 20, 30)), TokenSegment(1, 3, (40,))
    model.evaluate([segment])
    kept = model.snapshot(1)
    expected = model.evaluate([following])
    model.rewind(1, 0)
    model.restore(1, kept)
    assert np.array_equal(model.evaluate([following]), expected)
    model.rewind(1, 0)
    with pytest.raises(EngineError, match="cannot restore"):
        model.restore(1, kept[:-10])


def test_it_says_itself_how_it_runs_and_follows_when_threads_change(model):
    details = model.info.details
    assert (details["batch"], details["sequences"], details["cells"]) == (32, 3, 256)
    assert model.info.threads == details["prefill_threads"] == 1
    model.set_threads(2, 3)
    assert (model.info.threads, model.info.details["prefill_threads"]) == (2, 3)


def test_it_says_which_of_the_codes_that_are_there_runs(model):
    folder = Path(import_llama_cpp().llama_cpp._lib._name).parent
    there = {path.stem.removeprefix("libggml-cpu-") for path in folder.glob("libggml-cpu-*.so")}
    assert model.info.details["cpu_code"] in (there or {"one build"})


def test_a_device_that_is_not_there_is_an_error():
    if import_llama_cpp().llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU")
    with pytest.raises(EngineUnavailable, match="'cuda' was asked for"):
        open_language_model(FILE, language_setup(device="cuda", gpu_layers=99))


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_types_that_a_gpu_would_leave_to_the_processor_are_an_error(kind, tmp_path, monkeypatch):
    lib = import_llama_cpp()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}"), True
    file = tmp_path / "llm.gguf"
    assert lib.llama_model_quantize(os.fsencode(FILE), os.fsencode(file), params) == 0
    monkeypatch.setattr(llama_cpp_model, "check_gpu", lambda: None)
    with pytest.raises(EngineUnavailable, match=f"no code for a GPU for weights of the type {kind}: ask for 'cpu'"):
        open_language_model(file, language_setup(device="cuda", gpu_layers=99))
    open_language_model(file, language_setup()).close()


def test_where_the_cpu_was_asked_for_no_gpu_computes_and_otherwise_the_first_one():
    """llama.cpp would let a GPU that is there compute prompts even of layers that stay on the processor.

    This is what it is asked for. That it does so can be seen on a machine with a GPU alone.
    """
    lib = import_llama_cpp()
    on_cpu, on_gpu = (
        llama_cpp_model._model_params(lib, language_setup(device=device, gpu_layers=layers))
        for device, layers in (("cpu", 0), ("cuda", 99))
    )
    assert (on_cpu.split_mode, on_cpu.main_gpu) == (lib.LLAMA_SPLIT_MODE_NONE, -1)
    assert (on_gpu.split_mode, on_gpu.main_gpu) == (lib.LLAMA_SPLIT_MODE_NONE, 0)


@pytest.fixture
def without_gpu_code():
    if llama_cpp_library.has_gpu_code(import_llama_cpp().llama_cpp._lib):
        pytest.skip("this llama.cpp has code for GPUs")


def test_code_for_gpus_that_cannot_be_loaded_is_an_error_with_the_reason(tmp_path, monkeypatch, without_gpu_code):
    (tmp_path / "cuda").mkdir()
    monkeypatch.setattr(llama_cpp_library, "_folder", lambda _: tmp_path)
    with pytest.raises(EngineUnavailable, match=r"runs on the CPU only: see docs/gpu\.md, or ask for 'cpu'"):
        llama_cpp_library.check_gpu()
    (tmp_path / "cuda/libggml-cuda.so").write_bytes(b"no library")
    with pytest.raises(EngineUnavailable, match=r"for NVIDIA's GPUs cannot be loaded \(.*libggml-cuda.so.*\): ask for"):
        llama_cpp_library.check_gpu()


def test_code_for_gpus_without_a_gpu_is_an_error(monkeypatch, without_gpu_code):
    """As in a build that has it linked in, too."""
    monkeypatch.setattr(llama_cpp_library, "has_gpu_code", lambda _: True)
    with pytest.raises(EngineUnavailable, match="finds no NVIDIA GPU, or no driver"):
        llama_cpp_library.check_gpu()


@pytest.mark.parametrize(
    ("target", "runs"),
    [("sm61", False), ("sm75", True), ("sm80", True), ("sm86", True), ("sm89", True), ("sm90", False),
     ("sm100", False), ("sm120", True), ("sm121", False)],
)  # fmt: skip
def test_a_card_that_the_packages_code_is_not_for_is_an_error(target, runs, monkeypatch):
    monkeypatch.setattr(llama_cpp_library, "gpu_kind", lambda: ("NVIDIA Card", target))
    features = "CUDA : ARCHS = 750,800,1200 | USE_GRAPHS = 1 | CPU : AVX2 = 1 | "
    expected = (
        nullcontext() if runs else pytest.raises(EngineUnavailable, match=rf"for sm75, sm80, sm120, .* {target}:")
    )
    with expected:
        llama_cpp_library._check_card(features)


def test_a_context_beyond_the_trained_one_is_an_error():
    with pytest.raises(InputError, match="context is 9999, but this model was trained for at most"):
        open_language_model(FILE, language_setup(context=9999, cells=9999))


def test_a_build_with_amx_is_refused_unless_its_weights_stay_plain(monkeypatch):
    monkeypatch.setattr(llama_cpp_model, "cpu_features", lambda: "AVX2 = 1 | AMX_INT8 = 1 | ")
    with pytest.raises(EngineUnavailable, match=r"built with AMX, .* layout 'plain'"):
        open_language_model(FILE, language_setup())
    open_language_model(FILE, language_setup(layout="plain")).close()


@pytest.mark.parametrize(("layout", "repacked"), [("repacked", True), ("plain", False)])
def test_the_layout_is_what_llama_cpp_is_asked_for(layout, repacked):
    params = llama_cpp_model._model_params(import_llama_cpp(), language_setup(layout=layout))
    assert params.use_extra_bufts is repacked


def test_a_closed_model_is_an_error_not_a_crash(model):
    model.close()
    for call in (lambda: model.evaluate([TokenSegment(1, 0, (1,))]), lambda: model.info, lambda: model.snapshot(1)):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_threads_that_wait_do_not_keep_the_processor_from_those_they_wait_for():
    """GNU's OpenMP says itself how often it looks; what the user has set stays."""
    for given, expected in (({}, SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, None)):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
        code = "from skingpt_edge.engines.llama_cpp_library import SPINS, import_llama_cpp; import_llama_cpp()"
        said = subprocess.run(
            [sys.executable, "-c", code], env={**kept, **given, "OMP_DISPLAY_ENV": "verbose"},
            stderr=subprocess.PIPE, text=True, check=True,
        ).stderr  # fmt: skip
        found = re.search("GOMP_SPINCOUNT = '(.*)'", said)
        assert found, said
        assert (found[1] == expected) == bool(expected)
