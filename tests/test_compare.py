"""The types of a language model measured beside each other, and the choice between them."""

from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines.errors import ExportError
from skingpt_edge.export.compare import POINT, WHOLE, choose, loss, table
from skingpt_edge.export.compare_plot import plot_types
from skingpt_edge.export.forced import agreeing, divergence
from skingpt_edge.runtime.bundle import read_bundle
from skingpt_edge.runtime.manifest import TypeFigures
from skingpt_edge.runtime.skingpt import SkinGPT
from support import GOLDEN, export, run

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
    near = replace(COARSE, agreeing=988)
    assert loss(near, [ROW, near]) == pytest.approx(POINT)
    assert choose([ROW, FINE, replace(COARSE, agreeing=989)]).type == "q4_0"
    # Where attributes are counted, they decide; the limits of parity hold all the same.
    counted = [replace(row, right=right, of=1000) for row, right in ((ROW, 900), (FINE, 880), (COARSE, 895))]
    assert choose(counted).type == "q4_0"
    assert choose([*counted[:2], replace(counted[2], agreeing=300)]).type == WHOLE
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
    plot_types(counted, "model", tmp_path / "types.png")
    assert (tmp_path / "types.png").stat().st_size > 10_000


def test_unknown_types_and_a_folder_with_content_are_refused_first(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").touch()
    usual = ["--vit", "v", "--qformer", "q", "--adapter", "a", "--llm", "l"]
    refused = run("skingpt-export", "compare", *usual, "-o", tmp_path / "results")
    assert (refused.returncode, "not empty" in refused.stderr) == (4, True)
    refused = run("skingpt-export", "compare", *usual, "-o", tmp_path / "new", "--types", "q8_0,q9")
    assert (refused.returncode, "llm type 'q9' is unknown" in refused.stderr) == (4, True)
