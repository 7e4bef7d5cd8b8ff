"""Reports, comparisons and the README's table, from results made up here; the GPU script's own errors."""

import json
from html import unescape

import numpy as np
import pytest
from PIL import Image
from skingpt_edge.benchmarks.measure.ratios import CPU_RATIOS, GPU_RATIOS, ratio
from skingpt_edge.benchmarks.measure.statistics import statistics
from skingpt_edge.benchmarks.report.compare import compare
from skingpt_edge.benchmarks.report.labels import digits, quantity, si
from skingpt_edge.benchmarks.report.plot_style import DPI, WIDTH
from skingpt_edge.benchmarks.report.readme_table import BEGIN, END
from skingpt_edge.benchmarks.report.readme_table import main as readme_main
from skingpt_edge.benchmarks.report.write_report import write_report
from skingpt_edge.benchmarks.result_files import read_all, read_results
from skingpt_edge.benchmarks.tools.device_parity import Forced, compare_devices, failures, judge_tokens, nearer
from skingpt_edge.engines.errors import InputError
from skingpt_edge.runtime.bundle import default_bundle
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.verification import open_bundle

NOISE = (0.99, 1.01, 0.97, 1.04, 1.0)  # five trials around their median
OURS = {
    "process_start": 2.9, "image_decode": 0.004, "preprocess": 0.003, "vision_encoder": 0.72, "qformer": 0.041,
    "prefill_system": 1.7, "prefill_image": 1.55, "prefill_question": 0.9, "first_token": 3.24, "next_token": 0.109,
    "report": 58.4,
}  # fmt: skip
BFLOAT16 = {"vision_encoder": 2.12, "qformer": 0.09, "first_token": 6.6, "next_token": 0.885, "report": 452.0}
FLOAT32 = {"vision_encoder": 4.58, "qformer": 0.2}
RATIOS = {
    "vision_vs_torch_float32": 6.31, "vision_vs_torch_bfloat16": 2.91, "vision_vs_int8_limit": 1.23,
    "decode_vs_torch_bfloat16": 8.12, "decode_vs_read_bandwidth": 94.8, "first_token_vs_torch_bfloat16": 2.04,
    "follow_up_turn10_vs_turn2": 1.09, "report_vs_torch_bfloat16": 7.74, "ten_samples_vs_ten_runs": None,
    "four_conversations_vs_one": 1.88, "peak_memory": 5.87, "start_to_ready": 2.93, "python_share": 0.41,
}  # fmt: skip
GROWTH = {
    "first_token_by_turn": ("turn", "first token", "s", range(1, 11), lambda x: 0.9 + 0.01 * x),
    "first_token_by_prompt_length": ("tokens", "first token", "s", (64, 128, 256, 512, 1024), lambda x: 0.045 * x),
    "tokens_per_second_by_conversations": ("conversations", "together", "tokens/s", (1, 2, 4, 8), lambda x: 9 * x**0.5),
    "memory_by_conversations": ("conversations", "of its own", "B", (1, 2, 4, 8), lambda x: 4.9e9 + 2e8 * x),
    "images_per_second_by_batch": ("pictures in a batch", "encoded", "images/s", (1, 2, 4), lambda x: 1.3 + 0.05 * x),
}
OPERATORS = {
    "DynamicQuantizeMatMul": 0.53, "MatMul": 0.085, "Transpose": 0.03, "Erf": 0.021, "Add": 0.014, "Mul": 0.011,
    "LayerNormalization": 0.009, "Softmax": 0.009, "Div": 0.008, "Reshape": 0.002, "Concat": 0.001, "Conv": 0.001,
    "Gather": 0.0005, "Unsqueeze": 0.0002,
}  # fmt: skip


def seconds(value):
    return statistics([value * factor for factor in NOISE])


def stage(engine, name, value, state="warm"):
    limits = {"vision_encoder": "int8_peak", "prefill_image": "int8_peak", "next_token": "read_bandwidth"}
    limit = None
    if engine == "skingpt" and state == "warm" and name in limits:
        limit = {"by": limits[name], "seconds": 0.8 * value, "share": 0.8}
    return {"engine": engine, "stage": name, "state": state, "seconds": seconds(value), "limit": limit}


def memory(engine, name, own, mapped=0.1):
    sizes = {"rss_anon": int(own * 1e9), "rss_file": int(mapped * 1e9), "peak_anon": int(own * 1.04e9)}
    return {"engine": engine, "stage": name, "swap": 0, "vram": None, **sizes}


def ratio_of(key, value, known=CPU_RATIOS):
    note = "" if value else "memory is short"
    return ratio(known[key], [value * factor for factor in NOISE] if value else [], shape="7b", note=note)


def document(name="synthetic-7b"):
    """A results document as `skingpt-bench run` writes it."""
    stages = [stage("skingpt", key, value) for key, value in OURS.items()]
    stages += [stage("skingpt", key, 1.4 * value, "cold") for key, value in OURS.items() if key != "report"]
    stages += [stage("torch float32", key, value) for key, value in FLOAT32.items()]
    stages += [stage("torch bfloat16", key, value) for key, value in BFLOAT16.items()]
    points = {
        key: [{"x": x, "trials": [rule(x) * factor for factor in NOISE], "p50": rule(x)} for x in xs]
        for key, (_, _, _, xs, rule) in GROWTH.items()
    }
    run = {"device": "cpu", "threads": 2}
    graph = {"engine": "onnxruntime", "version": "1.32.0", **run, "details": {"providers": "CPUExecutionProvider"}}
    details = {"model": "llama 7B Q4_K - Medium", "prefill_threads": 2}
    llama = {"engine": "llama.cpp", "version": "0.3.36", **run, "details": details}
    trials = {"read_bandwidth": (33.4e9, "B/s"), "float32_peak": (0.21e12, "FLOP/s"), "int8_peak": (0.9e12, "OP/s")}
    return {
        "schema": "skingpt-bench/2",
        "created": "2026-11-25T12:00:00Z",
        "suite": "full",
        "machine": {
            "cpu": "AMD EPYC 9004 (Zen 4)", "cores": 2, "logical": 2, "ram_bytes": 25_200_000_000,
            "os": "Debian GNU/Linux 12", "kernel": "6.1", "isa": ["avx2", "avx512f", "avx512_vnni"], "gpu": [],
        },
        "versions": {
            "python": "3.11.7", "skingpt-edge": "0.3.0", "onnxruntime": "1.32.0", "llama-cpp-python": "0.3.36",
            "numpy": "2.4.6", "torch": "2.13.0",
        },
        "bundle": {
            "name": name, "id": "ab" * 32, "size_bytes": 5_200_000_000, "vision": "int8",
            "language_model": "q4_k_m", "context": 2048, "notice": "Random weights: for measuring only.",
        },
        "setup": {
            "requested": {"device": "cpu", "threads": None, "batch": 128, "tuning": True},
            "resolved": {
                "vision": {"engine": "onnxruntime", **run},
                "language_model": {"engine": "llama.cpp", **run, "kv_type": "q8_0/f16", "layout": "repacked"},
            },
        },
        "engines": {"vision_encoder": graph, "qformer": graph, "language_model": llama},
        "threads": 2,
        "work": {"system_tokens": 38, "image_rows": 32, "question_tokens": 18, "answer_tokens": 120, "questions": 4},
        "ceilings": {
            key: {"value": value, "unit": unit, "trials": [value * (1.94 - f) for f in NOISE], "how": "best of 5"}
            for key, (value, unit) in trials.items()
        },
        "stages": stages,
        "memory": [
            memory("skingpt", "language_model_opened", 4.9), memory("skingpt", "image_encoded", 5.6),
            memory("skingpt", "report", 5.64), memory("torch bfloat16", "report", 13.8, 0.3),
        ],
        "energy": {"joules_per_answer": None, "source": None, "note": "RAPL cannot be read in this container."},
        "growth": {
            key: {"x_label": x_label, "y_label": y_label, "unit": unit, "points": points[key]}
            for key, (x_label, y_label, unit, _, _) in GROWTH.items()
        },
        "profile": {"vision_encoder": [{"op": op, "calls": 39, "seconds": s} for op, s in OPERATORS.items()]},
        "ratios": {key: ratio_of(key, value) for key, value in RATIOS.items()},
        "skipped": ["The language model in torch float32: it needs 28 GB, 20 GB are free."],
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes a document into a file of its own."""

    def write(found, name="results.json"):
        path = tmp_path / name
        path.write_text(json.dumps(found))
        return path

    return write


def test_a_report_holds_every_figure(write, tmp_path):
    found, folder = document(), tmp_path / "report"
    write_report([write(found)], folder)
    text = unescape((folder / "report.md").read_text())
    for entry in found["ratios"].values():
        assert entry["what"] in text
        assert quantity(entry["value"], entry["unit"]) in text
        if entry["low"]:
            assert f"{digits(entry['low'])}–{digits(entry['high'])}" in text
    for item in found["stages"]:
        for key in ("p50", "p90", "p99", "min") if item["state"] == "warm" else ("p50",):
            assert si(item["seconds"][key], "s") in text, (item, key)
    for expected in (
        "≥ 6.5×", "✗ missed", "✓ met", "80.0 %", "576 ms by int8 peak", "33.4 GB/s",
        "RAPL cannot be read", "it needs 28 GB", "DynamicQuantizeMatMul", "5.64 GB", found["bundle"]["id"],
        "Random weights: for measuring only.", "llama-cpp-python 0.3.36", "2026-11-25 12:00 UTC",
        "| asked for | device cpu, batch 128, tuning True |",
        "| setup of the language model | engine llama.cpp, device cpu, threads 2, kv type q8_0/f16, layout repacked |",
        "llama.cpp (0.3.36), cpu, 2 threads, model llama 7B Q4_K - Medium, prefill threads 2",
    ):  # fmt: skip
        assert expected in text, expected


def first_version(found):
    """The same results as version 1 had them."""
    engines = {
        part: {key: value for key, value in info.items() if key != "details"} | {"precision": "int8"}
        for part, info in found["engines"].items()
    }
    older = {key: value for key, value in found.items() if key != "setup"}
    return {**older, "schema": "skingpt-bench/1", "engines": engines}


def test_the_first_version_of_results_is_reported_and_compared_too(write, tmp_path):
    older = write(first_version(document()), "a.json")
    write_report([older], tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "| vision encoder | onnxruntime (1.32.0), int8, cpu, 2 threads |" in text
    assert "setup of" not in text
    table = compare(older, write(document(), "b.json"))
    assert table.splitlines()[-1].startswith("0 of ")
    assert "warning" not in table


def test_plots_are_pictures_of_the_common_width(write, tmp_path):
    write_report([write(document())], tmp_path / "report")
    kinds = {"time", "stages", "limits", "growth", "memory", "profile"}
    files = {path.stem.removeprefix("synthetic-7b-"): path for path in (tmp_path / "report").glob("*.png")}
    assert set(files) == kinds
    for path in files.values():
        with Image.open(path) as picture:
            assert picture.width == round(WIDTH * DPI)
            assert picture.height > 300
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20  # something was drawn


def test_the_report_escapes_what_comes_from_a_file(write, tmp_path):
    evil = "<script>alert(1)</script>"
    found = document(evil)
    found["skipped"] = [evil]
    found["machine"]["cpu"] = f"a|b {evil}"
    found["ratios"]["peak_memory"]["note"] = evil
    found["profile"]["vision_encoder"][0]["op"] = evil
    found["growth"]["first_token_by_turn"]["x_label"] = evil
    found["ceilings"]["int8_peak"]["how"] = "\u202e" + evil
    found["versions"][evil] = evil
    write_report([write(found)], tmp_path / "report")
    markdown = (tmp_path / "report/report.md").read_text()
    assert "<script" not in markdown
    assert "a\\|b" in markdown
    assert "\u202e" not in markdown


def test_several_results_stand_side_by_side(write, tmp_path):
    small = document("demonstration")
    for entry in small["ratios"].values():
        entry.update(target=None, met=None)
    write_report([write(small, "a.json"), write(document(), "b.json")], tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "| decode against torch bfloat16 | 8.12× | 8.12× (≥ 7.5× ✓) |" in text
    assert text.index("## demonstration") < text.index("## synthetic-7b")


def test_an_earlier_profile_stands_beside_the_one_of_its_bundle(write, tmp_path):
    later = document()
    later["profile"]["vision_encoder_before"] = [{"op": "Erf", "calls": 78, "seconds": 0.5}]
    write_report([write(document("small"), "a.json"), write(later, "b.json")], tmp_path / "report")
    small, large = (tmp_path / "report/report.md").read_text().split("## synthetic-7b")
    assert "| Erf | 39 | 21.0 ms | 2.9 % | 78 | 500 ms |" in large
    assert "500 ms" not in small


KERNEL = "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel"


def gpu_document():
    """As `document`, of a run on a GPU with the baseline on it."""
    text = json.dumps(document())
    for cpu, gpu in (("read_bandwidth", "gpu_read_bandwidth"), ("int8_peak", "gpu_int8_peak")):
        text = text.replace(f'"{cpu}"', f'"{gpu}"')
    found = json.loads(text.replace("torch bfloat16", "torch float16").replace("float32_peak", "gpu_float16_peak"))
    found["stages"] = [entry for entry in found["stages"] if entry["engine"] != "torch float32"]
    compiled = [
        {**entry, "engine": "torch float16 compiled"} for entry in found["stages"] if entry["engine"] != "skingpt"
    ]
    found["stages"] += compiled
    for entry in found["memory"]:
        entry["vram"] = 7_500_000_000
    found["engines"]["vision_encoder"]["device"] = "cuda"
    found["profile"]["vision_encoder"] = [{"op": KERNEL, "calls": 158, "seconds": 0.002}]
    found["ratios"] = {key: ratio_of(key, 4.2, GPU_RATIOS) for key in GPU_RATIOS}
    return found


def test_a_report_of_a_gpu_names_its_limits_and_baselines(write, tmp_path):
    write_report([write(gpu_document())], tmp_path / "report")
    report = (tmp_path / "report/report.md").read_text()
    for words in (
        "GPU's read bandwidth", "GPU's float16 peak", "GPU's int8 peak", "PyTorch float16, torch.compile", "VRAM",
        "decode's reading of weights against the GPU's read bandwidth", "4.20 ms",
    ):  # fmt: skip
        assert words in unescape(report), words
    assert "bfloat16" not in report
    assert (tmp_path / "report/synthetic-7b-limits.png").exists()
    assert "Vision encoder by kernel" in report
    assert f"| {KERNEL} | 158 | 2.00 ms | 100.0 % |" in report


def test_results_of_a_gpu_and_of_a_processor_stand_side_by_side_and_are_compared(write, tmp_path):
    paths = [write(document(), "cpu.json"), write(gpu_document(), "gpu.json")]
    write_report(paths, tmp_path / "report")
    assert "decode against torch bfloat16" in (tmp_path / "report/report.md").read_text()
    shown = compare(*paths)
    assert "SkinGPT Edge: each further token, warm" in shown
    assert "machine: " not in shown  # they have no ceiling in common


def test_a_run_that_measured_little_is_still_a_report(write, tmp_path):
    found = document()
    found.update(stages=[], memory=[], profile={"vision_encoder": []})
    for curve in found["growth"].values():
        curve["points"] = []
    for entry in found["ratios"].values():
        entry.update(value=None, low=None, high=None, trials=0, met=None)
    write_report([write(found)], tmp_path / "report")
    assert not list((tmp_path / "report").glob("*.png"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(schema="skingpt-bench/3"), "its schema is 'skingpt-bench/3'"),
        (lambda found: found.update(schema="skingpt-bench/1"), r"engines\.\w+: 'precision' is a required property"),
        (lambda found: found.pop("setup"), "results: 'setup' is a required property"),
        (lambda found: found["machine"].pop("cores"), "machine: 'cores' is a required property"),
        (lambda found: found["stages"][2]["seconds"].update(p50="fast"), r"stages\[2\]\.seconds\.p50: 'fast' is not"),
        (lambda found: found.update(threads=True), "threads: True is not of type 'integer'"),
        (lambda found: found["ratios"]["peak_memory"].update(value=float("nan")), "NaN is no measurement"),
    ],
)
def test_what_is_not_results_is_refused_by_name(change, message, write):
    found = document()
    change(found)
    with pytest.raises(InputError, match=message):
        read_results(write(found))


def test_one_file_of_the_gpu_script_holds_several_results(write):
    path = write({"schema": "skingpt-gpu/1", "parity": [], "results": [document("a"), document("b")]})
    assert [results["bundle"]["name"] for results in read_all([path])] == ["a", "b"]
    with pytest.raises(InputError, match="has no list of results"):
        read_all([write({"schema": "skingpt-gpu/1"})])


def line_of(table, what):
    (line,) = [line for line in table.splitlines() if line.startswith(what + "  ")]
    return line


def test_compare_finds_a_stage_that_takes_twice_as_long(write):
    slow = document()
    for item in slow["stages"]:
        if (item["engine"], item["stage"], item["state"]) == ("skingpt", "qformer", "warm"):
            item["seconds"] = seconds(2 * OURS["qformer"])
    table = compare(write(document(), "a.json"), write(slow, "b.json"))
    line = line_of(table, "SkinGPT Edge: Q-Former, warm")
    assert "2.00×" in line
    assert line.endswith("slower")
    assert table.splitlines()[-1].startswith("1 of ")


def test_compare_says_what_is_within_the_spread(write):
    other = document()
    for item in other["stages"]:
        item["seconds"] = {
            key: [1.03 * one for one in value] if key == "trials" else 1.03 * value
            for key, value in item["seconds"].items()
        }
    other["ratios"]["decode_vs_torch_bfloat16"].update(value=12.0, low=11.9, high=12.1)
    other["stages"][0]["seconds"]["trials"] = [9.0]
    table = compare(write(document(), "a.json"), write(other, "b.json"))
    assert line_of(table, "SkinGPT Edge: vision encoder, warm").endswith("1.03×  0.961×–1.10×  within the spread")
    assert line_of(table, "decode against torch bfloat16").endswith("higher")
    assert line_of(table, "SkinGPT Edge: process start to ready, warm").endswith("one trial: cannot say")
    assert line_of(table, "machine: int8 peak").endswith("equal")


def test_compare_refuses_what_did_other_work_and_warns_of_another_machine(write):
    here = write(document(), "a.json")
    with pytest.raises(InputError, match=r"'synthetic-7b' and .* of 'synthetic-13b'"):
        compare(here, write(document("synthetic-13b"), "b.json"))
    quick = document()
    quick["work"]["answer_tokens"] = 16
    with pytest.raises(InputError, match=r"answer_tokens is 120 in .* and 16"):
        compare(here, write(quick, "b.json"))
    newer = {**document(), "schema": "skingpt-bench/3"}
    with pytest.raises(InputError, match="its schema is"):
        compare(here, write(newer, "b.json"))
    elsewhere = document()
    elsewhere["threads"] = 8
    elsewhere["machine"]["cpu"] = "another"
    elsewhere["setup"]["resolved"]["language_model"]["layout"] = "plain"
    table = compare(here, write(elsewhere, "b.json"))
    assert "warning: threads differ: 2 in A, 8 in B" in table
    assert "warning: machine's cpu differ" in table
    assert "warning: language model's layout differ: repacked in A, plain in B" in table


def test_the_readme_table_is_what_the_results_say(write, tmp_path, capsys):
    results, readme = write(document()), tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nThe rest.\n")
    assert readme_main([str(readme), str(results), "--check"]) == 1
    assert readme_main([str(readme), str(results)]) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\n\nThe rest.\n")
    assert text.count("\n| ") == 2 + 6
    assert "| report in all | 58.4 s (4 × 120 tokens) |" in text
    assert "| peak memory of a report | 5.87 GB |\n| process start to ready | 2.93 s |" in text
    assert (
        "\nMeasured on 2 cores of AMD EPYC 9004 (Zen 4) on 2026-11-25 with skingpt-edge 0.3.0, onnxruntime 1.32.0 and "
        "llama-cpp-python 0.3.36.\n"
    ) in text
    assert readme_main([str(readme), str(results), "--check"]) == 0
    readme.write_text(text.replace("5.87 GB", "4.87 GB"))
    assert readme_main([str(readme), str(results), "--check"]) == 1
    assert "its performance table is not what the results say" in capsys.readouterr().err
    assert "4.87 GB" in readme.read_text()  # a check writes nothing
    readme.write_text("no marks")
    assert readme_main([str(readme), str(results)]) == InputError.exit_code


def forced(logits):
    return Forced(tuple(range(len(logits))), np.array(logits, dtype=np.float32))


def judged(other):
    """The failures when the second device gives these logits."""
    mine = [forced([[4.0, 0.0, 0.0], [0.0, 3.0, 2.9]])]
    return failures({"image_embeds": {"cosine": 1.0}, **judge_tokens(mine, [forced(other)])})


def test_devices_agree_within_the_limits_of_their_own():
    assert judged([[4.0, 0.0, 0.0], [0.0, 3.0, 2.9]]) == []
    assert judged([[4.1, 0.0, 0.0], [0.0, 2.9, 3.0]]) == []  # a near tie
    assert "first_logits: differ by 0.25" in judged([[3.0, 0.0, 0.0], [0.0, 3.0, 2.9]])[0]
    assert any("50.0% of 2 agree" in failure for failure in judged([[4.0, 0.0, 0.0], [3.5, 3.0, 2.9]]))
    assert len(judged([[float("nan"), 0.0, 0.0], [0.0, 3.0, 2.9]])) >= 2


def test_the_device_that_is_nearer_to_the_truth_is_named():
    truth = [np.array([[4.0, 0.0, 0.0], [0.0, 3.0, 2.9]], np.float32)]
    close, far = [forced([[4.0, 0.1, 0.0], [0.0, 3.0, 2.9]])], [forced([[4.4, 0.0, 0.0], [0.0, 2.9, 3.0]])]
    found = nearer(truth, far, close)
    assert found["nearer"] == "b"
    assert (found["a"]["tokens_equal"], found["b"]["tokens_equal"], found["a"]["tokens"]) == (1, 2, 2)
    assert found["a"]["first"] == pytest.approx(0.1)
    assert found["b"]["rms"] == pytest.approx((0.1**2 / 6) ** 0.5 / 4)
    assert nearer(truth, close, far)["nearer"] == "a"
    assert nearer(truth, far, far)["nearer"] == "neither"


def test_the_demonstration_bundle_is_the_same_on_one_thread(tmp_path):
    found = compare_devices(open_bundle(default_bundle()), Options(threads=2), Options(threads=1), truth=True)
    for side in "ab":  # 8-bit weights and float32 arithmetic on both; torch's is the exact one
        assert found["against_float32"][side]["rms"] < 0.01
        assert found["against_float32"][side]["tokens_equal"] >= found["against_float32"][side]["tokens"] - 1
    assert found["failures"] == []
    assert found["tokens"]["compared"] == found["tokens"]["equal_or_near_tie"] > 20
    assert found["engines"]["b"]["language_model"]["threads"] == 1
