"""`skingpt-bench run`: that every engine did the same work, and that the figures are what they say they are."""

import json
from itertools import groupby, pairwise

import jsonschema
import pytest
from skingpt_edge.benchmarks import cli
from skingpt_edge.benchmarks.figures import RATIOS, percentile
from skingpt_edge.benchmarks.measure import Measurement
from skingpt_edge.benchmarks.sizes import SUITES
from skingpt_edge.benchmarks.work import vision_sizes
from skingpt_edge.benchmarks.worker import Worker
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from support import FORMAT_1, ROOT

SCHEMA = json.loads((ROOT / "benchmarks/results.schema.json").read_text())
QUICK = SUITES["quick"]
OURS, F32, BF16 = "skingpt", "torch float32", "torch bfloat16"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "results.json"
    earlier = ["--before", str(FORMAT_1 / "vision_encoder.onnx")]
    command = ["run", str(default_bundle()), "--suite", "quick", "--baseline", "torch", *earlier, "-o", str(file)]
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
    assert set(SCHEMA["properties"]["ratios"]["properties"]) == set(RATIOS)
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


def test_the_profile_is_largest_first_and_for_one_picture(results):
    operators = results["profile"]["vision_encoder"]
    seconds = [entry["seconds"] for entry in operators]
    assert seconds == sorted(seconds, reverse=True)
    blocks = vision_sizes(read_bundle(default_bundle())).depth
    assert next(entry["calls"] for entry in operators if entry["op"] == "Softmax") == blocks
    other = vision_sizes(read_bundle(FORMAT_1)).depth
    before = results["profile"]["vision_encoder_before"]
    assert next(entry["calls"] for entry in before if entry["op"] == "Softmax") == other != blocks


def test_an_earlier_graph_that_is_none_costs_only_its_own_profile():
    bundle, graph = read_bundle(default_bundle()), ROOT / "README.md"
    measurement = Measurement(bundle, SUITES["quick"], 1, (), ("cpu", "cpu"), graph)
    measurement._profile()
    assert measurement.found.operators
    assert not measurement.found.operators_before
    assert measurement.found.skipped[0].startswith("the profile of README.md: ")


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


USAGE = [
    ["run", "x", "--suite", "huge"],
    ["run", "x", "--threads", "0"],
    ["run", "x", "-o", "/no/such/folder/results.json"],
    ["run", "x", "-o", "/dev/null"],
    ["run", "x", "--before", "/no/such/encoder.onnx"],
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
