"""How llama.cpp lays weights out for the processor: AMX's way where it was asked for, and never otherwise."""

import re
from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines import weight_layouts
from skingpt_edge.engines.errors import EngineUnavailable
from skingpt_edge.engines.gguf_header import import_llama_cpp, log_listener, read_gguf_header
from skingpt_edge.engines.llama_cpp_model import LlamaCppModel, has_amx
from skingpt_edge.engines.weight_layouts import overrides, patterns
from skingpt_edge.export.gguf_file import F16, plain_types, quantise, write_gguf
from skingpt_edge.export.synth import SHAPES, RandomLlama, write_tokenizer
from skingpt_edge.runtime.amx_trial import amx_works

TYPES = ("q4_0", "q4_k_m", "q5_k_m", "q8_0", "q6_k", "iq4_nl", "iq4_xs", "q2_k")
PROMPT = list(range(5, 45))


def nothing(*_):
    pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random Llama of eight layers in each type; with so many, mixtures give a part of a layer more bits in some."""
    folder = tmp_path_factory.mktemp("layouts")
    write_tokenizer(folder, 512)
    config = replace(SHAPES["tiny"].llama, vocabulary=512, layers=8)
    write_gguf(RandomLlama(config, folder), folder / "f16.gguf", plain_types(F16), 1, "random", nothing)
    for kind in TYPES:
        quantise(folder / "f16.gguf", folder / f"{kind}.gguf", kind, nothing)
    return folder


def test_patterns_name_every_matrix_once_with_its_own_type(files):
    header = read_gguf_header(files / "q4_k_m.gguf")
    found = patterns(header)
    assert len(found) < len(header.tensor_types) / 4
    matrices = {name for name in header.tensor_types if "norm" not in name} - {"token_embd.weight"}
    assert len({header.tensor_types[name] for name in matrices}) > 1
    for name, kind in header.tensor_types.items():
        assert [named for pattern, named in found if re.search(pattern, name)] == ([kind] if name in matrices else [])


@pytest.mark.parametrize(
    ("width", "without"),
    [
        ("n_vocab", {"output"}),
        ("kv_width", {"attn_k", "attn_v"}),
        ("n_ff", {"ffn_gate", "ffn_up"}),
        ("n_embd", {"attn_q", "attn_output", "ffn_down"}),
    ],
)
def test_matrices_whose_rows_do_not_fill_a_tile_stay_as_they_are(width, without, files):
    header = replace(read_gguf_header(files / "q4_0.gguf"), **{width: 33 * 8})
    parts = {re.search(r"([a-z_]+)\\\.weight\$$", pattern)[1] for pattern, _ in patterns(header)}
    everything = {"output", "attn_k", "attn_v", "ffn_gate", "ffn_up", "attn_q", "attn_output", "ffn_down"}
    assert parts == everything - without


def evaluate(path, **options):
    """Logits after a prompt, after one more token, and of two sequences together; and llama.cpp's layouts."""
    heard = []
    with log_listener(heard.append):
        model = LlamaCppModel(path, context=256, threads=2, precision="", sequences=3, **options)
    model.evaluate_tokens(1, 0, PROMPT)
    found = [model.logits()]
    model.evaluate_tokens(1, len(PROMPT), [7])
    found.append(model.logits())
    model.close()
    return found, {match[1] for line in heard if (match := re.search(r"(\S+) model buffer size", line))}


@pytest.mark.parametrize("kind", TYPES)
def test_every_layout_computes_what_the_plain_weights_do(kind, files, monkeypatch):
    if not has_amx(import_llama_cpp()):
        pytest.skip("this llama.cpp has no AMX: it chooses layouts itself")
    path = files / f"{kind}.gguf"
    kept, layouts = evaluate(path)
    assert layouts == ({"CPU", "CPU_REPACK"} if kind in ("q4_0", "q4_k_m", "iq4_nl") else {"CPU"})
    used, layouts_amx = evaluate(path, amx=True) if amx_works() else (kept, {"AMX"})
    assert ("AMX" in layouts_amx) == (kind not in ("q6_k", "q2_k"))  # iq4_nl: one part of the first layer has more bits
    monkeypatch.setattr("skingpt_edge.engines.llama_cpp_model.overrides", lambda *_, **__: None)
    plain, layouts = evaluate(path)
    assert layouts == {"CPU"}
    for found in (kept, used):
        for mine, theirs in zip(found, plain, strict=True):
            assert np.corrcoef(mine, theirs)[0, 1] > 0.999


def test_amx_that_the_system_withholds_is_an_error(files, monkeypatch):
    header = read_gguf_header(files / "q4_0.gguf")
    monkeypatch.setattr(weight_layouts, "_layouts", lambda: {})
    assert len(overrides(import_llama_cpp(), header, amx=False)) == 1  # the end mark
    with pytest.raises(EngineUnavailable, match="does not let llama"):
        overrides(import_llama_cpp(), header, amx=True)


def test_a_list_ends_where_llama_cpp_stops_reading(files):
    lib = import_llama_cpp()
    if not has_amx(lib):
        pytest.skip("this llama.cpp has no AMX: it is given no list")
    found = overrides(lib, read_gguf_header(files / "q4_0.gguf"), amx=True)
    assert [entry.pattern is None for entry in found] == [False] * (len(found) - 1) + [True]
