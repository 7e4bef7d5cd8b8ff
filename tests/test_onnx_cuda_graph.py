"""Vision replayed as a CUDA graph. Here it runs on the CPU: the same calls, but nothing is recorded."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines import onnx_cuda_graph, onnx_runtime, registry
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.cuda_driver import gpu_kind
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
    assert len(opened) == 1
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
    with pytest.raises(EngineUnavailable, match=r"see docs/gpu\.md for onnxruntime-gpu, or ask for"):
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
    ("inputs", "message"),
    [
        ({}, "for each picture it takes"),
        ({"pixels": np.zeros((1, 3, 8, 8), np.float32)}, "for each picture it takes"),
        ({"pixels": np.zeros((0, 3, 224, 224), np.float32)}, "for each picture it takes"),
        ({"pictures": np.zeros((1, 3, 224, 224), np.float32)}, "for each picture it takes"),
        ({"pixels": np.zeros((1, 3, 224, 224))}, "it takes float32, given were float64"),
    ],
)
def test_other_inputs_are_an_error(inputs, message, encoder):
    with pytest.raises(EngineError, match=message):
        encoder.run(inputs)
    encoder.run(random_inputs(encoder, 1))


def test_closing_wipes_the_picture(encoder):
    encoder.run(random_inputs(encoder, 1))
    views = [buffer.numpy() for buffer in encoder._buffers.values()]  # of the same memory, on the CPU
    assert all(view.any() for view in views)
    encoder.close()
    assert not any(view.any() for view in views)


class Broken:
    """A buffer on a GPU that has failed."""

    def shape(self):
        return [1]

    def update_inplace(self, array):
        raise RuntimeError("CUDA failure 700: an illegal memory access ; GPU=0")


def test_after_a_fault_of_the_gpu_all_is_freed_and_the_first_error_is_told(bundle, encoder, monkeypatch):
    encoder._buffers["pixels"] = Broken()
    with pytest.raises(EngineError, match=r"ONNX Runtime failed: CUDA failure 700: an illegal memory access$"):
        encoder.close()
    assert encoder._session is None
    assert encoder._buffers == {}

    def fail(self):
        self._buffers["pixels"] = Broken()
        raise EngineError("the capture failed")

    monkeypatch.setattr(OrtCudaGraph, "_capture", fail)
    with pytest.raises(EngineError, match="the capture failed"):
        OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), ON_CPU)


def test_a_closed_graph_says_so(encoder):
    encoder.close()
    encoder.close()
    with pytest.raises(EngineError, match="the model is closed"):
        encoder.run(random_inputs(encoder, 1))


def test_a_forked_child_gets_an_error_and_does_not_hang_even_if_a_picture_was_being_computed(encoder):
    computing, go_on = threading.Event(), threading.Event()
    replay = encoder._replay
    encoder._replay = lambda picture: (computing.set(), go_on.wait(60), replay(picture))[2]
    busy = threading.Thread(target=encoder.run, args=(random_inputs(encoder, 1),))
    busy.start()
    assert computing.wait(60)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends it if it hangs
        try:
            encoder.run(random_inputs(encoder, 1))
        except EngineError as error:
            os.write(writing, str(error).encode())
        encoder.close()
        os._exit(0)
    os.close(writing)
    go_on.set()
    busy.join(60)
    assert os.waitpid(child, 0)[1] == 0
    assert b"before this process was forked" in os.read(reading, 1000)
    os.close(reading)


AT_THE_END = """
import atexit
atexit.register(lambda: (graph.close(), print("closed")))  # runs last
import threading, time
import numpy as np
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.cuda_driver import gpu_kind
from skingpt_edge.engines.onnx_cuda_graph import OrtCudaGraph
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
bundle = read_bundle(default_bundle())
graph = OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), GraphSetup("onnxruntime-cuda-graph", "cpu", 1))
def late():
    time.sleep(0.5)
    graph.run({"pixels": np.zeros((1, 3, 224, 224), np.float32)})
    print("computed")
threading.Thread(target=late).start()
"""


def test_it_works_until_the_interpreter_has_ended():
    result = subprocess.run(
        [sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.stdout, result.stderr, result.returncode) == ("computed\nclosed\n", "", 0)


def test_one_that_is_dropped_frees_its_session_and_ends_its_thread(bundle):
    graph = OrtCudaGraph(bundle.file(bundle.manifest.vision.encoder), ON_CPU)
    session, threads = weakref.ref(graph._session), threading.active_count()
    del graph
    gc.collect()
    until = time.monotonic() + 60
    while threading.active_count() == threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == threads - 1
    assert session() is None


def test_what_onnx_runtime_raises_names_the_graph(encoder, monkeypatch):
    def fail(row):
        raise RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; file=…"
        )

    monkeypatch.setattr(encoder, "_replay", fail)
    with pytest.raises(EngineError, match=r"\.onnx: there is too little memory to run it"):
        encoder.run(random_inputs(encoder, 1))


def has_gpu():
    try:
        return bool(gpu_kind()) and registry.GRAPH_ENGINES[NAME].is_installed_for("cuda")
    except EngineUnavailable:
        return False


@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU and ONNX Runtime for it")
@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("part", ["encoder", "qformer"])
def test_a_captured_graph_computes_what_the_same_gpu_does_without(part, precision, make_bundle):
    bundle = read_bundle(make_bundle(precision, "f16"))
    path, on_gpu = bundle.file(getattr(bundle.manifest.vision, part)), replace(ON_CPU, device="cuda")
    graph, usual = OrtCudaGraph(path, on_gpu), OrtGraph(path, on_gpu)
    for seed in (1, 2, 1):
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


def test_a_replay_that_does_not_take_over_the_next_picture_is_found_at_once(on_cpu, bundle, monkeypatch):
    """The worst that a captured graph could do: every patient would get the first picture's embeddings."""
    real = OrtCudaGraph._replay

    def stuck(self, inputs):
        self.first = getattr(self, "first", inputs)
        return real(self, self.first)

    monkeypatch.setattr(OrtCudaGraph, "_replay", stuck)
    with pytest.raises(EngineError, match="does not compute here what the bundle stores"):
        load_vision(bundle, ON_CPU)
