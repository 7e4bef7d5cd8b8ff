"""`skingpt-bench run`: that every engine did the same work, and that the figures are what they say they are."""

import json
from dataclasses import replace
from itertools import groupby, pairwise

import jsonschema
import pytest
from skingpt_edge.benchmarks import cli
from skingpt_edge.benchmarks.measure import steps
from skingpt_edge.benchmarks.measure.model_sizes import vision_sizes
from skingpt_edge.benchmarks.measure.ratios import CPU_RATIOS, GPU_RATIOS
from skingpt_edge.benchmarks.measure.statistics import percentile
from skingpt_edge.benchmarks.measure.steps import Measurement
from skingpt_edge.benchmarks.measure.suites import SUITES
from skingpt_edge.benchmarks.measure.workers import ROLES, open_as_asked
from skingpt_edge.benchmarks.result_files import load_schema, read_results
from skingpt_edge.engines.errors import EngineError
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.resolving import resolve
from skingpt_edge.runtime.worker import Worker
from support import FORMAT_1, ROOT

SCHEMA = load_schema()
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
    assert set(SCHEMA["properties"]["ratios"]["properties"]) == {*CPU_RATIOS, *GPU_RATIOS}
    broken = {**results, "unknown": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_results_hold_the_options_asked_for_and_the_setup_they_became(results):
    asked = Options(prompt_snapshot=False, huge_pages=True)
    setup = resolve(read_bundle(default_bundle()), asked)
    assert results["setup"] == {"requested": asked.to_json(), "resolved": setup.to_json()}
    assert results["threads"] == setup.language_model.threads
    for part in ("vision_encoder", "qformer"):
        assert results["engines"][part]["engine"] == setup.vision.engine
    assert results["engines"]["language_model"]["threads"] == setup.language_model.threads
    assert results["engines"]["language_model"]["details"]


def test_every_field_of_the_schema_is_described():
    def undescribed(node, path):
        if isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                if "description" not in field and "description" not in definition(field):
                    yield f"{path}.{name}"
            for name, child in node.items():
                if name not in ("if", "then", "else"):  # what belongs to which version
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
    assert x["tokens_per_second_by_conversations"] == [1, 2, 4, 8]
    assert x["memory_by_conversations"] == list(QUICK.memory_conversations)
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
    assert next(entry["calls"] for entry in operators if entry["op"] == "MultiHeadAttention") == blocks
    other = vision_sizes(read_bundle(FORMAT_1)).depth
    before = results["profile"]["vision_encoder_before"]
    assert next(entry["calls"] for entry in before if entry["op"] == "Softmax") == other != blocks


def test_an_earlier_graph_that_is_none_costs_only_its_own_profile():
    bundle, graph = read_bundle(default_bundle()), ROOT / "README.md"
    run = Measurement(bundle, QUICK, Options(threads=1), before=graph)
    run._profile()
    assert run.found.operators
    assert not run.found.operators_before
    assert run.found.skipped[0].startswith("the profile of README.md: ")


def test_an_engine_without_a_profile_is_skipped_with_a_sentence():
    run = Measurement(read_bundle(default_bundle()), QUICK, Options(threads=1))
    run._setup = replace(run._setup, vision=replace(run._setup.vision, engine="other"))
    run._profile()
    assert not run.found.operators
    assert run.found.skipped == ["the vision encoder's profile: other has none on the CPU"]


def test_every_process_of_ours_gets_the_options_of_the_command_line(monkeypatch, tmp_path):
    """None is started: each is noted with what it would get, and the run ends there."""
    asked, started = [], []

    class Noted:
        def __init__(self, target, *, threads, **options):
            asked.append((target, threads, options))
            self.opened = {"peak_anon": 1}

        def __enter__(self):
            raise EngineError("noted")

        def __exit__(self, *_):
            pass

    def start(command, **_):
        started.append(Options(**json.loads(command[-1])))
        raise EngineError("noted")

    monkeypatch.setattr(steps, "Worker", Noted)
    monkeypatch.setattr(steps.subprocess, "Popen", start)
    command = ["run", str(default_bundle()), "--threads", "1", "--no-tuning", "-o", str(tmp_path / "results.json")]
    given = cli.make_parser().parse_args([*command, "--vision-engine", "onnxruntime", "--language-engine", "llama.cpp"])
    options = cli._options(given)
    engines = {"vision_engine": "onnxruntime", "language_engine": "llama.cpp"}
    expected = Options(**engines, threads=1, tuning=False, huge_pages=True)
    assert options == expected
    run = Measurement(read_bundle(default_bundle()), QUICK, options)
    parts = (run._vision_rounds, lambda: run._reports(1), run._scaling, run._memory_by_conversations, run._profile)
    for part in (*parts, run._starts):
        with pytest.raises(EngineError, match="noted"):
            part()
    assert started == [expected]
    assert [target for target, _, _ in asked] == [
        ROLES[role] for role in ("vision", "whole", "scaling", "memory", "operators")
    ]
    for _, threads, arguments in asked:
        got = Options(**arguments["options"])
        assert replace(got, conversations=1, cells=None) == expected
        assert threads == 1


def test_a_worker_opens_what_the_options_resolve_to():
    bundle, options = default_bundle(), Options(threads=1, kv_type="f16")
    opened, requested, setup = open_as_asked(str(bundle), options.to_json(), 1)
    assert opened.path == bundle
    assert requested == options
    assert setup == resolve(opened, options)
    with pytest.raises(EngineError, match="1 threads were resolved in a process started for 2"):
        open_as_asked(str(bundle), options.to_json(), 2)


def test_results_of_the_first_version_are_still_readable():
    found = read_results(ROOT / "benchmarks/results/xeon-2-cores/demo.json")
    assert found["schema"] == "skingpt-bench/1"
    assert "setup" not in found


def test_a_run_that_ends_early_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "_scaling", interrupted)
    file = tmp_path / "results.json"
    earlier = '{\n "schema": "skingpt-bench/2", "of": "an earlier run"}'
    file.write_text(earlier)
    assert cli.main(["run", str(default_bundle()), "--suite", "quick", "-o", str(file)]) == cli.INTERRUPTED
    assert file.read_text() == earlier
    part = tmp_path / "results.json.part"
    assert f"so far is in {part}" in capsys.readouterr().err
    results = json.loads(part.read_text())
    jsonschema.validate(results, SCHEMA)
    assert len(trials(results, OURS, "report")) == QUICK.trials
    missing = "which ended before: scaling, memory by conversations, profile of the vision encoder"
    assert f"the rest of this run, {missing}" in results["skipped"]
    assert results["ratios"]["start_to_ready"]["value"] > 0
    assert results["ratios"]["ten_samples_vs_ten_runs"]["value"] is None
    assert cli.main(["report", str(part), "-o", str(tmp_path / "report")]) == 0
    assert missing in (tmp_path / "report/report.md").read_text()


def test_our_report_says_the_fixed_answers_and_torch_the_same_number():
    arguments, options = {"threads": 1, "bundle": str(default_bundle())}, Options(threads=1, prompt_snapshot=False)
    with Worker(ROLES["whole"], options=options.to_json(), answer_tokens=5, **arguments) as ours:
        report = ours.ask("report")
    turns = report["turns"]
    assert [len(turn["answer"]) for turn in turns] == [5] * 4
    assert len({tuple(turn["answer"]) for turn in turns}) == 4
    assert all(turn["before"] == turns[0]["before"] for turn in turns)
    assert len(report["steps"]) == 4 * (5 - 1)
    with Worker(ROLES["torch"], engine="torch float32", whole=True, **arguments) as torch:
        assert torch.ask("report", turns=turns)["answer_tokens"] == [5] * 4


USAGE = [
    ["run", "x", "--suite", "huge"],
    ["run", "x", "--threads", "0"],
    ["run", "x", "--vision-engine", "tflite"],
    ["run", "x", "--language-engine", "onnxruntime"],
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
