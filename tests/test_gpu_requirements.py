"""The GPU memory that a bundle needs, foretold, and what is said and refused where there is less. No GPU is needed."""

import json
from dataclasses import replace

import pytest
from skingpt_edge.engines import registry
from skingpt_edge.engines.base import GraphSetup, LanguageModelSetup
from skingpt_edge.engines.errors import EngineError, EngineUnavailable
from skingpt_edge.engines.gguf_header import GgufHeader, GgufTensor
from skingpt_edge.runtime import gpu_requirements as module
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.cli import info, make_parser
from skingpt_edge.runtime.gpu_requirements import check_gpu, estimate, gpu_requirements, needed_gpu_memory
from skingpt_edge.runtime.options import Options, Setup
from skingpt_edge.runtime.resolving import resolve
from skingpt_edge.runtime.skingpt import SkinGPT
from support import run

EIGHT_GB = 8 << 30  # of a card that is sold as 8 GB
FLOAT16 = [1_971_000_000, 211_000_000]  # bytes of ViT-g and of the Q-Former with its projection
FLOAT32 = [2 * size for size in FLOAT16]


def llama(layers, width, layer_bytes, output_bytes, embedding_bytes):
    """A Llama's header with a tensor a layer; what `q4_k_m` makes of 7 and 13 billion weights."""
    sizes = {f"blk.{i}.weights": layer_bytes for i in range(layers)}
    sizes |= {"output.weight": output_bytes, "token_embd.weight": embedding_bytes}
    tensors = tuple(GgufTensor(name, 12, 0, size) for name, size in sizes.items())
    return GgufHeader(width, 32000, layers, 2048, width, {}, "q4_k_m", tensors)


LLAMA_7B = llama(32, 4096, 121_843_712, 107_520_000, 73_728_000)
LLAMA_13B = llama(40, 5120, 191_000_000, 134_400_000, 92_160_000)


def setup(header, **changes):
    model = LanguageModelSetup(
        engine="llama.cpp", device="cuda", gpu_layers=header.n_layer + 1, threads=8, prefill_threads=8, context=2048,
        cells=2048, sequences=2, batch=128, kv_type="f16", flash_attention=True, layout="plain",
    )  # fmt: skip
    return Setup(GraphSetup("onnxruntime", "cuda", 8), replace(model, **changes), False, True, 8)


def test_what_an_h100_took_is_what_the_formula_gives():
    assert needed_gpu_memory(FLOAT32, LLAMA_7B, setup(LLAMA_7B)) == pytest.approx(10.91e9, rel=0.01)


def test_eight_gigabytes_hold_7b_and_not_13b():
    small = estimate(FLOAT16, LLAMA_7B, setup(LLAMA_7B), EIGHT_GB)
    assert small.fits
    assert small.sentence() == "It fits: it needs 8.5 GB of GPU memory and 8.6 GB are free."
    # A desktop on the same card takes some of it.
    assert estimate(FLOAT16, LLAMA_7B, setup(LLAMA_7B), 7900 << 20).remedies[0] == "--kv-type q8_0 (8.0 GB)"
    large = estimate(FLOAT16, LLAMA_13B, setup(LLAMA_13B), EIGHT_GB)
    assert not large.fits
    assert "It does not fit: it needs 12.9 GB of GPU memory and only 8.6 GB are free" in large.sentence()
    assert "--gpu-layers" in large.sentence()
    assert "smaller type" in large.sentence()


def test_each_remedy_makes_it_fit_and_costs_as_much_as_it_says():
    asked = setup(LLAMA_7B, cells=2 * 2048, sequences=3)
    found = estimate(FLOAT32, LLAMA_7B, asked, 9_900_000_000)
    assert [words.partition(" (")[0] for words in found.remedies] == [
        "--vision-device cpu", "--gpu-layers 21",
    ]  # fmt: skip
    little = replace(asked, language_model=replace(asked.language_model, gpu_layers=21))
    assert needed_gpu_memory(FLOAT32, LLAMA_7B, little) <= 9_900_000_000
    more = replace(asked, language_model=replace(asked.language_model, gpu_layers=22))
    assert needed_gpu_memory(FLOAT32, LLAMA_7B, more) > 9_900_000_000
    nearly = estimate(FLOAT16, LLAMA_7B, asked, 9_400_000_000)
    assert nearly.remedies[0] == "one conversation or sample at a time (8.5 GB)"
    assert nearly.remedies[1] == "--kv-type q8_0 (8.6 GB)"


def test_memory_grows_with_what_is_asked_for():
    def needed(**changes):
        return needed_gpu_memory(FLOAT16, LLAMA_7B, setup(LLAMA_7B, **changes))

    cell = 2 * 32 * 4096 * 2  # bytes: keys and values of 32 layers
    assert needed(cells=4096) - needed() == 2048 * cell
    assert needed() - needed(kv_type="q8_0") == 2048 * (cell - cell // 2 * 34 // 32)
    assert needed() - needed(gpu_layers=31) == 2 * (121_843_712 + 2048 * cell // 32)
    no_layers = needed(gpu_layers=0)
    assert needed(gpu_layers=1) - no_layers == 107_520_000  # the output matrix is the first to move
    on_cpu = replace(setup(LLAMA_7B), vision=GraphSetup("onnxruntime", "cpu", 8))
    assert needed() - needed_gpu_memory(FLOAT16, LLAMA_7B, on_cpu) > sum(FLOAT16)


def test_a_processor_needs_nothing_of_a_gpu():
    bundle = read_bundle(default_bundle())
    assert gpu_requirements(bundle, resolve(bundle, Options(tuning=False))) is None


def test_what_is_free_is_asked_of_the_driver_unless_it_is_given(monkeypatch):
    bundle = read_bundle(default_bundle())
    asked = resolve(bundle, Options(device="cuda", tuning=False))
    monkeypatch.setattr(module, "free_gpu_memory", lambda: EIGHT_GB)
    assert gpu_requirements(bundle, asked).free == EIGHT_GB
    assert gpu_requirements(bundle, asked, free=5).free == 5
    monkeypatch.setattr(module, "free_gpu_memory", lambda: None)
    unknown = gpu_requirements(bundle, asked)
    assert unknown.fits
    assert "nvidia-smi does not say" in unknown.sentence()


@pytest.mark.parametrize("options", [Options(device="cuda"), Options(vision_device="cuda")], ids=["both", "vision"])
def test_opening_is_refused_before_loading(monkeypatch, options):
    def load(*_):
        raise AssertionError("it was loaded")

    monkeypatch.setattr("skingpt_edge.runtime.skingpt.load", load)
    monkeypatch.setattr(module, "free_gpu_memory", lambda: 10**8)
    bundle = read_bundle(default_bundle())
    expected = gpu_requirements(bundle, resolve(bundle, options)).sentence()
    with pytest.raises(EngineError) as refused:
        SkinGPT.open(options=options)
    assert str(refused.value) == expected
    assert "only 0.1 GB are free" in expected


def shown_by_info(capsys, *arguments):
    assert info.run(info.parse(make_parser().parse_args(["info", *arguments]))) == 0
    return capsys.readouterr().out


def test_info_says_it_of_the_gpu(capsys, monkeypatch):
    monkeypatch.setattr(info, "check_gpu", lambda setup: None)
    monkeypatch.setattr(module, "free_gpu_memory", lambda: 100 << 20)
    facts = json.loads(shown_by_info(capsys, "--device", "cuda", "--json"))
    assert facts["gpu_memory_free_bytes"] == 100 << 20
    assert facts["gpu_memory_needed_bytes"] > 740_000_000
    assert facts["fits"] is False
    shown = shown_by_info(capsys, "--device", "cuda")
    assert "only 0.1 GB are free" in shown
    assert "gpu_memory_needed_bytes" not in shown
    monkeypatch.setattr(module, "free_gpu_memory", lambda: EIGHT_GB)
    assert json.loads(shown_by_info(capsys, "--device", "cuda", "--json"))["fits"] is True
    assert "gpu" not in json.loads(shown_by_info(capsys, "--json"))


def without_code_for_gpus():
    return not registry.LANGUAGE_MODELS["llama.cpp"].is_installed_for("cuda")


def test_info_and_the_services_check_say_that_there_is_no_gpu(tmp_path):
    if not without_code_for_gpus():
        pytest.skip("this llama.cpp has code for GPUs")
    reason = "device 'cuda' was asked for, but this llama.cpp is not built for it: see docs/gpu.md, or ask for 'cpu'"
    facts = json.loads(run("skingpt", "info", "--device", "cuda", "--json").stdout)
    assert facts["gpu"].startswith(f"{reason}. It needs 1.0 GB of GPU memory")
    assert facts["fits"] is False
    tuned = run("skingpt", "tune", "--device", "cuda")
    assert tuned.returncode == 6
    assert reason in tuned.stderr
    checked = run("skingpt", "serve", "--check", "--device", "cuda", "--token-file", tmp_path / "token")
    assert checked.returncode == 6
    assert reason in checked.stderr


def test_a_gpu_is_checked_for_the_half_that_uses_it(monkeypatch):
    asked = []
    monkeypatch.setattr(registry.Engine, "is_installed_for", lambda engine, device: True)
    monkeypatch.setattr(registry.Engine, "build", lambda engine: "1.0")
    monkeypatch.setattr(module, "gpu_kind", lambda: asked.append("GPU"))
    bundle = read_bundle(default_bundle())
    check_gpu(resolve(bundle, Options()))
    assert asked == []
    check_gpu(resolve(bundle, Options(device="cuda")))
    check_gpu(resolve(bundle, Options(vision_device="cuda")))
    assert asked == ["GPU", "GPU"]
    monkeypatch.setattr(registry.Engine, "is_installed_for", lambda engine, device: "Llama" in engine.class_name)
    check_gpu(resolve(bundle, Options(device="cuda")))
    with pytest.raises(EngineUnavailable, match=r"this onnxruntime is not built for it: .* --vision-device cpu"):
        check_gpu(resolve(bundle, Options(vision_device="cuda")))
