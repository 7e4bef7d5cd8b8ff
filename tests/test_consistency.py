"""`diagnose --samples`: how far sampled answers agree."""

import json
from importlib.resources import files

import jsonschema
import pytest
from skingpt_edge.engines.errors import InputError
from skingpt_edge.runtime.condition_names import condition_named, read_conditions
from support import ROOT, run

PICTURE = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[0]
SCHEMA = json.loads((files("skingpt_edge.runtime") / "report.schema.json").read_text())


def samples(*options):
    result = run("skingpt", "diagnose", PICTURE, "--samples", "5", "--json", *options)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA)
    return document


def test_a_model_that_is_sure_agrees_with_itself_and_repeats_with_its_seed():
    first, again = samples("--seed", "5"), samples("--seed", "5")
    assert first == again
    assert len(first["samples"]) == 5
    assert first["agreement"] == 1.0
    assert first["conditions"] == [{"condition": "velora", "count": 5}]


def test_agreement_is_counted_over_all_answers_also_those_that_name_none():
    document = samples("--temperature", "4", "--top-p", "1", "--max-new-tokens", "30")
    counts = {item["condition"]: item["count"] for item in document["conditions"]}
    assert sum(counts.values()) == 5
    named = [count for condition, count in counts.items() if condition]
    assert document["agreement"] == max(named, default=0) / 5
    assert document["agreement"] < 1


def test_a_person_reads_each_answer_and_the_agreement():
    result = run("skingpt", "diagnose", PICTURE, "--samples", "3")
    assert result.stdout.count("[velora]") == 3
    assert "100% of 3 answers name the same condition (velora 3)" in result.stdout
    assert "Not for diagnosis" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "0"), "--samples is 0"),
        (("--samples", "2", "--html", "x.html"), "no page of samples"),
        (("--reproducible",), "need --samples"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tmp_path):
    result = run("skingpt", "diagnose", PICTURE, *options, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


def test_the_condition_named_first_counts_as_whole_words():
    known = ("eczema", "lupus", "lupus erythematosus", "mole")
    assert condition_named("Not Eczema but lupus.", known) == "eczema"
    assert condition_named("Lupus erythematosus or eczema", known) == "lupus erythematosus"
    assert condition_named("molecules", known) is None


def test_a_list_of_conditions_can_be_given_and_must_name_some(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("# none\n\n")
    with pytest.raises(InputError, match="names no condition"):
        read_conditions(own)
    own.write_text("made-up  # mine\n")
    assert read_conditions(own) == ("made-up",)
    for encoding in ("utf-8-sig", "utf-16"):
        own.write_text("lupus\n", encoding=encoding)
        assert read_conditions(own) == ("lupus",)
    own.write_text("lupus\n", encoding="utf-32")
    with pytest.raises(InputError, match="save it as UTF-8"):
        read_conditions(own)
    assert {"psoriasis", "velora"} <= set(read_conditions())
