"""The text before the picture, kept on disk for the next process: the same bits, or computed anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skingpt_edge.runtime import prompt_snapshot
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.cache_folder import cache_folder
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.sampling import GenerationConfig
from skingpt_edge.runtime.skingpt import SkinGPT
from support import ROOT

PICTURE = ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg"
QUESTION = "What is this?"
CONFIG = GenerationConfig(max_new_tokens=20, ignore_stop=True)


@pytest.fixture(autouse=True)
def kept_at_once(monkeypatch, tmp_path):
    """Also what took the demonstration model a moment is kept, in a folder of this test's own."""
    monkeypatch.setattr(prompt_snapshot, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def files() -> list[Path]:
    folder = cache_folder() / "prompts"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def answer(options: Options = Options(), bundle: Path | None = None):  # noqa: B008 - frozen
    """What a new process would answer, and the logits before its first token."""
    with SkinGPT.open(bundle, options=options) as model:
        image = model.embed(PICTURE.read_bytes())
        found = model.ask(image, QUESTION, CONFIG)
        return found, model.first_logits(image, QUESTION)


def system_length(found) -> int:
    return len(found.segment_token_ids[0])


@pytest.mark.parametrize("kv_type", ["f16", "q8_0/f16", "q8_0"])
def test_the_next_process_reads_it_and_answers_with_the_same_bits(kv_type):
    first, logits = answer(Options(kv_type=kv_type))
    assert first.prefill.reused == 0
    assert len(files()) == 1
    second, again = answer(Options(kv_type=kv_type))
    assert second.prefill.reused == system_length(first)
    assert second.prefill.evaluated == first.prefill.evaluated - system_length(first)
    assert second.token_ids == first.token_ids
    assert np.array_equal(again, logits)


def test_it_works_without_flash_attention(exact_bundle):
    first, logits = answer(bundle=exact_bundle)
    second, again = answer(bundle=exact_bundle)
    assert second.prefill.reused == system_length(first)
    assert np.array_equal(again, logits)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: flipped(data, 50), lambda data: flipped(data, 0), lambda _: b""],
)
def test_a_damaged_one_is_not_used_and_written_anew(damage):
    first, _ = answer()
    [path] = files()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    second, _ = answer()
    assert second.prefill.reused == 0
    assert second.token_ids == first.token_ids
    assert path.read_bytes() == whole


def test_one_that_llama_cpp_refuses_is_not_used(monkeypatch):
    first, _ = answer()
    [path] = files()
    state = path.read_bytes()[prompt_snapshot.DIGEST :][:-100]
    path.write_bytes(prompt_snapshot.hashlib.sha256(state).digest() + state)
    second, _ = answer()
    assert second.prefill.reused == 0
    assert second.token_ids == first.token_ids


def test_another_way_of_running_has_one_of_its_own():
    answer()
    found, _ = answer(Options(kv_type="q8_0"))
    assert found.prefill.reused == 0
    found, _ = answer(Options(batch=64))
    assert found.prefill.reused == 0
    assert len(files()) == 3


def test_other_weights_have_one_of_their_own():
    bundle = read_bundle(default_bundle())
    with SkinGPT.from_bundle(bundle) as model:
        snapshot = model._cache._snapshot
        entry = bundle.manifest.files[bundle.manifest.llm.file]
        other = replace(entry, sha256="0" * 64)
        manifest = replace(bundle.manifest, files={**bundle.manifest.files, bundle.manifest.llm.file: other})
        others = prompt_snapshot.PromptSnapshot(replace(bundle, manifest=manifest), model._model)
        assert snapshot._file([1, 2]) != others._file([1, 2])
        assert snapshot._file([1, 2]) != snapshot._file([1, 3])


def test_only_the_latest_are_kept():
    for batch in (32, 40, 48, 56, 64, 72):
        answer(Options(batch=batch))
    assert len(files()) == prompt_snapshot.KEPT


def test_nothing_is_kept_when_not_wanted_or_not_worth_it(monkeypatch):
    answer(Options(prompt_snapshot=False))
    assert files() == []
    monkeypatch.setattr(prompt_snapshot, "LEAST_SECONDS", 60.0)
    answer()
    assert files() == []


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch, tmp_path):
    (tmp_path / "skingpt-edge").write_text("in the way")
    found, _ = answer()
    assert found.prefill.reused == 0
    assert found.token_ids
