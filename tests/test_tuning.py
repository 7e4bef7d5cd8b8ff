"""What `skingpt tune` remembers and `skingpt info` says beforehand."""

import json
import os
from dataclasses import replace

import pytest
from skingpt_edge.engines.errors import InputError
from skingpt_edge.engines.gguf_header import read_gguf_header
from skingpt_edge.runtime import tuning
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.cli import memory_size
from skingpt_edge.runtime.fit import Fit, needed_memory
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.threads import default_threads
from support import ROOT, run

PICTURE = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[0]
MADE_UP = tuning.Tuning(threads=3, vision_threads=1, prefill_threads=2, kv_type="q8_0", amx=False, seconds={})


@pytest.fixture(autouse=True)
def forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def engines(*options):
    result = run("skingpt", "chat", PICTURE, "-q", "What?", "--json", "--max-new-tokens", "2", *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["engines"]
    return found["language_model"]["threads"], found["vision_encoder"]["threads"]


def test_what_tune_finds_is_used_from_then_on_unless_told_otherwise():
    result = run("skingpt", "tune", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    for stage, chosen in (("decode", "threads"), ("vision", "vision_threads"), ("prefill", "prefill_threads")):
        seconds = document["seconds"][stage]
        assert seconds[str(document[chosen])] == min(seconds.values())
    bundle = read_bundle(default_bundle())
    assert tuning.recall(bundle).threads == document["threads"]
    tuning.remember(bundle, MADE_UP)
    assert engines() == (3, 1)
    assert engines("--threads", "2") == (2, 2)
    assert engines("--no-tuning")[0] != 3


def test_a_note_that_cannot_be_used_is_ignored():
    bundle = read_bundle(default_bundle())
    target = tuning.remember(bundle, MADE_UP)
    assert tuning.recall(bundle) == MADE_UP
    whole = target.read_text()
    for broken in ("", "[]", whole.replace("tuning/2", "tuning/9"), whole.replace('"threads": 3', '"threads": -3')):
        target.write_text(broken)
        assert tuning.recall(bundle) is None, broken


def test_a_note_of_another_build_of_llama_cpp_is_not_used(monkeypatch):
    bundle = read_bundle(default_bundle())
    tuning.remember(bundle, MADE_UP)
    monkeypatch.setattr(tuning, "llama_cpp_build", lambda: "the same version, compiled with other instructions")
    assert tuning.recall(bundle) is None


def test_options_given_are_kept():
    chosen = MADE_UP.apply(Options(threads=5))
    assert (chosen.threads, chosen.vision_threads, chosen.prefill_threads, chosen.kv_type) == (5, 5, 5, "q8_0")
    assert MADE_UP.apply(Options()).vision_threads == 1
    assert MADE_UP.apply(Options()).amx is False
    assert MADE_UP.apply(Options(amx=True)).amx is True
    assert replace(MADE_UP, amx=True).apply(Options()).amx is None  # for the trial to say


@pytest.mark.parametrize(
    ("amx", "plain", "taken"),
    [
        # 120 tokens and 60 items: the faster prompt is worth it only while tokens are nearly as fast
        ({"prefill": 0.03, "decode": 0.25}, {"prefill": 0.05, "decode": 0.22}, False),
        ({"prefill": 0.03, "decode": 0.25}, {"prefill": 0.05, "decode": 0.245}, True),
    ],
)
def test_of_two_layouts_the_one_with_the_faster_answer_is_kept(amx, plain, taken, monkeypatch):
    opened, said = [], []

    def timed(model, threads):
        opened.append(model.identity)
        found = amx if len(opened) <= len(opened_once) else plain
        return found["prefill"] / threads, found["decode"] / threads

    opened_once = sorted({1, *tuning._halves(default_threads()), *tuning._halves(os.cpu_count())})
    monkeypatch.setattr(tuning, "use_amx", lambda *_: True)
    monkeypatch.setattr(tuning, "_language_seconds", timed)
    found = tuning.tune(read_bundle(default_bundle()), say=said.append)
    assert found.amx is taken
    assert len(set(opened)) == 2
    assert sum(", AMX:" in line for line in said) == sum(", no AMX:" in line for line in said) == len(opened_once)


def test_too_little_memory_is_refused_and_a_smaller_kv_cache_is_compared_first():
    bundle = read_bundle(default_bundle())
    header = read_gguf_header(bundle.file("llm.gguf"))
    f16, q8_0 = (needed_memory(bundle, header, kind) for kind in ("f16", "q8_0"))
    assert q8_0 < f16
    said = []
    assert tuning.tune(bundle, max_memory=f16, say=said.append).kv_type == "f16"
    assert not any("tokens as with" in line for line in said)
    assert tuning.tune(bundle, max_memory=q8_0, say=said.append).kv_type == "q8_0"
    assert any("tokens as with f16" in line for line in said)
    with pytest.raises(InputError, match=r"the bundle needs 0\.3 GB"):
        tuning.tune(bundle, max_memory=q8_0 - 1)


def test_memory_counts_weights_and_the_kv_cache():
    bundle = read_bundle(default_bundle())
    header = read_gguf_header(bundle.file("llm.gguf"))
    assert (header.n_layer, header.kv_width) == (3, 256)
    difference = needed_memory(bundle, header, "f32") - needed_memory(bundle, header, "f16")
    assert difference == 2 * 3 * 256 * 2 * bundle.manifest.llm.context


@pytest.mark.parametrize(
    ("fit", "sentence"),
    [
        (Fit(6_400_000_000, 16_000_000_000, 17.2), "It fits: it needs 6.4 GB of memory and 16.0 GB are free"),
        (Fit(6_400_000_000, 4_000_000_000, 17.2), "It does not fit: it needs 6.4 GB of memory and only 4.0 GB are"),
        (Fit(6_400_000_000, None, 240.0), "this system does not say what is free; an answer of 120"),
    ],
)
def test_a_sentence_says_whether_it_fits(fit, sentence):
    assert sentence in fit.sentence()


def test_info_says_whether_its_time_was_measured():
    assert "estimated from the memory's speed" in run("skingpt", "info").stdout
    measured = replace(MADE_UP, seconds={"prefill": {"1": 3.0, "2": 2.0}, "decode": {"1": 1.0, "2": 1.5}})
    tuning.remember(read_bundle(default_bundle()), measured)
    facts = json.loads(run("skingpt", "info", "--json").stdout)
    assert facts["answer_seconds"] == 120 * 1.0 + 60 * 2.0
    assert "as `skingpt tune` measured" in facts["here"]


def test_info_says_it_before_anything_is_loaded():
    facts = json.loads(run("skingpt", "info", "--json").stdout)
    assert facts["fits"] is True
    assert facts["memory_needed_bytes"] > facts["size_bytes"]
    assert "It fits" in run("skingpt", "info").stdout


@pytest.mark.parametrize(("text", "size"), [("8GB", 8_000_000_000), ("6.5 gb", 6_500_000_000), ("900M", 900_000_000)])
def test_sizes_are_read_as_people_write_them(text, size):
    assert memory_size(text) == size


def test_a_size_that_is_none_is_a_usage_error():
    result = run("skingpt", "tune", "--max-memory", "lots")
    assert result.returncode == 2
    assert "no size such as 8GB" in result.stderr
