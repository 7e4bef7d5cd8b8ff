"""The types of a language model measured beside each other, and the choice between them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines.errors import ExportError
from skingpt_edge.export.compare import WHOLE, choose, table
from skingpt_edge.export.compare_plot import plot_types
from skingpt_edge.export.demo.conditions import VALUES
from skingpt_edge.export.forced import agreeing, divergence
from skingpt_edge.runtime.bundle import read_bundle
from skingpt_edge.runtime.manifest import TypeFigures
from skingpt_edge.runtime.skingpt import SkinGPT
from support import CHECKPOINT, GOLDEN, export, run

ROW = TypeFigures(WHOLE, False, 100, 10.0, 1.0, 1000, 998, 0.001, 0, 0)
FINE = replace(ROW, type="q8_0", token_ms=8, agreeing=995)
COARSE = replace(ROW, type="q4_0", token_ms=5, agreeing=900)


@pytest.fixture(scope="module")
def automatic(tmp_path_factory):
    """A bundle whose type was chosen."""
    folder = tmp_path_factory.mktemp("auto") / "bundle"
    result = export(folder, "f32", "auto", "--accept-parity")
    assert result.returncode == 0, result.stderr
    return folder, result.stderr


def test_auto_takes_a_type_and_keeps_the_figures_of_all(automatic):
    folder, said = automatic
    bundle = read_bundle(folder)
    rows = {row.type: row for row in bundle.manifest.compared_types}
    assert list(rows) == [WHOLE, "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "iq4_xs"]
    chosen = rows[bundle.manifest.llm.type]
    assert chosen == choose(list(rows.values()))
    assert f"taking {chosen.type}" in said
    assert bundle.manifest.files["llm.gguf"].size == chosen.size
    assert {path.name for path in folder.iterdir()} == {*bundle.manifest.files, "bundle.json"}
    with SkinGPT.open(folder) as model:
        assert model.ask(model.embed((GOLDEN / "images/00.jpg").read_bytes()), "What is it?").token_ids


def test_finer_types_are_larger_and_nearer_to_the_original(automatic):
    rows = {row.type: row for row in read_bundle(automatic[0]).manifest.compared_types}
    sizes = [rows[name].size for name in (WHOLE, "q8_0", "q6_k", "q5_k_m", "q4_k_m")]
    assert sizes == sorted(sizes, reverse=True)
    divergences = [rows[name].divergence for name in (WHOLE, "q8_0", "q6_k", "q4_0")]
    assert divergences == sorted(divergences)
    assert rows[WHOLE].agreeing >= 0.97 * rows[WHOLE].tokens
    assert all(row.token_ms > 0 and row.prompt_ms > 0 for row in rows.values())


def test_the_fastest_type_within_a_point_is_chosen():
    assert choose([ROW, FINE, COARSE]) == FINE
    assert choose([ROW, FINE, replace(COARSE, agreeing=988)]).type == "q4_0"
    assert choose([ROW, FINE, replace(COARSE, agreeing=987)]) == FINE
    with pytest.raises(ExportError, match="no type is within a point"):
        choose([replace(ROW, agreeing=100)])


def test_fidelity_is_what_its_formulas_say():
    expected = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    found = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32)) + 3  # logits have no zero
    assert agreeing(expected, found) == 1
    assert divergence(expected, found) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2), abs=1e-6)


def test_the_table_and_the_plot_show_attributes_only_where_they_were_counted(tmp_path):
    counted = [replace(row, right=900, of=1000, calibrated=row.type == "q4_0") for row in (ROW, FINE, COARSE)]
    assert "attributes right" not in table([ROW, FINE])
    assert "| q4_0, calibrated |" in table(counted)
    assert "90.0% (88.0%–91.7%)" in table(counted)
    # Rounding would move bounds of these to the wrong side.
    counted += [replace(ROW, tokens=144, agreeing=144), replace(ROW, tokens=31, agreeing=0)]
    plot_types(counted, "model", tmp_path / "types.png")
    assert (tmp_path / "types.png").stat().st_size > 10_000


def test_unknown_types_and_a_folder_with_content_are_refused_first(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").touch()
    usual = ["--vit", "v", "--qformer", "q", "--adapter", "a", "--llm", "l"]
    refused = run("skingpt-export", "compare", *usual, "-o", tmp_path / "results")
    assert (refused.returncode, "not empty" in refused.stderr) == (4, True)
    for types, said in (
        ("q8_0,q9", "'q9' cannot be compared"), ("auto", "'auto' cannot be compared"), ("f32", "'f32' cannot be"),
        ("q8_0,q6_k,q8_0", "a type stands twice"),
    ):  # fmt: skip
        refused = run("skingpt-export", "compare", *usual, "-o", tmp_path / "new", "--types", types)
        assert (refused.returncode, said in refused.stderr) == (4, True), refused.stderr
    refused = run("skingpt-export", "compare", *usual, "-o", tmp_path / "new", "--count", "0")
    assert (refused.returncode, "pictures is 0" in refused.stderr) == (3, True), refused.stderr
    refused = run("skingpt-export", "synth", "--shape", "tiny", "--llm-type", "auto", "-o", tmp_path / "new")
    assert (refused.returncode, "name a type" in refused.stderr) == (4, True), refused.stderr


def test_of_random_weights_size_and_speed_are_compared(tmp_path):
    result = run("skingpt-export", "compare", "--shape", "tiny", "-o", tmp_path / "out", "--types", "q8_0,q4_0")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out/types.json").read_text())
    assert [row["type"] for row in rows] == [WHOLE, "q8_0", "q4_0"]
    assert [row["size"] for row in rows] == sorted((row["size"] for row in rows), reverse=True)
    assert all(row["token_ms"] > 0 and row["prompt_ms"] > 0 and row["tokens"] == 0 for row in rows)
    head, *_ = (tmp_path / "out/types.md").read_text().splitlines()
    assert head == "| type | MB | ms a token | ms an item of a prompt |"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["types.json", "types.md", "types.png"]


def test_either_a_shape_or_all_checkpoints_are_compared(tmp_path):
    for given, said in (
        (["--shape", "tiny", "--llm", "l", "--count", "5"], "random weights, which have no use for --llm, --count"),
        (["--llm", "l", "--vit", "v"], "--qformer, --adapter missing"),
    ):
        refused = run("skingpt-export", "compare", *given, "-o", tmp_path / "new")
        assert (refused.returncode, said in refused.stderr) == (4, True), refused.stderr
        assert not (tmp_path / "new").exists()


def test_compare_measures_types_with_and_without_calibration(tmp_path):
    reports = tmp_path / "reports"
    reports.mkdir()
    shutil.copy(GOLDEN / "images/00.jpg", reports / "00.jpg")
    (reports / "00.txt").write_text("It is red.\n\nIt has no scale.")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(GOLDEN / "images/00.jpg", pictures)
    sources = {"vit": "eva_vit_g.pth", "qformer": "blip2_pretrained.pth", "adapter": "skingpt4.pth", "llm": "llm"}
    given = [word for name, file in sources.items() for word in (f"--{name}", CHECKPOINT / file)]
    result = run(
        "skingpt-export", "compare", *given, "-o", tmp_path / "out", "--vision", "f32", "--types", "q4_0,iq2_xxs",
        "--calibrate", reports, "--pictures", pictures, "--count", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "iq2_xxs: left out" in result.stderr
    rows = json.loads((tmp_path / "out/types.json").read_text())
    assert [(row["type"], row["calibrated"]) for row in rows] == [
        (WHOLE, False), ("q4_0", False), ("q4_0", True), ("iq2_xxs", True),
    ]  # fmt: skip
    assert all(row["of"] == len(VALUES) for row in rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["types.json", "types.md", "types.png"]
