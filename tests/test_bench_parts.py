"""What `skingpt-bench run` is built of, each part alone: static work, statistics, energy, workers, peak memory."""

import sys

import numpy as np
import pytest
from skingpt_edge.benchmarks.measure import energy, system
from skingpt_edge.benchmarks.measure.build_results import stage
from skingpt_edge.benchmarks.measure.fixed_inputs import FixedTokens, fixed_answers, photo, put_prompt
from skingpt_edge.benchmarks.measure.model_sizes import VisionSizes, llama_sizes, vision_sizes
from skingpt_edge.benchmarks.measure.operators import by_operator
from skingpt_edge.benchmarks.measure.ratios import CPU_RATIOS, ratio
from skingpt_edge.benchmarks.measure.statistics import percentile, quotient, statistics
from skingpt_edge.benchmarks.measure.workers import ROLES
from skingpt_edge.benchmarks.tools.peak_memory import measure
from skingpt_edge.engines.base import EmbeddingSegment, LanguageModel, TokenSegment
from skingpt_edge.engines.errors import BundleError
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.loading import load_language_model
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.resolving import resolve
from skingpt_edge.runtime.worker import Worker


def rapl_package(folder, joules, highest=10**9):
    zone = folder / "intel-rapl:0"
    zone.mkdir(exist_ok=True)
    (folder / "intel-rapl:0:0").mkdir(exist_ok=True)  # a part of the package, not to be counted again
    (zone / "energy_uj").write_text(str(round(joules * 1e6)))
    (zone / "max_energy_range_uj").write_text(str(highest))


def test_energy_is_counted_across_the_counters_wrap_around(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    rapl_package(tmp_path, 999)
    meter = energy.start(on_gpu=False)
    rapl_package(tmp_path, 7)
    found = energy.per_answer(meter, 4)
    assert found["source"] == "rapl"
    assert found["joules_per_answer"] == pytest.approx(8 / 4)


def test_what_runs_on_a_gpu_is_not_given_the_processors_joules(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy, "_gpu_millijoules", list)
    rapl_package(tmp_path, 999)
    found = energy.per_answer(energy.start(on_gpu=True), 4)
    assert (found["joules_per_answer"], found["source"]) == (None, None)
    assert "nvidia-ml-py is not installed" in found["note"]
    monkeypatch.setattr(energy, "_gpu_millijoules", lambda: [1000])
    assert energy.start(on_gpu=True).source == "nvml"
    assert energy.start(on_gpu=False).source == "rapl"  # a GPU that is idle beside it does not count


def test_the_profile_leaves_out_the_first_runs():
    def run(start, duration):
        args = {"op_name": "MatMul"}
        kernel = {"cat": "Node", "name": "a_kernel_time", "ts": start, "dur": duration, "args": args}
        return [kernel, {"cat": "Session", "name": "model_run", "ts": start - 1, "dur": duration + 2}]

    events = [*run(10, 1000), *run(2000, 30), *run(3000, 50)]
    assert by_operator(events, 1, 2) == [{"op": "MatMul", "calls": 1, "seconds": pytest.approx(40e-6)}]


def test_percentiles_of_a_known_vector():
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    rounded = {"p90": pytest.approx(46), "p99": pytest.approx(49.6)}
    assert statistics(values) == {"trials": values, "p50": 35, **rounded, "min": 15}
    assert percentile([3.0], 99) == 3
    assert percentile([1.0, 2.0], 50) == 1.5


def test_quotients_are_paired_by_number_and_else_each_with_each():
    assert quotient([10, 20, 30], [1, 2, 3]) == (10, 10, 10)
    assert quotient([10, 20], [1, 2, 4]) == (7.5, 2.5, 20)


def test_a_target_is_met_or_missed_and_absent_for_other_sizes():
    what = CPU_RATIOS["decode_vs_torch_bfloat16"]
    assert ratio(what, [8.0], shape="7b")["met"] is True
    assert ratio(what, [7.0], shape="7b")["met"] is False
    assert ratio(what, [7.0], shape="7b")["target"] == {"at_least": 7.5}
    assert ratio(what, [8.0], shape="13b")["met"] is None
    assert ratio(CPU_RATIOS["peak_memory"], [10.8], shape="13b")["met"] is True
    assert ratio(CPU_RATIOS["peak_memory"], [6.3], shape="7b")["met"] is False
    unmeasured = ratio(what, [], [1.0, 2.0], shape="7b", note="why")
    assert (unmeasured["value"], unmeasured["met"], unmeasured["trials"]) == (None, None, 0)


def test_a_limit_is_a_share_of_the_median():
    entry = stage("skingpt", "next_token", "warm", [0.2, 0.4, 0.3], ("read_bandwidth", 0.15))
    assert entry["limit"] == {"by": "read_bandwidth", "seconds": 0.15, "share": pytest.approx(0.5)}


def test_the_work_of_the_demonstration_bundle_is_what_a_hand_counts():
    bundle = read_bundle(default_bundle())
    vision, llama = vision_sizes(bundle), llama_sizes(bundle)
    # Four blocks of 257 positions and width 176: qkv and projection, an MLP of 768, scores and sums of values.
    block = 2 * 257 * (176 * 528 + 176 * 176 + 2 * 176 * 768) + 2 * 2 * 257 * 257 * 176
    assert vision.encoder_operations == 4 * block + 2 * 256 * (3 * 14 * 14) * 176 == 1_049_537_280
    # Four layers of 32 queries and width 128, two of them looking at the picture; the projection to 256.
    layer = 2 * 32 * (4 * 128 * 128 + 2 * 128 * 512) + 4 * 32 * 32 * 128
    cross = 2 * 32 * 2 * 128 * 128 + 2 * 257 * 2 * 176 * 128 + 4 * 32 * 257 * 128
    assert vision.qformer_operations == 4 * layer + 2 * cross + 2 * 32 * 128 * 256 == 113_459_200
    # Three layers of width 256 and 768, and the output matrix of 1024 pieces.
    assert llama.matrix_parameters == 3 * (4 * 256 * 256 + 3 * 256 * 768) + 1024 * 256
    # q8_0 stores 32 weights in 34 bytes; seven norms are float32. Embeddings are looked up, not read.
    assert llama.bytes_read == llama.matrix_parameters * 34 // 32 + 7 * 256 * 4
    assert llama.prefill_operations(3) == 2 * (3 * 3 * (4 * 256 * 256 + 3 * 256 * 768) + 1024 * 256)
    assert llama.shape is None


def test_the_full_size_encoder_is_half_a_trillion_operations():
    full = VisionSizes(1408, 39, 6144, 14, 32, 768, 12, 3072, tuple(range(0, 12, 2)), 4096, 257)
    weights = 39 * 2 * 257 * (4 * 1408 * 1408 + 2 * 1408 * 6144)
    assert round(weights / 1e12, 3) == 0.506
    assert full.encoder_operations == weights + 39 * 4 * 257 * 257 * 1408 + 2 * 256 * 588 * 1408


@pytest.fixture
def model():
    bundle = read_bundle(default_bundle())
    model = load_language_model(bundle, resolve(bundle, Options(threads=1, conversations=2)).language_model)
    yield model
    model.close()


def test_fixed_tokens_are_said_in_order_and_the_next_answer_after_them(model):
    fixed = FixedTokens(model, [(11, 12, 13), (21, 22, 23)])
    said = []
    position = 0
    for _ in range(2):
        fixed.rewind(1, position)
        logits = fixed.evaluate([TokenSegment(1, position, (5, 6, 7))])
        position += 3
        for _ in range(3):
            said.append(int(logits[0].argmax()))
            logits = fixed.evaluate([TokenSegment(1, position, (said[-1],))])
            position += 1
    assert said == [11, 12, 13, 21, 22, 23]
    assert len(fixed.steps) == 6  # the last token of each answer is evaluated here, too
    assert fixed.seconds > 0


def test_fixed_tokens_of_several_sequences_do_not_mix(model):
    fixed = FixedTokens(model, [(11, 12, 13)])
    fixed.evaluate([TokenSegment(0, 0, (5, 6))])
    for sequence in (1, 2):
        fixed.fork(0, sequence, 2)
    first = fixed.evaluate([TokenSegment(1, 2, (7,)), TokenSegment(2, 2, (8, 9))])
    assert first.argmax(axis=1).tolist() == [11, 11]
    second = fixed.evaluate([TokenSegment(1, 3, (11,))])
    assert second.argmax(axis=1).tolist() == [12]
    third = fixed.evaluate([TokenSegment(1, 4, (12,)), TokenSegment(2, 4, (11,))])
    assert third.argmax(axis=1).tolist() == [13, 12]


def test_fixed_tokens_are_a_whole_language_model(model):
    fixed = FixedTokens(model, [(11, 12, 13)])
    for name in (name for name in vars(LanguageModel) if not name.startswith("_")):
        assert hasattr(fixed, name), name
    assert (fixed.info, fixed.identity, fixed.n_batch) == (model.info, model.identity, model.n_batch)
    assert fixed.token_bytes(300) == model.token_bytes(300)
    fixed.set_threads(1, 1)
    fixed.evaluate([TokenSegment(1, 0, (5, 6))])
    kept = model.snapshot(1)
    assert fixed.snapshot(1) == kept
    fixed.rewind(1, 0)
    assert model.snapshot(1) != kept
    fixed.restore(1, kept)
    assert model.snapshot(1) == kept


def test_a_prompt_of_any_length_is_evaluated_in_chunks(model):
    after, full = (7,) * (model.n_batch + 3), model.n_batch
    embeds = np.random.default_rng(0).standard_normal((2, model.n_embd), np.float32)
    logits = put_prompt(model, 1, [5, 6], embeds, after)
    model.rewind(1, 0)
    model.evaluate([TokenSegment(1, 0, (5, 6))])
    model.evaluate([EmbeddingSegment(1, 2, embeds)])
    model.evaluate([TokenSegment(1, 4, after[:full])])
    assert np.allclose(logits, model.evaluate([TokenSegment(1, 4 + full, after[full:])])[0], rtol=1e-5, atol=1e-4)


def test_fixed_answers_have_the_length_asked_for_and_no_end_of_sequence(model):
    answers = fixed_answers(model, 5, 300)
    assert [len(answer) for answer in answers] == [300] * 5
    assert len(set(answers[:4])) == 4
    assert not any(token < 3 for answer in answers for token in answer)  # 0 to 2 are special


def test_a_machine_that_others_use_is_noticed():
    # Ticks of user, nice, system, idle, iowait, irq, softirq, steal.
    before = [100, 0, 50, 1000, 10, 0, 0, 0]
    assert system.busy_share(before, [100, 0, 50, 1090, 20, 0, 0, 0]) == 0
    assert system.busy_share(before, [125, 0, 60, 1060, 15, 0, 0, 0]) == pytest.approx(0.35)
    assert system.busy_share(before, [100, 0, 50, 1080, 10, 0, 0, 20]) == pytest.approx(0.2)


def test_pictures_differ_and_repeat():
    assert photo(1) == photo(1)
    assert photo(1) != photo(2)


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(BundleError, match="not a bundle: no such directory"):
        Worker(ROLES["whole"], threads=1, bundle=str(tmp_path / "gone"), options={}, answer_tokens=1)


def test_the_peak_of_a_command_counts_its_children():
    child = "x = bytearray(80_000_000); import time; time.sleep(2)"
    parent = f"import subprocess, sys; y = bytearray(40_000_000); subprocess.run([sys.executable, '-c', {child!r}])"
    code, peak = measure([sys.executable, "-c", f"{parent}; sys.exit(3)"])
    assert code == 3
    assert 120e6 < peak.rss_anon < 200e6
    assert peak.seconds > 2
