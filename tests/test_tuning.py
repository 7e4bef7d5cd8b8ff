"""What `skingpt tune` remembers, and what `skingpt info` says before anything is loaded."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from skingpt_edge.engines import llama_cpp_model
from skingpt_edge.engines.gguf_header import read_gguf_header
from skingpt_edge.runtime import tuning
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.cli import tune as tune_command
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.requirements import FOR_A_GPU, Requirements, needed_memory
from skingpt_edge.runtime.resolving import resolve
from support import ROOT, run

PICTURE = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[0]
MADE_UP = tuning.Tuning(threads=3, vision_threads=1, prefill_threads=2, layout="plain", seconds={})


@pytest.fixture(autouse=True)
def forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle():
    return read_bundle(default_bundle())


def setup_of(bundle):
    return resolve(bundle, Options(tuning=False))


def recall(bundle):
    return tuning.recall(bundle, ("onnxruntime", "llama.cpp"), ("cpu", "cpu"))


def engines(*options):
    result = run("skingpt", "chat", PICTURE, "-q", "What?", "--json", "--max-new-tokens", "2", *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["engines"]
    language = found["language_model"]
    return language["threads"], language["details"]["prefill_threads"], found["vision_encoder"]["threads"]


def test_what_tune_finds_is_used_from_then_on_unless_told_otherwise(bundle):
    result = run("skingpt", "tune", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    layout = document["layout"]
    for stage, chosen in (
        (f"decode, {layout}", "threads"), ("vision", "vision_threads"), (f"prefill, {layout}", "prefill_threads"),
    ):  # fmt: skip
        seconds = document["seconds"][stage]
        assert seconds[str(document[chosen])] == min(seconds.values())
    assert recall(bundle).threads == document["threads"]
    tuning.remember(bundle, setup_of(bundle), MADE_UP)
    # As the engines themselves report it.
    assert engines() == (3, 2, 1)
    assert engines("--threads", "2") == (2, 2, 2)
    assert engines("--no-tuning")[0] != 3


def test_of_two_layouts_the_one_with_the_faster_answer_is_taken(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "_vision_seconds", lambda bundle, setup, threads: 1.0)
    opened, speeds = [], {"repacked": tuning.Speed(0.03, 0.10), "plain": tuning.Speed(0.01, 0.10)}

    def load(bundle, setup):
        opened.append(setup.layout)
        return nullcontext()

    monkeypatch.setattr(tuning, "load_language_model", load)
    monkeypatch.setattr(tuning, "closing", lambda model: model)
    monkeypatch.setattr(tuning, "_language_model_speed", lambda model, threads: speeds[opened[-1]])
    found = tuning.tune(bundle, setup_of(bundle))
    assert (opened, found.layout, found.speed) == (["repacked", "plain"], "plain", speeds["plain"])
    # A difference that may be chance, and an answer that is slower though its prompt is faster.
    for other in (tuning.Speed(0.03, 0.098), tuning.Speed(0.01, 0.12)):
        speeds["plain"] = other
        assert tuning.tune(bundle, setup_of(bundle)).layout == "repacked"
    assert tuning.tune(bundle, setup_of(bundle), ["plain"]).layout == "plain"


def test_what_was_measured_on_a_gpu_is_not_used_on_the_processor(bundle):
    setup = setup_of(bundle)
    tuning.remember(bundle, replace(setup, language_model=replace(setup.language_model, device="cuda")), MADE_UP)
    assert recall(bundle) is None
    assert resolve(bundle, Options()).language_model.layout == "repacked"


def test_the_layout_that_tune_found_is_used_on_the_processor_unless_told_otherwise(bundle):
    tuning.remember(bundle, setup_of(bundle), MADE_UP)

    def layout(**options):
        return resolve(bundle, Options(**options)).language_model.layout

    assert layout() == "plain"
    assert layout(layout="repacked") == layout(tuning=False) == layout(device="cuda", gpu_layers=2) == "repacked"


def test_a_note_that_cannot_be_used_is_ignored(bundle):
    target = tuning.remember(bundle, setup_of(bundle), MADE_UP)
    assert recall(bundle) == MADE_UP
    whole = target.read_text()
    for broken in (
        "",
        "[]",
        whole.replace("tuning/5", "tuning/9"),
        whole.replace('"layout": "plain"', '"layout": "odd"'),
        whole.replace('"threads": 3', '"threads": -3'),
        whole.replace('"threads": 3', '"threads": true'),
        whole.replace('"threads": 3', '"threads": "3"'),
        whole.replace('"threads": 3,', ""),
        whole.replace('"seconds": {}', '"seconds": []'),
        whole.replace('"seconds": {}', '"seconds": {"prefill, plain": {"1": "x"}, "decode, plain": {"1": 1}}'),
    ):
        target.write_text(broken)
        assert recall(bundle) is None, broken


def test_a_note_of_another_build_of_llama_cpp_is_not_used(bundle, monkeypatch):
    tuning.remember(bundle, setup_of(bundle), MADE_UP)
    monkeypatch.setattr(llama_cpp_model, "build", lambda: "the same version, compiled with other instructions")
    assert recall(bundle) is None


def test_a_folder_that_cannot_be_written_is_said(bundle, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    result = run("skingpt", "tune")
    assert result.returncode == 3
    assert "the tuning cannot be kept" in result.stderr


def test_too_little_memory_is_refused_before_anything_is_loaded(bundle, monkeypatch):
    needed = needed_memory(bundle, setup_of(bundle))
    monkeypatch.setattr(tune_command, "available_memory", lambda: needed - 1)
    with pytest.raises(tune_command.InputError, match=r"the bundle needs 0\.3 GB of memory and 0\.3 GB are free"):
        tune_command.run(tune_command.BundleAndOptions(default_bundle(), json=False, options=Options(tuning=False)))


def test_what_a_gpu_holds_is_not_counted_as_the_machines_memory(bundle):
    def needed(**options):
        return needed_memory(bundle, resolve(bundle, Options(tuning=False, kv_type="f16", **options)))

    header = read_gguf_header(bundle.file(bundle.manifest.llm.file))
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    layers = sum(size for name, size in sizes.items() if name.startswith("blk."))
    cells = 2 * header.n_layer * header.kv_width * 2 * 2048
    output = sizes.get("output.weight", 0)
    on_gpu = needed(device="cuda")
    assert needed() - on_gpu == layers + output + cells - FOR_A_GPU
    last = sum(size for name, size in sizes.items() if name.startswith(f"blk.{header.n_layer - 1}."))
    assert (
        needed(device="cuda", gpu_layers=2) - on_gpu == layers - last + cells * (header.n_layer - 1) // header.n_layer
    )
    graphs = sum(entry.size for name, entry in bundle.manifest.files.items() if ".onnx" in name)
    assert on_gpu - needed(device="cuda", vision_device="cuda") == graphs
    assert needed(device="cuda", gpu_layers=0) - needed() == FOR_A_GPU


def test_memory_counts_weights_and_the_kv_cache(bundle):
    def needed(**options):
        return needed_memory(bundle, resolve(bundle, Options(**options)))

    # Three layers of width 256, keys and values, four bytes instead of two.
    assert needed(kv_type="f32") - needed(kv_type="f16") == 2 * 3 * 256 * 2 * 2048
    assert needed(kv_type="f16") - needed(kv_type="q8_0/f16") == 3 * 256 * 2048 * 2 - 3 * 256 * 2048 * 34 // 32
    assert needed(conversations=3, kv_type="f16") - needed(kv_type="f16") == 2 * 3 * 256 * 2 * 2048 * 2


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Requirements(6_400_000_000, 16_000_000_000, 17.2), "It fits: it needs 6.4 GB of memory and 16.0 GB are free"),
        (Requirements(6_400_000_000, 4_000_000_000, 17.2), "It does not fit: it needs 6.4 GB of memory and only 4.0"),
        (Requirements(6_400_000_000, None, 240.0), "this system does not say what is free; an answer of 120"),
    ],
)
def test_a_sentence_says_whether_it_fits(found, sentence):
    assert sentence in found.sentence()


def test_info_says_whether_its_time_was_measured(bundle):
    assert "estimated from the memory's speed" in run("skingpt", "info").stdout
    seconds = {"prefill, plain": {"1": 3.0, "2": 2.0}, "decode, plain": {"1": 1.0, "2": 1.5}}
    measured = replace(MADE_UP, seconds=seconds)
    tuning.remember(bundle, setup_of(bundle), measured)
    facts = json.loads(run("skingpt", "info", "--json").stdout)
    assert facts["answer_seconds"] == 120 * 1.0 + 60 * 2.0
    assert "as `skingpt tune` measured" in facts["here"]
    # Measured with other threads or on another device, they would be somebody else's seconds.
    for other in (("--threads", "1"), ("--layout", "repacked")):
        assert "estimated from the memory's speed" in run("skingpt", "info", *other).stdout, other
    on_gpu = run("skingpt", "info", "--device", "cuda").stdout
    assert "How long an answer takes on a GPU is not estimated." in on_gpu


def test_info_says_what_would_run_before_anything_is_loaded(bundle):
    tuning.remember(bundle, setup_of(bundle), MADE_UP)
    facts = json.loads(run("skingpt", "info", "--json").stdout)
    assert facts["fits"] is True
    assert facts["memory_needed_bytes"] > facts["size_bytes"]
    assert facts["setup"]["language_model"]["threads"] == 3
    shown = run("skingpt", "info").stdout
    assert "It fits" in shown
    assert "threads 3, prefill_threads 2" in shown


def test_threads_are_tried_up_to_every_hardware_thread(bundle, monkeypatch):
    monkeypatch.setattr(tuning, "logical_cpus", lambda: 6)
    monkeypatch.setattr(tuning, "physical_cores", lambda: 4)
    monkeypatch.setattr(tuning, "_vision_seconds", lambda bundle, setup, threads: 1 / threads)
    monkeypatch.setattr(tuning, "_language_model_speed", lambda model, threads: tuning.Speed(threads, 1 / threads))
    found = tuning.tune(bundle, setup_of(bundle))
    assert list(found.seconds["vision"]) == ["1", "2", "3", "4", "6"]
    assert (found.vision_threads, found.prefill_threads, found.threads) == (6, 1, 6)
