"""A new engine is one file and one line in the registry; command line, Python and benchmark then have it."""

import inspect
import json
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest
from skingpt_edge.engines import registry
from skingpt_edge.engines.base import GraphEngine, LanguageModel, TokenSegment
from skingpt_edge.engines.errors import EngineError, EngineUnavailable, InputError
from skingpt_edge.engines.fake import FakeLanguageModel
from skingpt_edge.export.torch_engines import TorchEncoder, TorchLlama, TorchQFormer
from support import ROOT, language_setup, run

PICTURE = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[0]
ENGINE_FILE = '''
"""An engine of somebody else's."""
from skingpt_edge.engines.base import EngineInfo
from skingpt_edge.engines.fake import FakeLanguageModel
from skingpt_edge.engines.gguf_header import read_gguf_header


def build():
    return "parrot 1"


class Parrot(FakeLanguageModel):
    def __init__(self, path, setup):
        header = read_gguf_header(path)
        super().__init__([[b"polly", b" ", b"###"]], n_embd=header.n_embd, n_ctx=setup.cells, n_batch=setup.batch)
        self.info = EngineInfo("parrot", "1", setup.device, setup.threads)
'''
GRAPH_FILE = '''
"""Another engine for graphs: ONNX Runtime under another name."""
from dataclasses import replace

from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.onnx_runtime import OrtGraph, build


class Mirror(OrtGraph):
    def __init__(self, path, setup):
        super().__init__(path, replace(setup, device="cpu"))
        self.info = replace(self.info, engine="mirror", device=setup.device)
'''
REGISTRATION = """
from skingpt_edge.engines import registry

registry.LANGUAGE_MODELS["parrot"] = registry.Engine("parrot_engine", "Parrot", ("cpu", "perch"))
registry.GRAPH_ENGINES["mirror"] = registry.Engine("mirror_engine", "Mirror", ("cpu", "wall"))
"""


@pytest.fixture
def environment(tmp_path):
    """As if the file lay among the engines and the line stood in the registry, for every process started with this."""
    (tmp_path / "parrot_engine.py").write_text(ENGINE_FILE)
    (tmp_path / "mirror_engine.py").write_text(GRAPH_FILE)
    (tmp_path / "sitecustomize.py").write_text(REGISTRATION)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_command_line_has_it(environment):
    result = run(
        "skingpt", "chat", PICTURE, "-q", "What?", "--json", "--language-engine", "parrot", "--device", "perch",
        "--vision-device", "cpu", env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["turns"][0]["text"] == "polly"
    assert document["engines"]["language_model"]["engine"] == "parrot"
    assert document["setup"]["resolved"]["language_model"]["device"] == "perch"


def test_the_command_line_has_an_engine_for_graphs(environment):
    command = ("skingpt", "chat", PICTURE, "-q", "What?", "--json", "--max-new-tokens", "4")
    result = run(*command, "--vision-device", "wall", env=environment)
    assert result.returncode == 0, result.stderr
    document, plain = json.loads(result.stdout), json.loads(run(*command).stdout)
    assert [document["engines"][graph]["engine"] for graph in ("vision_encoder", "qformer")] == ["mirror"] * 2
    assert document["setup"]["resolved"]["vision"] == {**plain["setup"]["resolved"]["vision"], "engine": "mirror",
                                                       "device": "wall"}  # fmt: skip
    assert document["turns"][0]["token_ids"] == plain["turns"][0]["token_ids"]


def test_an_engine_whose_library_is_missing_says_so(tmp_path):
    (tmp_path / "broken_engine.py").write_text("import a_library_that_is_not_there\n")
    line = 'registry.LANGUAGE_MODELS["broken"] = registry.Engine("broken_engine", "Broken", ("cpu",))'
    (tmp_path / "sitecustomize.py").write_text(f"from skingpt_edge.engines import registry\n{line}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = run("skingpt", "chat", PICTURE, "-q", "What?", "--language-engine", "broken", env=environment)
    assert result.returncode == 6
    assert "error: the engine of broken_engine cannot be imported: No module named" in result.stderr


def test_a_device_chooses_the_engine_that_has_it(environment):
    result = run("skingpt", "info", "--json", "--device", "perch", "--vision-device", "cpu", env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["setup"]["language_model"]["engine"] == "parrot"


def test_a_device_is_checked_against_the_engine_that_will_have_it(environment):
    result = run("skingpt", "info", "--device", "perch", env=environment)
    assert result.returncode == 3
    assert (
        "device 'perch' is unknown to onnxruntime, tensorrt-rtx, onnxruntime-cuda-graph, mirror; known are cpu, "
        "cuda, wall" in result.stderr
    )


def test_python_has_it(environment):
    code = (
        "from pathlib import Path; import sys; from skingpt_edge.runtime import Options, SkinGPT\n"
        "with SkinGPT.open(options=Options(language_engine='parrot')) as model:\n"
        "    print(model.ask(model.embed(Path(sys.argv[1]).read_bytes()), 'What?').text)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, PICTURE], capture_output=True, text=True, env=environment, check=False
    )
    assert result.stdout == "polly\n", result.stderr


def test_the_benchmark_has_it(environment, tmp_path):
    output = tmp_path / "results.json"
    bundle = ROOT / "runtime/demo/bundle"
    result = run(
        "skingpt-bench", "run", bundle, "--suite", "quick", "--language-engine", "parrot", "--vision-engine", "mirror",
        "-o", output, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text())
    assert results["engines"]["vision_encoder"]["engine"] == "mirror"
    assert "the vision encoder's profile: mirror has none on the CPU" in results["skipped"]
    assert results["engines"]["language_model"]["engine"] == "parrot"
    assert results["setup"]["requested"]["language_engine"] == "parrot"
    assert results["setup"]["resolved"]["language_model"]["engine"] == "parrot"


def test_an_engine_that_is_not_known_is_wrong_usage_and_the_known_ones_are_listed():
    result = run("skingpt", "info", "--language-engine", "parrot")
    assert result.returncode == 2
    assert "llama.cpp" in result.stderr


def test_without_a_name_the_first_engine_that_has_the_device_is_chosen():
    engines = {"a": registry.Engine("m", "A", ("cpu",)), "b": registry.Engine("m", "B", ("cpu", "gpu"))}
    assert registry.choose(engines, None, "cpu") == "a"
    assert registry.choose(engines, None, "gpu") == "b"
    assert registry.choose(engines, "b", "cpu") == "b"
    with pytest.raises(InputError, match="device 'gpu' is unknown to a; known are cpu"):
        registry.choose(engines, "a", "gpu")
    with pytest.raises(InputError, match="device 'tpu' is unknown to a, b; known are cpu, gpu"):
        registry.choose(engines, None, "tpu")


def test_of_several_engines_for_a_device_the_first_one_that_is_installed_is_chosen(monkeypatch):
    engines = {
        name: registry.Engine(f"engine_{name}", "A", ("gpu",)) for name in ("missing", "bare", "without", "able")
    }

    def not_there():
        raise EngineUnavailable("its library is not installed")

    monkeypatch.setitem(sys.modules, "engine_bare", module := ModuleType("engine_bare"))
    module.build = not_there
    for name, there in (("without", ("cpu",)), ("able", ("gpu",))):
        module = ModuleType(f"engine_{name}")
        module.installed_devices = lambda there=there: there
        module.build = lambda: "1"
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert registry.choose(engines, None, "gpu") == "able"
    del engines["able"]
    assert registry.choose(engines, None, "gpu") == "missing"  # to open it says what is missing
    assert registry.choose(engines, "without", "gpu") == "without"  # asked for by name it is not exchanged


def test_the_engines_say_what_the_installed_library_can_run_on(monkeypatch):
    ort = registry.GRAPH_ENGINES["onnxruntime"]
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    assert (ort.is_installed_for("cpu"), ort.is_installed_for("cuda")) == (True, False)
    providers.append("CUDAExecutionProvider")
    assert ort.is_installed_for("cuda")
    rtx = registry.GRAPH_ENGINES["tensorrt-rtx"]
    library = ModuleType("tensorrt_rtx_bindings")
    library.__version__ = "1"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", library)
    assert rtx.is_installed_for("cuda")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    assert not rtx.is_installed_for("cuda")


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_engine_and_the_fake_have_the_whole_protocol():
    language = public(LanguageModel)
    fake = FakeLanguageModel([[b"a"]])
    assert language <= public(type(fake)) | set(vars(fake))
    for kind, protocol in (
        *((engine.load(), language) for engine in registry.LANGUAGE_MODELS.values()),
        *((engine.load(), public(GraphEngine)) for engine in registry.GRAPH_ENGINES.values()),
        (TorchLlama, language),
        (TorchEncoder, public(GraphEngine)),
        (TorchQFormer, public(GraphEngine)),
    ):
        set_in_code = set(re.findall(r"self\.(\w+)(?:: \w+)? =", inspect.getsource(kind)))
        assert protocol <= public(kind) | set_in_code, kind


def test_the_fake_brings_a_snapshot_back_as_strictly_as_a_real_model():
    model = FakeLanguageModel([[b"a"]])
    model.evaluate([TokenSegment(1, 0, (5, 6, 7))])
    kept = model.snapshot(1)
    with pytest.raises(EngineError, match="not empty"):
        model.restore(1, kept)
    model.rewind(1, 0)
    with pytest.raises(EngineError, match="not a snapshot"):
        model.restore(1, kept[:-3])
    model.restore(1, kept)
    assert model.cells[1] == [5, 6, 7]


def test_an_engine_is_opened_by_its_name():
    model = registry.open_language_model(ROOT / "runtime/demo/bundle/llm.gguf", language_setup())
    assert model.info.engine == "llama.cpp"
    model.close()
