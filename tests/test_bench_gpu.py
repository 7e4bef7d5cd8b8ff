"""Benchmarks of a GPU: its own ceilings, its targets, and what is said where there is none. No GPU is needed."""

import subprocess

import pytest
import torch
from skingpt_edge.benchmarks.measure import steps, system
from skingpt_edge.benchmarks.measure.build_results import assemble, limits
from skingpt_edge.benchmarks.measure.gpu_ceilings import GpuCeilings
from skingpt_edge.benchmarks.measure.kernels import by_kernel, short_name, trace_events
from skingpt_edge.benchmarks.measure.model_sizes import llama_sizes, vision_sizes
from skingpt_edge.benchmarks.measure.ratios import all_ratios
from skingpt_edge.benchmarks.measure.raw_results import OURS, Measured
from skingpt_edge.benchmarks.measure.steps import Measurement
from skingpt_edge.benchmarks.measure.suites import SUITES
from skingpt_edge.benchmarks.measure.workers import ROLES
from skingpt_edge.engines.errors import BundleError, EngineUnavailable
from skingpt_edge.engines.registry import GRAPH_ENGINES
from skingpt_edge.runtime import machine
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.resolving import resolve
from skingpt_edge.runtime.worker import Worker

QUICK, F16 = SUITES["quick"], "torch float16"
H100 = {"gpu_read_bandwidth": 3e12, "gpu_float16_peak": 7e14, "gpu_int8_peak": 1.4e15}
PROCESSOR = {"read_bandwidth": 2e11, "float32_peak": 2e12, "int8_peak": 1e13}


def measured(**options):
    """What a run on a GPU finds, with ceilings of both devices; the trials are made up."""
    bundle, found = read_bundle(default_bundle()), Measured()
    setup = resolve(bundle, Options(**{"device": "cuda", "vision_device": "cuda", "tuning": False, **options}))
    found.setup = {"requested": {}, "resolved": setup.to_json()}
    found.ceilings = {name: {"value": value} for name, value in {**H100, **PROCESSOR}.items()}
    found.turns, found.image_rows = [{"before": [1] * 102, "after": [2] * 44, "answer": [3] * 16}], 32
    for engine, factor in ((OURS, 1.0), (F16, 2.0)):
        stages = {"vision_encoder": 4e-3, "qformer": 1e-3, "next_token": 4e-3, "first_token": 36e-3, "report": 0.3}
        for _ in range(3):
            found.add(engine, "warm", {name: factor * value for name, value in stages.items()})
    for _ in range(3):
        reading = {"image_decode": 15e-3, "preprocess": 9e-3, "prefill_image": 8e-3, "prefill_question": 5e-3}
        found.add(OURS, "warm", reading)
    return found, vision_sizes(bundle), llama_sizes(bundle)


def test_a_stage_is_held_against_the_ceiling_of_the_device_that_runs_it():
    found, vision, llama = measured()
    least = limits(found, "f16", "q4_k_m", vision, llama)
    assert least["vision_encoder"] == ("gpu_float16_peak", vision.encoder_operations / 7e14)
    assert least["next_token"] == ("gpu_read_bandwidth", llama.bytes_read / 3e12)
    # They are that short, and one call.
    assert least["prefill_image"] == ("gpu_read_bandwidth", pytest.approx(32 / 76 * llama.bytes_read / 3e12))
    assert least["prefill_question"] == ("gpu_read_bandwidth", pytest.approx(44 / 76 * llama.bytes_read / 3e12))
    assert limits(found, "int8", "f16", vision, llama)["qformer"][0] == "gpu_int8_peak"
    found, vision, llama = measured(vision_device="cpu")
    mixed = limits(found, "int8", "q4_k_m", vision, llama)
    assert mixed["vision_encoder"][0] == "int8_peak"
    assert mixed["next_token"][0] == "gpu_read_bandwidth"


def test_a_long_prompt_is_limited_by_the_products_of_its_type():
    found, vision, llama = measured()
    found.image_rows = 10**6
    for kind, peak in (("q4_k_m", "gpu_int8_peak"), ("f16", "gpu_float16_peak")):
        expected = llama.prefill_operations(10**6) / H100[peak]
        assert limits(found, "f16", kind, vision, llama)["prefill_image"] == (peak, expected)


def test_without_the_gpus_ceilings_no_share_is_given_rather_than_the_processors():
    found, vision, llama = measured()
    found.ceilings = {name: {"value": value} for name, value in PROCESSOR.items()}
    assert limits(found, "f16", "q4_k_m", vision, llama) == {}
    ratios = all_ratios(found, vision, llama)
    assert ratios["decode_vs_read_bandwidth"]["value"] is None
    assert ratios["vision_vs_float16_limit"]["value"] is None
    assert "not measured" in ratios["decode_vs_read_bandwidth"]["note"]


def test_the_ratios_of_a_gpu_are_its_own():
    found, vision, llama = measured()
    found.gpu_peaks = [7_500_000_000, 7_600_000_000]
    ratios = all_ratios(found, vision, llama)
    milliseconds = {key: entry["value"] for key, entry in ratios.items() if entry["unit"] == "ms"}
    assert milliseconds == {
        "vision_seconds": pytest.approx(5), "reading_seconds": pytest.approx(24), "prompt_seconds": pytest.approx(13),
        "first_token_seconds": pytest.approx(36), "next_token_seconds": pytest.approx(4),
    }  # fmt: skip
    assert ratios["decode_vs_torch_float16"]["value"] == pytest.approx(2)
    assert ratios["decode_vs_read_bandwidth"]["value"] == pytest.approx(100 * llama.bytes_read / 3e12 / 4e-3)
    assert ratios["gpu_memory"]["value"] == pytest.approx(7.55)
    assert "vision_vs_torch_bfloat16" not in ratios
    assert "vision_vs_int8_limit" not in ratios


def test_memory_by_conversations_is_the_gpus():
    found, _, _ = measured()
    found.energy = {"joules_per_answer": None, "source": None, "note": "none"}
    found.growth["memory_by_conversations"][1].append(5e9)
    results = assemble(found, read_bundle(default_bundle()), QUICK)
    assert results["growth"]["memory_by_conversations"]["y_label"] == "GPU memory of the language model"
    assert results["stages"][0]["limit"]["by"] == "gpu_float16_peak" or results["bundle"]["vision"].startswith("int8")


def test_a_torch_without_cuda_measures_no_ceiling_of_a_gpu_and_says_so():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with Worker(ROLES["gpu_ceilings"], threads=1) as worker:
        found = worker.ask("measure", trials=1)
    assert found["ceilings"] == {}
    assert [line.partition(":")[0] for line in found["skipped"]] == [name.replace("_", " ") for name in H100]
    assert all("finds no GPU" in line for line in found["skipped"])


def test_every_way_to_a_ceiling_runs():
    # On the processor, because there the same calls of torch's can be made anywhere.
    found = GpuCeilings(1, "cpu", buffer=1 << 20, squares=(64, 128)).measure(2)
    assert found["skipped"] == []
    assert found["ceilings"].keys() == H100.keys()
    for ceiling in found["ceilings"].values():
        assert len(ceiling["trials"]) == 2
        assert ceiling["value"] == max(ceiling["trials"]) > 0


def test_only_the_ceilings_of_devices_in_use_are_measured(monkeypatch):
    asked = []

    class Noted:
        def __init__(self, target, **_):
            self.target = target

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, *_, **__):
            asked.append(self.target)
            return {"ceilings": {}, "skipped": ["none"]} if self.target == ROLES["gpu_ceilings"] else {}

    monkeypatch.setattr(steps, "Worker", Noted)
    expected = {
        ("cpu", "cpu"): ["ceilings"], ("cuda", "cuda"): ["gpu_ceilings"], ("cuda", "cpu"): ["ceilings", "gpu_ceilings"],
    }  # fmt: skip
    for (device, vision), roles in expected.items():
        asked.clear()
        options = Options(device=device, vision_device=vision, tuning=False)
        Measurement(read_bundle(default_bundle()), QUICK, options)._ceilings()
        assert asked == [ROLES[role] for role in roles], (device, vision)


def test_a_baseline_that_cannot_be_had_is_skipped_with_its_reason(monkeypatch):
    monkeypatch.setattr(steps, "free_gpu_memory", lambda: None)
    run = Measurement(read_bundle(default_bundle()), QUICK, Options(device="cuda", tuning=False), (F16,))
    monkeypatch.setattr(run, "_baseline", lambda *_, **__: (_ for _ in ()).throw(EngineUnavailable("no GPU")))
    run._torch(F16)
    assert run.found.skipped == ["torch float16: no GPU"]


def test_a_baseline_must_fit_into_the_gpus_memory(monkeypatch):
    monkeypatch.setattr(steps, "free_gpu_memory", lambda: 10**9)
    run = Measurement(read_bundle(default_bundle()), QUICK, Options(device="cuda", tuning=False), (F16,))
    run._torch(F16)
    assert "GB of GPU memory, 1.0 GB are free" in run.found.skipped[0]


def test_what_a_profiler_saw_on_a_gpu_is_summed_by_kernel():
    gemm = "void cutlass::Kernel2<cutlass_80_gemm>(cutlass_80_gemm::Params)"
    cast = "void onnxruntime::cuda::_Cast<float, __half, (bool)1>(float const*, __half*, void (*)(int))"
    events = [
        {"ph": "X", "cat": "kernel", "name": gemm, "ts": 1.0, "dur": 30.0, "args": {"stream": 7}},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0.0, "dur": 900.0},
        {"ph": "X", "cat": "kernel", "name": cast, "ts": 2.0, "dur": 2.0},
        {"ph": "X", "cat": "kernel", "name": cast, "ts": 2.5, "dur": 2.0},
        {"ph": "X", "cat": "kernel", "name": gemm, "ts": 3.0, "dur": 50.0},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)", "ts": 4.0, "dur": 1.0},
        {"ph": "M", "name": "process_name"},
    ]
    assert by_kernel(events, 2) == [
        {"op": "Kernel2<cutlass_80_gemm>", "calls": 1, "seconds": pytest.approx(40e-6)},
        {"op": "_Cast<float, __half, (bool)1>", "calls": 1, "seconds": pytest.approx(2e-6)},
        {"op": "Memcpy HtoD (Pageable -> Device)", "calls": 1, "seconds": pytest.approx(0.5e-6)},
    ]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("sm90_xmma_gemm_f16f16_f16f32_tn_n", "sm90_xmma_gemm_f16f16_f16f32_tn_n"),
        ("void (anonymous namespace)::softmax<float, (bool)1>(float*, int)", "softmax<float, (bool)1>"),
        ("void cutlass::device<cutlass::f(int), 3>(cutlass::P)", "device<f(int), 3>"),
        (
            "void at::k<at::copy(at::I&)::{lambda()#3}>(int, at::copy(at::I&)::{lambda()#3})",
            "k<copy(I&)::{lambda()#3}>",
        ),
        ("Memset (Device)", "Memset (Device)"),
        ("void k<" + 300 * "a" + ">(int)", "k<" + 198 * "a" + "…"),
    ],
)
def test_a_kernels_name_is_without_namespaces_and_parameters(name, short):
    assert short_name(name) == short


def test_torchs_profiler_writes_what_is_read_here():
    # Here it sees the processor's operators alone. None of them counts as a kernel.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(8, 8) @ torch.ones(8, 8)
    events = trace_events(profiler)
    assert any(event.get("cat") == "cpu_op" and event["dur"] > 0 for event in events)
    assert by_kernel(events, 1) == []


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-cuda-graph", "tensorrt-rtx"])
def test_a_gpu_is_profiled_by_kernel_whatever_the_engine(engine, monkeypatch):
    asked = []
    run = Measurement(
        read_bundle(default_bundle()), QUICK, Options(vision_device="cuda", vision_engine=engine, threads=1)
    )

    class Noted:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, method, **arguments):
            return [{"op": method, "calls": 1, "seconds": arguments["runs"]}]

    monkeypatch.setattr(run, "_ours", lambda role: asked.append(role) or Noted())
    run._profile()
    assert asked == ["kernels"]
    assert run.found.operators == [{"op": "vision_encoder", "calls": 1, "seconds": QUICK.profile_runs}]


def test_a_profile_that_fails_costs_nothing_else(monkeypatch):
    def fail(role):
        raise BundleError("graph.onnx: it cannot be loaded")

    run = Measurement(read_bundle(default_bundle()), QUICK, Options(vision_device="cuda", threads=1, tuning=False))
    monkeypatch.setattr(run, "_ours", fail)
    run._profile()
    assert run.found.skipped == ["the vision encoder's kernels: graph.onnx: it cannot be loaded"]


def test_kernels_that_cannot_be_profiled_are_skipped_with_the_reason():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = Measurement(read_bundle(default_bundle()), QUICK, Options(vision_device="cuda", threads=1, tuning=False))
    run._profile()
    assert run.found.operators == []
    assert run.found.skipped == [
        f"the vision encoder's kernels: torch {torch.__version__} finds no GPU: install a torch that is built for CUDA"
    ]


@pytest.mark.skipif(
    not torch.cuda.is_available() or not GRAPH_ENGINES["onnxruntime"].is_installed_for("cuda"),
    reason="needs an NVIDIA GPU, and torch and ONNX Runtime for it",
)
@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-cuda-graph"])
def test_kernels_of_a_real_gpu_are_seen(engine, exact_bundle):
    asked = Options(vision_device="cuda", vision_engine=engine, threads=1).to_json()
    with Worker(ROLES["kernels"], threads=1, bundle=str(exact_bundle), options=asked) as worker:
        found = worker.ask("vision_encoder", runs=3)
    assert all(entry["seconds"] > 0 for entry in found)
    assert any("Memcpy" not in entry["op"] for entry in found)


def test_pictures_a_second_are_of_the_device_asked_for():
    if "CUDA" in GRAPH_ENGINES["onnxruntime"].build():
        pytest.skip("this ONNX Runtime has CUDA")
    asked = Options(vision_device="cuda", threads=1).to_json()
    with pytest.raises(EngineUnavailable, match="device 'cuda' was asked for"):
        Worker(ROLES["scaling"], threads=1, bundle=str(default_bundle()), options=asked)


def test_versions_are_those_of_the_modules_that_run(monkeypatch):
    import llama_cpp
    import onnxruntime
    from onnxruntime.capi import build_and_package_info

    monkeypatch.setattr(system, "version", lambda package: "0.0 of a list of packages")
    found = system.versions()
    assert found["onnxruntime"].startswith(onnxruntime.__version__)
    assert found["llama-cpp-python"].startswith(llama_cpp.__version__)
    monkeypatch.setattr(build_and_package_info, "package_name", "onnxruntime-gpu")
    monkeypatch.setattr(build_and_package_info, "cuda_version", "13.0", raising=False)
    assert system.versions()["onnxruntime"] == f"{onnxruntime.__version__} (onnxruntime-gpu, CUDA 13.0)"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an `nvidia-smi` of one's own in front of the others, which notes its arguments."""

    def put(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "asked"

    return put


def test_free_gpu_memory_is_that_of_the_gpu_that_is_used(driver, monkeypatch):
    monkeypatch.setattr(machine, "gpu_uuid", lambda: "GPU-1234")
    asked = driver("echo 7900")
    assert machine.free_gpu_memory() == 7900 << 20
    assert asked.read_text() == "--query-gpu=memory.free --format=csv,noheader,nounits --id=GPU-1234\n"
    for broken in ("echo 7900; exit 9", "echo no devices", "echo '[N/A]'"):
        driver(broken)
        assert machine.free_gpu_memory() is None


def test_without_a_gpu_nothing_is_free(driver, monkeypatch):
    def none():
        raise EngineUnavailable("no GPU")

    monkeypatch.setattr(machine, "gpu_uuid", none)
    driver("echo 7900")
    assert machine.free_gpu_memory() is None


def test_a_driver_that_hangs_says_nothing(driver, monkeypatch):
    monkeypatch.setattr(machine, "gpu_uuid", lambda: "GPU-1234")
    driver("sleep 60")

    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert machine.free_gpu_memory() is None
