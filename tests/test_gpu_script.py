"""`benchmarks/tools/gpu.sh` on a machine without a GPU, and the engines for vision that it times."""

import json
import subprocess
import sys
import types

import pytest
from skingpt_edge.benchmarks.tools import vision_calls
from skingpt_edge.engines import registry
from skingpt_edge.engines.errors import EngineUnavailable
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from support import ROOT


def gpu_script(*arguments, **environment):
    command = [str(ROOT / "benchmarks/tools/gpu.sh"), *arguments]
    clean = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=600, check=False)


def test_a_dry_run_makes_and_times_bundles_and_repeats_nothing(tmp_path):
    (tmp_path / "files").mkdir()
    steps = ("collect", "environment", "llama", "bundles", "vision")

    def script(*named):
        work = {"WORK": str(tmp_path / "work"), "PYTHON": sys.executable}
        return gpu_script("--dry-cpu", str(tmp_path / "files"), *named, **work)

    first = script(*steps)
    assert first.returncode == 0, first.stderr
    for bundle in ("golden", "float16", "tiny"):
        assert read_bundle(tmp_path / f"work/bundle-{bundle}").manifest.vision.precision == "f16"
    times = json.loads((tmp_path / "work/vision-tiny.json").read_text())["engines"]["onnxruntime"]
    assert times["both_p50_ms"] >= times["encoder_p50_ms"] > 0
    again = script(*steps)
    assert again.returncode == 0, again.stderr
    for step in ("environment", "llama", "bundles-golden", "bundles-float16", "bundles-tiny", "vision-tiny"):
        assert f"== {step}: done before" in again.stderr
    unmeasured = script("merge")
    assert unmeasured.returncode == 1
    assert "run the step measure first" in unmeasured.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no FOLDER of source distributions"),
        (["no-such-folder"], "no-such-folder: no such folder"),
        ([".", "polish"], "unknown step polish; known are collect environment llama bundles parity vision measure"),
        (["--fast", "."], "unknown option --fast"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(arguments, message):
    result = gpu_script(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_without_dry_cpu_a_driver_is_needed(tmp_path):
    # A PATH of what the script uses up to then, so that a machine with a GPU shows the same.
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    result = gpu_script(".", PATH=str(tmp_path), WORK=str(tmp_path / "work"))
    assert result.returncode == 2
    assert "no NVIDIA driver: nvidia-smi is not on PATH" in result.stderr
    assert not (tmp_path / "work").exists()


def test_an_engine_that_cannot_be_had_is_named_and_the_others_are_timed(monkeypatch):
    bundle = read_bundle(default_bundle())

    def refuse(path, setup):
        raise EngineUnavailable("none here")

    monkeypatch.setitem(sys.modules, "broken_engine", types.SimpleNamespace(Broken=refuse))
    monkeypatch.setitem(registry.GRAPH_ENGINES, "broken", registry.Engine("broken_engine", "Broken", ("cpu",)))
    found = vision_calls.measure(bundle, "cpu", ["broken", "onnxruntime"], repeat=2)["engines"]
    assert found["broken"] == {"error": "none here"}
    assert found["onnxruntime"]["cosine"] == {"with": "onnxruntime", "value": pytest.approx(1)}


def test_no_picture_at_all_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vision_calls", str(default_bundle()), "--repeat", "0"])
    with pytest.raises(SystemExit):
        vision_calls.main()
    assert "--repeat is 0, expected 1 or more" in capsys.readouterr().err
