"""`skingpt-bench run`: that every engine did the same work, and that the figures are what they say they are."""

import json
from itertools import groupby, pairwise

import jsonschema
import pytest
from skingpt_edge.benchmarks import cli, energy, machine
from skingpt_edge.benchmarks.figures import RATIOS, percentile, quotient, ratio, stage, statistics
from skingpt_edge.benchmarks.fixed_work import FixedTokens, fixed_answers, photo
from skingpt_edge.benchmarks.measure import Measurement
from skingpt_edge.benchmarks.operators import by_operator
from skingpt_edge.benchmarks.sizes import SUITES
from skingpt_edge.benchmarks.work import VisionSizes, llama_sizes, vision_sizes
from skingpt_edge.benchmarks.worker import Worker
from skingpt_edge.engines.base import Run
from skingpt_edge.engines.errors import EngineError
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.skingpt import open_language_model
from support import ROOT

SCHEMA = json.loads((ROOT / "benchmarks/results.schema.json").read_text())
QUICK = SUITES["quick"]
OURS, F32, BF16 = "skingpt", "torch float32", "torch bfloat16"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "results.json"
    command = ["run", str(default_bundle()), "--suite", "quick", "--baseline", "torch", "-o", str(file)]
    assert cli.main(command) == 0
    assert list(file.parent.iterdir()) == [file]
    return json.loads(file.read_text())


def trials(results, engine, name, state="warm"):
    return next(
        entry["seconds"]["trials"]
        for entry in results["stages"]
        if (entry["engine"], entry["stage"], entry["state"]) == (engine, name, state)
    )


def test_results_are_what_the_schema_documents(results):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(results, SCHEMA)
    broken = {**results, "unknown": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_every_field_of_the_schema_is_described():
    def undescribed(node, path):
        if isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                if "description" not in field and "description" not in definition(field):
                    yield f"{path}.{name}"
            for name, child in node.items():
                yield from undescribed(child, f"{path}.{name}")
        elif isinstance(node, list):
            for child in node:
                yield from undescribed(child, path)

    def definition(field):
        return SCHEMA["$defs"].get(field.get("$ref", "").removeprefix("#/$defs/"), {})

    assert list(undescribed(SCHEMA, "")) == []


def test_every_stage_was_measured_cold_and_warm_by_every_engine(results):
    found = {(entry["engine"], entry["stage"], entry["state"]) for entry in results["stages"]}
    assert len(found) == len(results["stages"])
    vision = {"vision_encoder", "qformer"}
    ours = {"image_decode", "preprocess", "prefill_system", "prefill_image", "prefill_question"} | vision
    ours |= {"first_token", "next_token", "report"}
    for state in ("cold", "warm"):
        assert {(OURS, name, state) for name in ours} <= found
        assert {(engine, name, state) for engine in (F32, BF16) for name in (*vision, "first_token")} <= found
    assert (OURS, "process_start", "cold") in found
    assert {(engine, name, "warm") for engine in (F32, BF16) for name in ("next_token", "report")} <= found


def test_trials_that_are_paired_are_as_many(results):
    for name in ("vision_encoder", "qformer", "first_token", "report"):
        assert [len(trials(results, engine, name)) for engine in (OURS, F32, BF16)] == [QUICK.trials] * 3
    counts = [len(trials(results, engine, "next_token")) for engine in (OURS, F32, BF16)]
    assert counts == [2 * QUICK.decode_steps] * 3


def test_percentiles_are_ordered_and_limits_are_quotients(results):
    for entry in results["stages"]:
        seconds = entry["seconds"]
        assert 0 < seconds["min"] <= seconds["p50"] <= seconds["p90"] <= seconds["p99"] <= max(seconds["trials"])
        if entry["limit"]:
            assert entry["engine"] == OURS
            assert entry["limit"]["share"] == pytest.approx(entry["limit"]["seconds"] / seconds["p50"])


def test_ratios_are_quotients_of_the_stages_recorded(results):
    for key, entry in results["ratios"].items():
        assert entry["low"] <= entry["value"] <= entry["high"], key
        assert entry["target"] is None, "the demonstration bundle has no targets"
    ratios = results["ratios"]
    for engine, name in ((F32, "vision_vs_torch_float32"), (BF16, "vision_vs_torch_bfloat16")):
        ours, other = (
            [a + b for a, b in zip(trials(results, e, "vision_encoder"), trials(results, e, "qformer"), strict=True)]
            for e in (OURS, engine)
        )
        assert ratios[name]["value"] == pytest.approx(percentile(other, 50) / percentile(ours, 50))
    for key, name in (("decode", "next_token"), ("first_token", "first_token"), ("report", "report")):
        medians = [percentile(trials(results, engine, name), 50) for engine in (BF16, OURS)]
        assert ratios[f"{key}_vs_torch_bfloat16"]["value"] == pytest.approx(medians[0] / medians[1])
    curve = {p["x"]: p["p50"] for p in results["growth"]["tokens_per_second_by_conversations"]["points"]}
    assert ratios["four_conversations_vs_one"]["value"] == pytest.approx(curve[4] / curve[1])
    turns = {p["x"]: p["p50"] for p in results["growth"]["first_token_by_turn"]["points"]}
    assert ratios["follow_up_turn10_vs_turn2"]["value"] == pytest.approx(turns[10] / turns[2])


def test_growth_has_the_points_that_were_asked_for(results):
    growth = results["growth"]
    x = {name: [point["x"] for point in curve["points"]] for name, curve in growth.items()}
    assert x["first_token_by_turn"] == list(range(1, 11))
    assert x["tokens_per_second_by_conversations"] == x["memory_by_conversations"] == [1, 2, 4, 8]
    assert x["images_per_second_by_batch"] == list(QUICK.batches)
    lengths = x["first_token_by_prompt_length"]
    assert len(lengths) == len(QUICK.question_lengths)
    assert all(longer > shorter for shorter, longer in pairwise(lengths))


def test_memory_is_of_each_engine_and_its_peak_is_the_most(results):
    engines = [engine for engine, _ in groupby(results["memory"], lambda entry: entry["engine"])]
    assert engines == [OURS, F32, BF16]
    for entry in results["memory"]:
        assert entry["peak_anon"] >= entry["rss_anon"] > 0
    assert [e["stage"] for e in results["memory"] if e["engine"] == OURS][-1] == "huge_pages"


def test_energy_that_is_not_there_says_why(results):
    found = results["energy"]
    assert (found["source"] is None) == (found["joules_per_answer"] is None)
    if found["source"] is None:
        assert "unavailable" in found["note"]
        assert any("energy" in line for line in results["skipped"])


def rapl_package(folder, joules, highest=10**9):
    zone = folder / "intel-rapl:0"
    zone.mkdir(exist_ok=True)
    (folder / "intel-rapl:0:0").mkdir(exist_ok=True)  # a part of the package, not to be counted again
    (zone / "energy_uj").write_text(str(round(joules * 1e6)))
    (zone / "max_energy_range_uj").write_text(str(highest))


def test_energy_is_counted_across_the_counters_wrap_around(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    rapl_package(tmp_path, 999)
    meter = energy.start()
    rapl_package(tmp_path, 7)
    found = energy.per_answer(meter, 4)
    assert found["source"] == "rapl"
    assert found["joules_per_answer"] == pytest.approx(8 / 4)


def test_the_profile_is_largest_first_and_for_one_picture(results):
    operators = results["profile"]["vision_encoder"]
    seconds = [entry["seconds"] for entry in operators]
    assert seconds == sorted(seconds, reverse=True)
    blocks = vision_sizes(read_bundle(default_bundle())).depth
    assert next(entry["calls"] for entry in operators if entry["op"] == "Softmax") == blocks


def test_the_profile_leaves_out_the_first_runs():
    def run(start, duration):
        args = {"op_name": "MatMul"}
        kernel = {"cat": "Node", "name": "a_kernel_time", "ts": start, "dur": duration, "args": args}
        return [kernel, {"cat": "Session", "name": "model_run", "ts": start - 1, "dur": duration + 2}]

    events = [*run(10, 1000), *run(2000, 30), *run(3000, 50)]
    assert by_operator(events, 1, 2) == [{"op": "MatMul", "calls": 1, "seconds": pytest.approx(40e-6)}]


def test_percentiles_of_a_known_vector():
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert statistics(values) == {"trials": values, "p50": 35, "p90": 46, "p99": pytest.approx(49.6), "min": 15}
    assert percentile([3.0], 99) == 3
    assert percentile([1.0, 2.0], 50) == 1.5


def test_quotients_are_paired_by_number_and_else_each_with_each():
    assert quotient([10, 20, 30], [1, 2, 3]) == (10, 10, 10)
    assert quotient([10, 20], [1, 2, 4]) == (7.5, 2.5, 20)


def test_a_target_is_met_or_missed_and_absent_for_other_sizes():
    key = "decode_vs_torch_bfloat16"
    assert ratio(key, [8.0], shape="7b")["met"] is True
    assert ratio(key, [7.0], shape="7b")["met"] is False
    assert ratio(key, [7.0], shape="7b")["target"] == {"at_least": 7.5}
    assert ratio(key, [8.0], shape="13b")["met"] is None
    assert ratio("peak_memory", [10.8], shape="13b")["met"] is True
    assert ratio("peak_memory", [6.3], shape="7b")["met"] is False
    unmeasured = ratio(key, [], [1.0, 2.0], shape="7b", note="why")
    assert (unmeasured["value"], unmeasured["met"], unmeasured["trials"]) == (None, None, 0)
    assert set(SCHEMA["properties"]["ratios"]["properties"]) == set(RATIOS)


def test_a_limit_is_a_share_of_the_median():
    entry = stage(OURS, "next_token", "warm", [0.2, 0.4, 0.3], ("read_bandwidth", 0.15))
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
    model = open_language_model(read_bundle(default_bundle()), Options(threads=1, conversations=2))
    yield model
    model.close()


def test_fixed_tokens_are_said_in_order_and_the_next_answer_after_them(model):
    fixed = FixedTokens(model, [(11, 12, 13), (21, 22, 23)])
    said = []
    position = 0
    for _ in range(2):
        fixed.rewind(1, position)
        fixed.evaluate_tokens(1, position, [5, 6, 7])
        position += 3
        for _ in range(3):
            said.append(int(fixed.logits().argmax()))
            fixed.evaluate_tokens(1, position, said[-1:])
            position += 1
    assert said == [11, 12, 13, 21, 22, 23]
    assert len(fixed.steps) == 4
    assert fixed.seconds > 0


def test_fixed_tokens_of_several_sequences_do_not_mix(model):
    fixed = FixedTokens(model, [(11, 12, 13)])
    fixed.evaluate_tokens(0, 0, [5, 6])
    for sequence in (1, 2):
        fixed.fork(0, sequence, 2)
    first = fixed.evaluate_together([Run(1, 2, (7,)), Run(2, 2, (8, 9))])
    assert first.argmax(axis=1).tolist() == [11, 11]
    second = fixed.evaluate_together([Run(1, 3, (11,))])
    assert second.argmax(axis=1).tolist() == [12]
    third = fixed.evaluate_together([Run(1, 4, (12,)), Run(2, 4, (11,))])
    assert third.argmax(axis=1).tolist() == [13, 12]


def test_fixed_answers_have_the_length_asked_for_and_no_end_of_sequence(model):
    answers = fixed_answers(model, 5, 300)
    assert [len(answer) for answer in answers] == [300] * 5
    assert len(set(answers[:4])) == 4
    assert not any(model.eos in answer for answer in answers)


def test_a_run_that_ends_early_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "_growth", interrupted)
    file = tmp_path / "results.json"
    file.write_text("an earlier run's")
    assert cli.main(["run", str(default_bundle()), "--suite", "quick", "-o", str(file)]) == cli.INTERRUPTED
    assert file.read_text() == "an earlier run's"
    part = tmp_path / "results.json.part"
    assert f"so far is in {part}" in capsys.readouterr().err
    results = json.loads(part.read_text())
    jsonschema.validate(results, SCHEMA)
    assert len(trials(results, OURS, "report")) == QUICK.trials
    missing = "the rest of this run, which ended before: growth, memory by conversations, profile of the vision encoder"
    assert missing in results["skipped"]
    assert results["ratios"]["start_to_ready"]["value"] > 0
    assert results["ratios"]["ten_samples_vs_ten_runs"]["value"] is None
    assert cli.main(["report", str(part), "-o", str(tmp_path / "report")]) == 0
    assert missing in (tmp_path / "report/report.md").read_text()


def test_our_report_says_the_fixed_answers_and_torch_the_same_number():
    options = {"threads": 1, "bundle": str(default_bundle())}
    with Worker("skingpt", answer_tokens=5, **options) as ours:
        report = ours.ask("report")
    turns = report["turns"]
    assert [len(turn["answer"]) for turn in turns] == [5] * 4
    assert len({tuple(turn["answer"]) for turn in turns}) == 4
    assert all(turn["before"] == turns[0]["before"] for turn in turns)
    assert len(report["steps"]) == 4 * (5 - 1)
    with Worker("torch", dtype="float32", whole=True, **options) as torch:
        assert torch.ask("report", turns=turns)["answer_tokens"] == [5] * 4


def test_a_machine_that_others_use_is_noticed():
    # Ticks of user, nice, system, idle, iowait, irq, softirq, steal.
    before = [100, 0, 50, 1000, 10, 0, 0, 0]
    assert machine.busy_share(before, [100, 0, 50, 1090, 20, 0, 0, 0]) == 0
    assert machine.busy_share(before, [125, 0, 60, 1060, 15, 0, 0, 0]) == pytest.approx(0.35)
    assert machine.busy_share(before, [100, 0, 50, 1080, 10, 0, 0, 20]) == pytest.approx(0.2)


def test_pictures_differ_and_repeat():
    assert photo(1) == photo(1)
    assert photo(1) != photo(2)


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(EngineError, match="not a bundle: no such directory"):
        Worker("skingpt", threads=1, bundle=str(tmp_path / "gone"), answer_tokens=1)


USAGE = [
    ["run", "x", "--suite", "huge"],
    ["run", "x", "--threads", "0"],
    ["run", "x", "-o", "/no/such/folder/results.json"],
    ["run", "x", "-o", "/dev/null"],
    ["report", "x"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_wrong_bundle_is_4(tmp_path, capsys):
    assert cli.main(["run", str(tmp_path / "gone")]) == 4
    assert "not a bundle" in capsys.readouterr().err
