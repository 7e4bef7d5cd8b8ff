"""`python -m skingpt_edge.benchmarks.rows`: that each call has the rows it is listed with."""

import sys

import pytest
from skingpt_edge.benchmarks import rows
from skingpt_edge.engines.gguf_header import import_llama_cpp
from support import FORMAT_1

LLM = FORMAT_1 / "llm.gguf"


def test_every_trial_is_one_call_of_so_many_rows(monkeypatch):
    lib, counts = import_llama_cpp(), []
    plain = lib.llama_decode
    monkeypatch.setattr(
        lib, "llama_decode", lambda context, batch: counts.append(batch.n_tokens) or plain(context, batch)
    )
    found = rows.measure(LLM, 1, "f16", amx=False, rounds=2)
    assert counts == [rows.PREFIX, *[*rows.ANSWERS, *rows.PROMPTS] * 3]
    assert [(timing.rows, len(timing.seconds)) for timing in found] == [(n, 2) for n in (*rows.ANSWERS, *rows.PROMPTS)]


@pytest.mark.parametrize(("works", "layouts"), [(False, ["no AMX"]), (True, ["AMX", "no AMX"])])
def test_the_command_prints_a_row_for_each_size_and_layout(works, layouts, monkeypatch, capsys):
    asked, plain = [], rows.measure
    monkeypatch.setattr(sys, "argv", ["rows", str(LLM), "--threads", "1"])
    monkeypatch.setattr(rows, "amx_works", lambda: works)
    monkeypatch.setattr(rows, "measure", lambda *a, amx: asked.append(amx) or plain(*a, amx=False, rounds=1))
    rows.main()
    assert asked == [layout == "AMX" for layout in layouts]
    tables = [table.splitlines() for table in capsys.readouterr().out.removeprefix("## ").split("\n\n## ")]
    assert [table[0].rsplit(", ", 1)[1] for table in tables] == layouts
    for table in tables:
        assert [line.split(" | ")[0] for line in table[4:] if line] == [
            *(f"| answers, {n}" for n in rows.ANSWERS),
            *(f"| prompt, {n}" for n in rows.PROMPTS),
        ]
