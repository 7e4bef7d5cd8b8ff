"""How llama.cpp is asked to load and to evaluate."""

from types import SimpleNamespace

import pytest
from skingpt_edge.engines.base import Run
from skingpt_edge.engines.errors import EngineError, EngineUnavailable, InputError
from skingpt_edge.engines.gguf_header import import_llama_cpp
from skingpt_edge.engines.llama_cpp_model import LlamaCppModel, _model_params
from support import FORMAT_1


@pytest.mark.parametrize(("info", "repacked"), [(b"AVX512 = 1 | AMX_INT8 = 1 | ", False), (b"AVX512 = 1 | ", True)])
def test_a_build_with_amx_does_not_choose_layouts_itself(info, repacked):
    lib = import_llama_cpp()
    built = SimpleNamespace(
        llama_print_system_info=lambda: info,
        llama_model_default_params=lib.llama_model_default_params,
        LLAMA_LOAD_MODE_NONE=lib.LLAMA_LOAD_MODE_NONE,
    )
    assert _model_params(built, 0).use_extra_bufts is repacked


@pytest.fixture
def model():
    model = LlamaCppModel(FORMAT_1 / "llm.gguf", context=256, threads=1, precision="q8_0", sequences=3, batch=32)
    yield model
    model.close()


def test_together_each_sequence_gets_its_own_logits(model):
    prompts = {1: [1, 20, 30, 40], 2: [1, 50, 60]}
    alone = {}
    for sequence, prompt in prompts.items():
        model.evaluate_tokens(sequence, 0, prompt)
        alone[sequence] = model.logits()
        model.rewind(sequence, 0)
    rows = model.evaluate_together([Run(sequence, 0, tuple(prompt)) for sequence, prompt in prompts.items()])
    assert rows.shape == (2, model.n_vocab)
    for row, expected in zip(rows, alone.values(), strict=True):
        assert abs(row - expected).max() < 0.3  # of 16: q8_0's kernels differ with the company
        assert row.argmax() == expected.argmax()


def test_too_much_together_is_refused(model):
    with pytest.raises(EngineError, match="33 tokens were to be evaluated together, at most 32"):
        model.evaluate_together([Run(1, 0, tuple([1] * 33))])


def test_a_long_prompt_goes_in_pieces(model):
    model.evaluate_tokens(1, 0, [1] * 100)
    whole = model.logits()
    model.rewind(1, 60)
    model.evaluate_tokens(1, 60, [1] * 40)
    assert model.logits().argmax() == whole.argmax()


def test_a_gpu_that_is_not_there_is_an_error():
    options = {"context": 256, "threads": 1, "precision": "q8_0"}
    with pytest.raises(EngineUnavailable, match="'cuda' was asked for"):
        if import_llama_cpp().llama_supports_gpu_offload():
            pytest.skip("this llama.cpp has a GPU")
        LlamaCppModel(FORMAT_1 / "llm.gguf", device="cuda", **options)
    with pytest.raises(InputError, match="gpu_layers is 3, but the device is the CPU"):
        LlamaCppModel(FORMAT_1 / "llm.gguf", gpu_layers=3, **options)
