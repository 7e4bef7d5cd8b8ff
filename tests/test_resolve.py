"""Command line, Python and benchmark resolve the same options to the same setup, and exactly that is opened."""

import json
from dataclasses import fields, replace

import pytest
from skingpt_edge.benchmarks import cli as bench_cli
from skingpt_edge.benchmarks.measure.steps import Measurement
from skingpt_edge.benchmarks.measure.suites import SUITES
from skingpt_edge.engines import registry
from skingpt_edge.engines.base import LanguageModelSetup
from skingpt_edge.engines.errors import BundleError, InputError
from skingpt_edge.runtime import Options, Setup, SkinGPT, loading, resolve, tuning
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.loading import load
from skingpt_edge.runtime.machine import physical_cores
from skingpt_edge.runtime.verification import open_bundle
from support import FORMAT_1, ROOT, run

PICTURE = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[0]
TUNED = tuning.Tuning(threads=3, vision_threads=1, prefill_threads=4, layout="repacked", seconds={})


@pytest.fixture(autouse=True)
def remembered(tmp_path, monkeypatch):
    """This machine was tuned for the demonstration bundle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = read_bundle(default_bundle())
    tuning.remember(bundle, resolve(bundle, Options(tuning=False)), TUNED)
    return bundle


def from_the_command_line(*options):
    result = run("skingpt", "chat", PICTURE, "-q", "What?", "--json", "--max-new-tokens", "2", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["setup"]


def from_python(options):
    with SkinGPT.open(options=options) as model:
        return model.make_report(model.embed(PICTURE.read_bytes()), [], model.defaults).to_json()["setup"]


def from_the_benchmark(*arguments):
    """What the process that is measured opens when `skingpt-bench run` is given these arguments."""
    bundle = default_bundle()
    given = bench_cli.make_parser().parse_args(["run", str(bundle), *arguments])
    measurement = Measurement(read_bundle(bundle), SUITES["quick"], bench_cli._options(given))
    with measurement._ours("whole", answer_tokens=2) as worker:
        return worker.opened["setup"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), Options()),
        (("--threads", "2"), Options(threads=2)),
        (("--no-tuning",), Options(tuning=False)),
        (("--context", "512", "--kv-type", "q8_0"), Options(context=512, kv_type="q8_0")),
    ],
    ids=["left open", "threads", "no tuning", "context and KV type"],
)
def test_command_line_python_and_benchmark_run_the_same_setup(arguments, options):
    # Huge pages concern the whole process, so they are for the program to ask for: the two commands do.
    asked = replace(options, huge_pages=True)
    documents = [from_the_command_line(*arguments), from_python(asked), from_the_benchmark(*arguments)]
    assert documents[0] == documents[1] == documents[2]
    assert documents[0]["requested"] == asked.to_json()
    threads = (3, 4, 1) if options.tuning and not options.threads else (options.threads or physical_cores(),) * 3
    vision, language = documents[0]["resolved"]["vision"], documents[0]["resolved"]["language_model"]
    assert (language["threads"], language["prefill_threads"], vision["threads"]) == threads


def test_the_same_question_gets_the_same_setup_again(remembered):
    assert resolve(remembered, Options()) == resolve(remembered, Options())


def test_what_engines_report_is_what_was_resolved():
    with SkinGPT.open(options=Options(conversations=3, context=300, batch=64)) as model:
        setup, info = model.setup, model.engines
    language, found = setup.language_model, info["language_model"]
    assert found.threads == language.threads == 3
    assert found.details["prefill_threads"] == language.prefill_threads == 4
    # llama.cpp rounds the cells up.
    assert found.details["cells"] >= language.cells == 900
    assert (found.details["batch"], found.details["sequences"]) == (language.batch, language.sequences) == (64, 4)
    assert info["vision_encoder"].threads == setup.vision.threads == 1


def test_every_field_of_a_setup_is_concrete(remembered):
    setup = resolve(remembered, Options())
    values = {**setup.to_json(), **setup.to_json()["vision"], **setup.to_json()["language_model"]}
    assert None not in values.values()
    assert {field.name for field in fields(LanguageModelSetup)} <= values.keys()


def test_exactly_the_setup_is_opened(remembered):
    """Loading asks neither the machine nor what was tuned."""
    setup = resolve(remembered, Options())
    changed = replace(setup, language_model=replace(setup.language_model, threads=2, batch=40))
    engines = load(remembered, changed)
    assert engines.language_model.info.threads == 2
    assert engines.language_model.n_batch == 40
    engines.vision.close()
    engines.language_model.close()


def test_samples_share_their_prompts_cells(remembered):
    def cells(**options):
        return resolve(remembered, Options(**options)).language_model.cells

    context, answer = remembered.manifest.llm.context, remembered.manifest.generation.max_new_tokens
    assert cells() == context
    assert cells(conversations=2) == 2 * context
    assert cells(samples=10) == context + 9 * answer
    assert cells(samples=10, sample_tokens=20) == context + 9 * 20
    assert cells(samples=10, cells=777) == 777
    assert resolve(remembered, Options(samples=10)).conversations == 10
    assert resolve(remembered, Options(samples=100)).conversations == 64


def test_a_gpu_gets_all_layers_and_a_kv_type_it_has_kernels_for(remembered):
    def language(**options):
        return resolve(remembered, Options(device="cuda", **options)).language_model

    assert language().gpu_layers == 3 + 1  # the layers, and the output matrix
    assert language(gpu_layers=2).gpu_layers == 2
    assert language().threads == physical_cores()  # what was tuned is the CPU's
    assert (language().layout, language(gpu_layers=2).layout) == ("plain", "repacked")
    manifest = replace(remembered.manifest, llm=replace(remembered.manifest.llm, kv_type="q8_0/f16"))
    kept = replace(remembered, manifest=manifest)
    assert resolve(kept, Options(device="cuda", tuning=False)).language_model.kv_type == "f16"
    assert resolve(kept, Options(tuning=False)).language_model.kv_type == "q8_0/f16"
    assert resolve(kept, Options(device="cuda", kv_type="q8_0", tuning=False)).language_model.kv_type == "q8_0"


def test_vision_stays_on_the_processor_if_its_graphs_are_int8():
    bundle = read_bundle(default_bundle())

    def vision(precision, **options):
        part = replace(
            bundle.manifest.vision, precision=precision, arithmetic={"f16": "float16"}.get(precision, "int8")
        )
        other = replace(bundle, manifest=replace(bundle.manifest, vision=part))
        return resolve(other, Options(tuning=False, **options)).vision.device

    assert vision("int8", device="cuda") == vision("int8-block", device="cuda") == "cpu"
    assert vision("f16", device="cuda") == "cuda"
    assert vision("int8", device="cuda", vision_device="cuda") == "cuda"
    assert vision("int8", device="cuda", vision_engine="tensorrt-rtx") == "cuda"
    assert vision("f16", device="cuda", vision_device="cpu") == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device 'tpu' is unknown to llama.cpp; known are cpu, cuda"),
        ({"vision_device": "tpu"}, "device 'tpu' is unknown to onnxruntime"),
        ({"vision_engine": "llama.cpp"}, "engine 'llama.cpp' is unknown; known are onnxruntime"),
        ({"language_engine": "mine"}, "engine 'mine' is unknown; known are llama.cpp"),
    ],
)
def test_engines_and_devices_that_do_not_exist_are_named(remembered, options, message):
    with pytest.raises(InputError, match=message):
        resolve(remembered, Options(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0, expected 1 to 1024"),
        ({"kv_type": "q1"}, "kv_type is 'q1'; known are f32, f16"),
        ({"layout": "odd"}, "layout is 'odd'; known are repacked, plain"),
        ({"gpu_layers": 3}, "gpu_layers is 3, but the device is the CPU"),
        ({"samples": 0}, "samples is 0, expected 1 to 100"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_a_vision_half_that_cannot_be_loaded_frees_the_other(remembered, tmp_path, monkeypatch):
    closed = []

    class Model:
        def close(self):
            closed.append("language model")

    def fail(*_):
        raise BundleError("no graph")

    monkeypatch.setattr(loading, "load_language_model", lambda *_: Model())
    monkeypatch.setattr(loading, "load_vision", fail)
    with pytest.raises(BundleError, match="no graph"):
        load(remembered, resolve(remembered, Options()))
    assert closed == ["language model"]


def test_a_second_graph_that_cannot_be_loaded_frees_the_first(remembered, monkeypatch):
    closed = []

    class Graph:
        def __init__(self, path, setup):
            if "qformer" in path.name:
                raise BundleError("no graph")

        def close(self):
            closed.append("first")

    monkeypatch.setattr(registry, "open_graph", Graph)
    with pytest.raises(BundleError, match="no graph"):
        loading.load_vision(remembered, resolve(remembered, Options()).vision)
    assert closed == ["first"]


def test_a_setup_and_options_are_json():
    bundle = open_bundle(FORMAT_1)
    document = json.loads(json.dumps(resolve(bundle, Options()).to_json()))
    assert document.keys() == {field.name for field in fields(Setup)}
    assert Options(**json.loads(json.dumps(Options(threads=2).to_json()))) == Options(threads=2)
