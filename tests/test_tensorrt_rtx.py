"""TensorRT-RTX: plans are built for every kind of GPU, kept safely, and checked before they are used.

Running a plan needs an RTX card; the tests that do are skipped without one.
"""

import json
import os
import shutil
import stat
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from skingpt_edge.engines import registry
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.cuda_driver import Gpu, GpuFacts, gpu_facts
from skingpt_edge.engines.errors import BundleError, EngineError, EngineUnavailable
from skingpt_edge.engines.onnx_runtime import OrtGraph
from skingpt_edge.engines.tensorrt_rtx import TensorRtxGraph
from skingpt_edge.engines.tensorrt_rtx_plan import TARGETS, Plan, build_plan
from skingpt_edge.runtime import loading, plan_cache
from skingpt_edge.runtime.bundle import Bundle, read_bundle
from skingpt_edge.runtime.check_picture import check_vision
from skingpt_edge.runtime.loading import load_vision
from skingpt_edge.runtime.plan_cache import build_ahead, keep_plan, plan_for, plan_key, read_plan
from support import GOLDEN, ROOT, run

PICTURE = ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg"
ENCODER, QFORMER = "vision_encoder.onnx", "qformer.onnx"
CARD, DRIVER = GpuFacts("a card", "sm89", "580.65"), "580.65"
ON_CPU, ON_GPU = GraphSetup("onnxruntime", "cpu", 1), GraphSetup("tensorrt-rtx", "cuda", 1)


def found_gpu() -> GpuFacts | None:
    try:
        return gpu_facts()
    except EngineUnavailable:
        return None


needs_gpu = pytest.mark.skipif(found_gpu() is None, reason="needs an NVIDIA GPU and its driver")
without_gpu = pytest.mark.skipif(found_gpu() is not None, reason="this machine has an NVIDIA GPU")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def bundle(make_bundle) -> Bundle:
    return read_bundle(make_bundle("f16", "q8_0"))


@pytest.fixture
def card(monkeypatch):
    """As if this machine had a GPU; it is asked only what it is."""
    monkeypatch.setattr(plan_cache, "gpu_facts", lambda: CARD)


@pytest.mark.parametrize("target", TARGETS)
def test_both_graphs_are_built_for_every_target(bundle, target):
    for graph in (ENCODER, QFORMER):
        weights = bundle.file(f"{graph}.data").stat().st_size
        assert len(build_plan(bundle.file(graph), target)) > 0.9 * weights


def test_float32_graphs_are_built_too_where_the_card_can_multiply_them(exact_bundle):
    graph = exact_bundle / QFORMER
    assert len(build_plan(graph, "sm86")) > (exact_bundle / f"{QFORMER}.data").stat().st_size
    with pytest.raises(EngineError, match="multiplies no float32 on sm75: make the bundle anew with --vision f16"):
        build_plan(graph, "sm75")


def test_int8_is_refused_and_the_remedy_named():
    result = run("skingpt-export", "engine", ROOT / "runtime/demo/bundle", "--target", "sm89")
    assert result.returncode == 6
    assert f"error: {ENCODER}: TensorRT-RTX does not take its operators DynamicQuantizeLinear, MatMulInteger." in (
        result.stderr
    )
    assert "make the bundle with --vision f16" in result.stderr


def test_other_graphs_that_cannot_be_built_are_refused(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"graph\.onnx"):
        build_plan(path, "sm89")
    fixed = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "g", fixed[:1], fixed[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    with pytest.raises(BundleError, match=r"a has shape \(2, 3\), only the batch may vary"):
        build_plan(path, "sm89")


def test_a_gpu_that_the_library_does_not_build_for_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(plan_cache, "gpu_facts", lambda: GpuFacts("NVIDIA H100", "sm90", DRIVER))
    with pytest.raises(
        EngineUnavailable, match=r"no plan for NVIDIA H100 \(sm90\), only for sm75, .*--vision-engine onnx"
    ):
        plan_for(bundle, QFORMER)


def test_a_missing_library_says_what_to_install(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'skingpt-edge\[rtx\]'"):
        build_plan(bundle.file(QFORMER), "sm89")


@without_gpu
def test_without_a_gpu_it_is_an_error_and_no_other_engine_runs(bundle):
    with pytest.raises(EngineUnavailable, match=r"NVIDIA's driver is not installed.*install it, or ask for 'cpu'"):
        TensorRtxGraph(bundle.file(QFORMER), ON_GPU)
    engine = ("--vision-device", "cuda", "--vision-engine", "tensorrt-rtx")
    result = run("skingpt", "chat", PICTURE, "-q", "What?", "--bundle", bundle.path, *engine)
    assert result.returncode == 6
    assert "NVIDIA's driver is not installed" in result.stderr
    assert not result.stdout


def test_the_command_line_knows_the_engine_and_its_device():
    unknown = run("skingpt", "info", "--vision-engine", "tensorrt")
    assert unknown.returncode == 2
    assert "tensorrt-rtx" in unknown.stderr
    on_cpu = run("skingpt", "info", "--vision-engine", "tensorrt-rtx")
    assert on_cpu.returncode == 3
    assert "device 'cpu' is unknown to tensorrt-rtx; known are cuda" in on_cpu.stderr
    assert run("skingpt-export", "engine", "BUNDLE", "--target", "sm90").returncode == 2


def test_the_command_builds_both_plans_and_leaves_the_bundle_alone(bundle):
    result = run("skingpt-export", "engine", bundle.path, "--target", "sm86")
    assert result.returncode == 0, result.stderr
    for graph, line in zip((ENCODER, QFORMER), result.stdout.splitlines(), strict=True):
        key = plan_key(bundle, graph, "sm86")
        assert line.startswith(f"{graph} for sm86: ")
        assert line.endswith(f": {key.file}")
        assert stat.S_IMODE(key.file.stat().st_mode) == stat.S_IMODE(key.note.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.file.parent.stat().st_mode) == 0o700
        assert json.loads(key.note.read_text())["driver"] is None
    bundle.check_unchanged()
    read_bundle(bundle.path)  # refuses any file that is not in the manifest


def test_everything_that_decides_a_plan_is_in_its_key(bundle):
    def with_sum(name: str) -> Bundle:
        files = {**bundle.manifest.files, name: replace(bundle.manifest.files[name], sha256="0" * 64)}
        return replace(bundle, manifest=replace(bundle.manifest, files=files))

    key = plan_key(bundle, QFORMER, "sm89")
    others = [
        plan_key(bundle, ENCODER, "sm89"),
        plan_key(bundle, QFORMER, "sm120"),
        plan_key(with_sum(QFORMER), QFORMER, "sm89"),
        plan_key(with_sum(f"{QFORMER}.data"), QFORMER, "sm89"),
        replace(key, library="1.7.2"),
        replace(key, pictures=(1, 1, 4)),
        replace(key, format=key.format + 1),
    ]
    assert len({one.file for one in (key, *others)}) == 1 + len(others)
    assert plan_key(with_sum(bundle.manifest.llm.file), QFORMER, "sm89") == key


def test_a_plan_is_built_once(bundle, card):
    heard = []
    first = plan_for(bundle, QFORMER, lambda *said: heard.append(said))
    assert first.origin == "built now: there was none in the cache"
    second = plan_for(bundle, QFORMER, lambda *said: heard.append(said))
    assert (second.origin, second.data) == ("from the cache", bytes(first.data))
    assert heard == [("plan", 0, 0)]  # before the one that takes long


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def give_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file to another user")
    os.chown(path, 12345, -1)


def note_other(field: str, value: object):
    def change(path: Path) -> None:
        note = json.loads(path.with_suffix(".json").read_text())
        (note if field in note else note["key"])[field] = value
        path.with_suffix(".json").write_text(json.dumps(note))

    return change


DAMAGE = {
    "a flipped bit": (flip, "damaged"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged"),
    "empty": (lambda path: os.truncate(path, 0), "damaged"),
    "gone": (Path.unlink, "missing"),
    "a link": (link, "missing, or another user"),
    "writable by its group": (lambda path: path.chmod(0o660), "another user can write to it"),
    "writable by all": (lambda path: path.chmod(0o602), "another user can write to it"),
    "another user's": (give_away, "another user can write to it"),
    "in another user's folder": (lambda path: give_away(path.parent), "another user can write to it"),
    "in a folder that all can write to": (lambda path: path.parent.chmod(0o777), "another user can write to it"),
    "without note": (lambda path: path.with_suffix(".json").unlink(), "note"),
    "with half a note": (lambda path: os.truncate(path.with_suffix(".json"), 50), "note"),
    "with a note that all can write to": (lambda path: path.with_suffix(".json").chmod(0o666), "note"),
    "with the sum of another": (note_other("sha256", "0" * 64), "damaged"),
    "of another version": (note_other("library", "1.7.0"), "note"),
    "of another target": (note_other("target", "sm75"), "note"),
    "of another driver": (note_other("driver", "570.1"), "for driver 570.1, here is 580.65"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_plan_that_is_not_exactly_what_was_kept_is_built_anew(bundle, card, monkeypatch, damage):
    key, good = plan_key(bundle, QFORMER, CARD.target), b"a plan" * 1000
    keep_plan(key, good, DRIVER)
    assert read_plan(key, DRIVER) == Plan(good, "from the cache")
    change, reason = DAMAGE[damage]
    change(key.file)
    found = read_plan(key, DRIVER)
    assert isinstance(found, str)
    assert reason in found
    monkeypatch.setattr(plan_cache, "build_plan", lambda *_: memoryview(b"a new plan"))
    new = plan_for(bundle, QFORMER)
    assert (bytes(new.data), new.origin) == (b"a new plan", f"built now: {found}")
    if "folder" not in damage:  # there nothing can be kept
        assert read_plan(key, DRIVER) == Plan(b"a new plan", "from the cache")


def test_the_first_driver_that_loads_a_plan_built_ahead_becomes_its_driver(bundle):
    key = plan_key(bundle, QFORMER, "sm89")
    keep_plan(key, b"a plan", None)
    assert read_plan(key, DRIVER) == Plan(b"a plan", "from the cache")
    assert read_plan(key, DRIVER) == Plan(b"a plan", "from the cache")
    assert read_plan(key, "999.1") == "the one in the cache is for driver 580.65, here is 999.1"


def test_plans_of_an_older_version_are_removed_and_no_others(bundle):
    key = plan_key(bundle, QFORMER, "sm89")
    older, card, graph = replace(key, library="1.6"), replace(key, target="sm86"), plan_key(bundle, ENCODER, "sm89")
    for one in (older, card, graph, key):
        keep_plan(one, b"a plan", DRIVER)
    assert {path for one in (card, graph, key) for path in (one.file, one.note)} == set(key.file.parent.iterdir())


def test_a_graph_that_changed_since_the_bundle_was_made_is_not_built(bundle, tmp_path):
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    flip(copy / f"{ENCODER}.data")
    with pytest.raises(BundleError, match="its content has changed"):
        list(build_ahead(read_bundle(copy), "sm89"))
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_an_error_where_plans_are_built_for_it(bundle, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(EngineError, match=r"the plan of vision_encoder\.onnx cannot be kept"):
        list(build_ahead(bundle, "sm89"))


def test_the_bundles_own_check_is_passed_by_the_cpu_and_by_nothing_else(bundle, exact_bundle):
    vision = load_vision(bundle, ON_CPU)
    check_vision(vision, bundle.manifest)
    stored = bundle.manifest.self_test
    for values in (stored.image_embeds[::-1], stored.image_embeds[1:], (0.0,) * 64):
        wrong = replace(bundle.manifest, self_test=replace(stored, image_embeds=values))
        with pytest.raises(EngineError, match=r"the cosine of the image embeddings is .*, the limit 0.9999"):
            check_vision(vision, wrong)
    with pytest.raises(BundleError, match="skingpt-export upgrade"):
        check_vision(vision, replace(bundle.manifest, self_test=None))


class Compiled(OrtGraph):
    """ONNX Runtime behind an engine that needs a plan."""

    opened: list["Compiled"] = []  # noqa: RUF012

    def __init__(self, path, setup, plan):
        super().__init__(path, ON_CPU)
        self.plan = plan
        self.opened.append(self)


def test_a_plan_is_checked_before_vision_is_used(bundle, card, monkeypatch):
    monkeypatch.setitem(sys.modules, "compiled_engine", types.SimpleNamespace(Compiled=Compiled))
    real = registry.GRAPH_ENGINES["tensorrt-rtx"]
    engine = replace(real, module="compiled_engine", class_name="Compiled")
    monkeypatch.setitem(registry.GRAPH_ENGINES, "tensorrt-rtx", engine)
    monkeypatch.setattr(plan_cache, "build_plan", lambda path, target: memoryview(f"{path.name} {target}".encode()))
    load_vision(bundle, ON_GPU).close()
    assert [bytes(graph.plan.data) for graph in Compiled.opened] == [
        f"{ENCODER} sm89".encode(),
        f"{QFORMER} sm89".encode(),
    ]
    other = replace(bundle.manifest.self_test, image_embeds=bundle.manifest.self_test.image_embeds[::-1])
    damaged = replace(bundle, manifest=replace(bundle.manifest, self_test=other))
    with pytest.raises(EngineError, match="does not compute here what the bundle stores"):
        loading.load_vision(damaged, ON_GPU)
    for graph in Compiled.opened:
        with pytest.raises(EngineError, match="closed"):
            graph.run({})


@needs_gpu
def test_arrays_go_to_the_gpu_and_back():
    gpu = Gpu()
    sent, fetched = np.arange(100_000, dtype=np.float32), np.zeros(100_000, np.float32)
    address = gpu.allocate(sent.nbytes)
    gpu.send(sent, address)
    gpu.fetch(fetched, address)
    gpu.wait()
    assert np.array_equal(sent, fetched)
    with pytest.raises(EngineError, match="does not fit"):
        gpu.send(np.zeros(100_001, np.float32), address)
    with pytest.raises(EngineError, match="too little free memory"):
        gpu.allocate(1 << 50)
    gpu.close()
    gpu.close()


@needs_gpu
def test_a_plan_computes_what_onnx_runtime_does(exact_bundle):
    facts = found_gpu()
    if facts.target not in TARGETS:
        pytest.skip(f"TensorRT-RTX builds no plan for {facts.name} ({facts.target})")
    pixels = {"pixels": np.load(GOLDEN / "expected/00.npz")["pixels"]}
    expected = OrtGraph(exact_bundle / ENCODER, ON_CPU).run(pixels)["image_features"]
    graph = TensorRtxGraph(exact_bundle / ENCODER, ON_GPU)
    assert np.abs(graph.run(pixels)["image_features"] - expected).max() < 1e-3
    with pytest.raises(EngineError, match="9 pictures at once; a plan takes 1 to 8"):
        graph.run({"pixels": np.repeat(pixels["pixels"], 9, axis=0)})
    graph.close()
    with pytest.raises(EngineError, match="closed"):
        graph.run(pixels)
