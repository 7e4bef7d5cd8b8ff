"""llama.cpp's AMX: only where a trial in another process went well, and then in a thread of its own."""

import json
import signal
import threading
import time

import numpy as np
import pytest
from skingpt_edge.engines.gguf_header import import_llama_cpp
from skingpt_edge.engines.llama_cpp_model import LlamaCppModel, has_amx
from skingpt_edge.engines.own_thread import OwnThread
from skingpt_edge.runtime import amx_trial
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.cache_folder import cache_folder
from skingpt_edge.runtime.options import Options
from support import FORMAT_1


@pytest.fixture
def with_amx(monkeypatch, tmp_path):
    """As if this llama.cpp had AMX and nobody had tried it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(amx_trial, "has_amx", lambda _: True)
    amx_trial.amx_works.cache_clear()
    yield
    amx_trial.amx_works.cache_clear()


def test_without_amx_there_is_no_trial(monkeypatch):
    amx_trial.amx_works.cache_clear()
    monkeypatch.setattr(amx_trial, "has_amx", lambda _: False)
    monkeypatch.setattr(amx_trial, "TRIAL", "raise SystemExit(0)")
    assert amx_trial.amx_works() is False
    amx_trial.amx_works.cache_clear()


@pytest.mark.parametrize(
    ("trial", "works"),
    [
        ("raise SystemExit(0)", True),
        ("raise SystemExit(1)", False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", False),
        ("import time; time.sleep(60)", False),
    ],
)
def test_a_trial_that_differs_crashes_or_hangs_keeps_it_off_and_is_remembered(trial, works, with_amx, monkeypatch):
    monkeypatch.setattr(amx_trial, "TRIAL", trial)
    monkeypatch.setattr(amx_trial, "SECONDS", 2)
    assert amx_trial.amx_works() is works
    [note] = (cache_folder() / "amx").iterdir()
    assert json.loads(note.read_text()) == {"works": works}
    amx_trial.amx_works.cache_clear()
    monkeypatch.setattr(amx_trial, "TRIAL", f"raise SystemExit({int(works)})")
    assert amx_trial.amx_works() is works  # not tried again
    amx_trial.amx_works.cache_clear()
    monkeypatch.setattr(amx_trial, "SCHEMA", "another trial")
    assert amx_trial.amx_works() is not works  # what an older trial found is not believed


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_note_that_says_nothing_is_not_believed(content, with_amx, monkeypatch):
    monkeypatch.setattr(amx_trial, "TRIAL", "raise SystemExit(0)")
    note = amx_trial._note(import_llama_cpp())
    note.parent.mkdir(parents=True)
    note.write_text(content)
    assert amx_trial.amx_works()


def test_the_trial_finds_logits_that_differ(monkeypatch):
    good, bad = np.arange(8, dtype=np.float32), np.arange(8, dtype=np.float32)[::-1]
    monkeypatch.setattr(amx_trial, "_logits", lambda *, amx: [good, bad if amx else good])
    assert not amx_trial.attempt()
    monkeypatch.setattr(amx_trial, "_logits", lambda *, amx: [good, good + 1e-4])
    assert amx_trial.attempt()


def test_the_trial_itself_agrees_where_nothing_is_wrong():
    if has_amx(import_llama_cpp()) and not amx_trial.amx_works():
        pytest.skip("this llama.cpp's AMX does not work here")
    assert amx_trial.attempt()


def test_only_large_models_use_it_unless_told_otherwise(monkeypatch):
    bundle, tried = read_bundle(default_bundle()), []
    monkeypatch.setattr(amx_trial, "amx_works", lambda: not tried.append("tried"))
    assert not amx_trial.use_amx(bundle, Options())
    assert amx_trial.use_amx(bundle, Options(amx=True))
    assert not tried
    monkeypatch.setattr(amx_trial, "LEAST", bundle.manifest.files["llm.gguf"].size)
    assert amx_trial.use_amx(bundle, Options())
    assert not amx_trial.use_amx(bundle, Options(amx=False))
    assert not amx_trial.use_amx(bundle, Options("cuda"))
    assert len(tried) == 1


def test_with_amx_llama_cpp_computes_in_one_thread_of_its_own(monkeypatch):
    lib, threads = import_llama_cpp(), []
    plain = lib.llama_decode
    monkeypatch.setattr("skingpt_edge.engines.llama_cpp_model.has_amx", lambda _: True)
    monkeypatch.setattr("skingpt_edge.engines.llama_cpp_model.overrides", lambda *_, **__: None)  # needs a real AMX
    monkeypatch.setattr(lib, "llama_decode", lambda *a: threads.append(threading.current_thread().name) or plain(*a))
    for amx in (True, False):
        model = LlamaCppModel(FORMAT_1 / "llm.gguf", context=256, threads=1, precision="q8_0", amx=amx)
        model.evaluate_tokens(1, 0, [1, 5, 9])
        model.logits()
        assert model.info.version.endswith("with AMX") is amx
        model.close()
    assert threads[0].startswith("llama.cpp")
    assert threads[1] == threading.current_thread().name


def test_an_interrupted_call_is_waited_for():
    thread, done = OwnThread("test"), threading.Event()

    def slow():
        time.sleep(0.5)
        done.set()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread(slow)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done.is_set()
    thread.close()
