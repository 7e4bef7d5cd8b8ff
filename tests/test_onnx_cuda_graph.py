"""Vision replayed as a CUDA graph. Here it runs on the CPU: the same calls, but nothing is recorded."""

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines import onnx_cuda_graph, onnx_runtime, registry
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.errors import BundleError, EngineError, EngineUnavailable
from skingpt_edge.engines.onnx_cuda_graph import OrtCudaGraph
from skingpt_edge.engines.onnx_runtime import OrtGraph
from skingpt_edge.runtime import Options, SkinGPT
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.loading import load_vision

NAME = "onnxruntime-cuda-graph"
ON_CPU = GraphSetup(NAME, "cpu", threads=1)


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(default_bundle())


@pytest.fixture
def encoder(bundle):
    graph = OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), ON_CPU)
    yield graph
    graph.close()


@pytest.fixture
def on_cpu(monkeypatch):
    """The registry lets the engine run on the CPU, too."""
    engine = registry.GRAPH_ENGINES[NAME]
    monkeypatch.setitem(registry.GRAPH_ENGINES, NAME, replace(engine, devices=("cpu", "cuda")))


def random_inputs(graph, count, seed=0):
    chance = np.random.default_rng(seed)
    return {spec.name: chance.standard_normal((count, *spec.shape[1:]), np.float32) for spec in graph.inputs}


@pytest.mark.parametrize("part", ["encoder", "qformer"])
def test_each_picture_is_what_onnx_runtime_computes_of_it_alone(part, bundle):
    path = bundle.file(getattr(bundle.manifest.vision, part))
    graph, usual = OrtCudaGraph(path, ON_CPU), OrtGraph(path, ON_CPU)
    assert (graph.inputs, graph.outputs) == (usual.inputs, usual.outputs)
    pictures = random_inputs(graph, 3)
    found = graph.run(pictures)
    for i in range(3):
        alone = usual.run({name: array[i : i + 1] for name, array in pictures.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(found[name][i], array[0])


def test_a_result_stays_when_the_next_picture_is_computed(encoder):
    first = encoder.run(random_inputs(encoder, 1))["image_features"]
    before = first.copy()
    second = encoder.run(random_inputs(encoder, 1, seed=1))["image_features"]
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, before)


def test_one_thread_makes_all_calls_whoever_asks(bundle, monkeypatch):
    opened, ran = [], []
    real = onnx_runtime.open_session

    def noted(*args, **kwargs):
        opened.append(threading.get_ident())
        return real(*args, **kwargs)

    monkeypatch.setattr(onnx_runtime, "open_session", noted)
    graph = OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), ON_CPU)
    replay = graph._replay
    monkeypatch.setattr(graph, "_replay", lambda row: (ran.append(threading.get_ident()), replay(row))[1])
    expected = {seed: graph.run(random_inputs(graph, 1, seed))["image_features"] for seed in range(4)}
    found = {}

    def ask(seed):
        found[seed] = graph.run(random_inputs(graph, 1, seed))["image_features"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    graph.close()
    assert len(ran) == 8
    assert set(ran) == set(opened)
    assert opened != [threading.get_ident()]
    for seed in range(4):
        np.testing.assert_array_equal(found[seed], expected[seed])


def test_a_gpu_is_asked_to_record_a_graph_of_one_picture_without_the_processor(bundle, monkeypatch):
    asked = {}

    def note(path, setup, **kwargs):
        asked.update(kwargs)
        raise EngineUnavailable("enough")

    monkeypatch.setattr(onnx_runtime, "open_session", note)
    with pytest.raises(EngineUnavailable, match="enough"):
        OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), replace(ON_CPU, device="cuda"))
    assert asked["provider_options"]["enable_cuda_graph"] == "1"
    assert asked["sizes"] == {"batch": 1}
    assert asked["on_cpu"] == frozenset()


def test_without_cuda_it_is_an_error_with_the_remedy():
    if "CUDA" in onnx_runtime.build():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineUnavailable, match="pip install 'onnxruntime-gpu"):
        SkinGPT.open(options=Options(vision_device="cuda", vision_engine=NAME, threads=1))


def test_a_graph_of_no_picture_is_refused(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"graph\.onnx: ONNX Runtime cannot load it"):
        OrtCudaGraph(path, ON_CPU)


def test_a_graph_with_another_dimension_that_varies_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(onnx_cuda_graph, "BATCH", "pictures")
    with pytest.raises(BundleError, match="expected only 'pictures' to vary"):
        OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), ON_CPU)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pixels": np.zeros((1, 3, 8, 8), np.float32)},
        {"pixels": np.zeros((0, 3, 224, 224), np.float32)},
        {"pictures": np.zeros((1, 3, 224, 224), np.float32)},
    ],
)
def test_other_inputs_are_an_error(inputs, encoder):
    with pytest.raises(EngineError, match="for each picture it takes"):
        encoder.run(inputs)
    encoder.run(random_inputs(encoder, 1))


def test_a_closed_graph_says_so(encoder):
    encoder.close()
    encoder.close()
    with pytest.raises(EngineError, match="the model is closed"):
        encoder.run(random_inputs(encoder, 1))


def test_a_forked_child_gets_an_error_and_does_not_hang(encoder):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            encoder.run(random_inputs(encoder, 1))
        except EngineError as error:
            os.write(writing, str(error).encode())
        encoder.close()
        os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    assert b"before this process was forked" in os.read(reading, 1000)
    os.close(reading)


def test_what_onnx_runtime_raises_names_the_graph(encoder, monkeypatch):
    def fail(row):
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; Failed to allocate memory")

    monkeypatch.setattr(encoder, "_replay", fail)
    with pytest.raises(EngineError, match=r"\.onnx: there is too little memory to run it"):
        encoder.run(random_inputs(encoder, 1))


@pytest.mark.skipif(
    not registry.GRAPH_ENGINES[NAME].is_installed_for("cuda"), reason="needs an NVIDIA GPU and ONNX Runtime for it"
)
@pytest.mark.parametrize("part", ["encoder", "qformer"])
def test_a_recorded_graph_computes_what_the_same_gpu_does_without(part, exact_bundle):
    bundle = read_bundle(exact_bundle)
    path, on_gpu = bundle.file(getattr(bundle.manifest.vision, part)), replace(ON_CPU, device="cuda")
    graph, usual = OrtCudaGraph(path, on_gpu), OrtGraph(path, on_gpu)
    for seed in range(3):  # recorded, then replayed
        pictures = random_inputs(graph, 2, seed)
        found, expected = graph.run(pictures), usual.run(pictures)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-2, atol=1e-2)
    graph.close()


def test_answers_are_the_same_with_this_engine(on_cpu):
    picture = next((default_bundle().parent / "pictures").glob("*.jpg")).read_bytes()
    answers = []
    for engine in (None, NAME):
        with SkinGPT.open(options=Options(vision_engine=engine, threads=1)) as model:
            answers.append(model.ask(model.embed(picture), "What is this?").token_ids)
            assert model.engines["vision_encoder"].engine == engine or not engine
    assert answers[0] == answers[1]


def test_what_is_not_what_the_bundle_stores_is_refused_before_it_is_used(on_cpu, bundle):
    stored = bundle.manifest.self_test
    wrong = replace(stored, image_embeds=tuple(reversed(stored.image_embeds)))
    damaged = replace(bundle, manifest=replace(bundle.manifest, self_test=wrong))
    load_vision(bundle, ON_CPU).close()
    with pytest.raises(EngineError, match="does not compute here what the bundle stores"):
        load_vision(damaged, ON_CPU)
