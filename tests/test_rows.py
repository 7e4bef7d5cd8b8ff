"""`python -m skingpt_edge.benchmarks.rows`: that each call has the rows it is listed with."""

import sys

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
    found = rows.measure(LLM, 1, "f16", rounds=2)
    assert counts == [rows.PREFIX, *[*rows.ANSWERS, *rows.PROMPTS] * 3]
    assert [(timing.rows, len(timing.seconds)) for timing in found] == [(n, 2) for n in (*rows.ANSWERS, *rows.PROMPTS)]


def test_the_command_prints_a_row_for_each_size(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rows", str(LLM), "--threads", "1"])
    rows.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("llm.gguf, ")
    assert [line.split(" | ")[0] for line in lines[4:-1]] == [
        *(f"| answers, {n}" for n in rows.ANSWERS),
        *(f"| prompt, {n}" for n in rows.PROMPTS),
    ]
